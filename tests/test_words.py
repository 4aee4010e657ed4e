"""One vocabulary: docs/ and the package's prose use the field's words, not private ones.

Prose is what people read: pages, comments, docstrings and messages. Names of variables are not
looked at, and neither are values that files hold.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))
FOLDERS = ("tvm_costmodel", "models", "profiling")

WORDS = {
    r"undecided": "the baseline, the default build",
    r"(as|by|in|into|from|of|on|reads?|to|with) halves": "float16 values, mixed precision",
    r"likeness": "cache key, similarity",
    r"beliefs?|vouch(es)?": "posterior, similarity term",
    r"(roofline|cell|edge) process(es)?": "roofline_gp, cell_gp, EdgeGP",
    r"(roofline|kernel) formers?": "RooflineFormer, KernelFormer",
    r"made-up": "synthetic",
    r"(held|hold|holds) (\w+ )?against": "compared with",
    r"begun at|begins at": "initialised from, starts at",
    r"(tell|tells|told) of": "describes",
    r"replicas?": "ensemble members",
    r"candidates?'?s? digits|digits of (a |the )?(candidate|space)s?": "candidate encoding",
    r"price[sd]?|pricing": "cost, costed",
    r"dear": "expensive",
    r"beside": "next to, together with, paired with",
    r"mends?": "fixes",
    r"(take|takes|taking|took|in) turns": "interleaved",
}
"""What is not said, as a pattern of whole words, and what is said instead."""

SERIALISED = frozenset(
    {
        "beside",
        "price",
        "what convolutions and matrix products read, stored as halves; sums stay in float32",
    }
)
"""String literals that stored files hold, or hashes of which they hold."""

PATTERN = re.compile(
    r"\b(?:" + "|".join(words.replace(" ", r"\s+") for words in WORDS) + r")\b", re.I
)
PROSE = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
FIELD = re.compile(r"\{[^{}]*\}")  # of an f-string: code, not prose
QUOTED = re.compile("``(" + "|".join(sorted(SERIALISED)) + ")``")


def prose_of(text: str) -> Iterator[tuple[int, str]]:
    """Comments and string literals of a Python file, each with its line number."""
    start, comment = 0, ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            start = start if comment else token.start[0]
            comment += token.string.lstrip("# ") + "\n"
        elif token.type not in (tokenize.NL, tokenize.INDENT) and comment:
            yield start, QUOTED.sub("", comment)
            comment = ""
        if token.type in PROSE and token.string.strip("\"'") not in SERIALISED:
            is_format = "f" in token.string[:2].lower() and token.string[0] not in "\"'"
            string = FIELD.sub("{}", token.string) if is_format else token.string
            yield token.start[0], QUOTED.sub("", string)


def hits(path: Path) -> Iterator[str]:
    text = path.read_text()
    if PATTERN.search(text):
        parts = prose_of(text) if path.suffix == ".py" else [(1, text)]
        for line, part in parts:
            for match in PATTERN.finditer(part):
                at = line + part.count("\n", 0, match.start())
                yield f"  {path.relative_to(ROOT)}:{at}: {' '.join(match[0].split())}"


def files() -> Iterator[Path]:
    yield from PAGES
    for folder in FOLDERS:
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_prose_uses_the_words_of_the_field() -> None:
    found = [hit for path in dict.fromkeys(files()) for hit in hits(path)]
    assert not found, "\n".join(
        ["", *found, "", *(f"not {word!r} but: {instead}" for word, instead in WORDS.items())]
    )


def test_private_words_are_found_and_plain_english_is_not() -> None:
    text = '''
x = "priced"  # an undecided network
"""The roofline
former."""
y = f"{undecided} half"
z = "beside"  # kept as ``beside``
"""32 hexadecimal digits; besides, one RooflineFormer is held in two halves of memory."""
'''
    found = [match[0] for _, part in prose_of(text) for match in PATTERN.finditer(part)]
    assert found == ["priced", "undecided", "roofline\nformer"]
