"""How commands take randomly damaged files: accepted, refused in one line, or a fault.

    python -m benchmarks.robustness.mutated_files --count 10000 --record cases.jsonl

Every mutation follows from its kind and seed, so that a fault can be run again with ``--kind`` and
``--first``; with ``--record``, a run that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks import results_file
from tests.security.mutations import MUTATORS, SHARES, Corpus
from tests.security.running import run_cases

CHUNK = 50
COLUMNS = ("accepted", "refused", "traceback", "crash", "hang", "memory")

Line = tuple[str, int, str, str]
"""(kind, seed, what the command did, what it printed)"""


def main() -> int:
    """Writes a row for each kind of file and prints every fault; 1 where there is one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="mutations of all kinds together")
    parser.add_argument("--first", type=int, default=0, help="first seed of each kind")
    parser.add_argument("--kind", choices=sorted(MUTATORS), help="one kind only")
    parser.add_argument("--record", type=Path, help="file of finished cases, to go on from")
    args = parser.parse_args()
    shares = {args.kind: 1} if args.kind else SHARES
    cases = [
        (kind, args.first + i)
        for kind, share in shares.items()
        for i in range(-(-args.count * share // sum(shares.values())))
    ]
    lines = _recorded(args.record)
    seen = {(kind, seed) for kind, seed, *_ in lines}
    lines += _run([case for case in cases if case not in seen], args.record)
    faults = [line for line in lines if line[2] not in COLUMNS[:2]]
    for kind, seed, what, text in faults:
        print(kind, seed, what, text.strip()[-500:], sep="\n  ")
    if not args.kind:
        _write(lines)
    return 1 if faults else 0


def _run(cases: Sequence[tuple[str, int]], record: Path | None) -> Iterator[Line]:
    """Runs cases chunk by chunk, each written to the record once it is done."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder) / "whole")
        for start in range(0, len(cases), CHUNK):
            chunk = cases[start : start + CHUNK]
            outcomes = run_cases(corpus.write, chunk, Path(folder) / "cases")
            lines = [
                (kind, seed, outcome.what, outcome.text if outcome.is_fault else "")
                for (kind, seed), outcome in zip(chunk, outcomes, strict=True)
            ]
            if record is not None:
                with record.open("a") as stream:
                    stream.writelines(json.dumps(line) + "\n" for line in lines)
            yield from lines


def _recorded(record: Path | None) -> list[Line]:
    if record is None or not record.exists():
        return []
    return [tuple(json.loads(line)) for line in record.read_text().splitlines()]


def _write(lines: Sequence[Line]) -> None:
    rows = []
    for kind in [*MUTATORS, "all"]:
        whats = [what.split()[0] for name, _, what, _ in lines if kind in (name, "all")]
        counts = Counter(whats)
        other = len(whats) - sum(counts[column] for column in COLUMNS)
        rows.append((kind, len(whats), *(counts[column] for column in COLUMNS), other))
    results_file.write(
        "Damaged files",
        "Files of each kind, changed at random, and what the command that reads them did: accepted "
        "them, refused them in one line with exit code 2, or anything else, which is a fault. "
        "Memory: more than 2 GiB beyond the warm process.",
        tabulate(
            rows,
            ("kind", "files", *COLUMNS[:3], "crashes", "hangs", "over 2 GiB", "other"),
            tablefmt="github",
        ),
    )


if __name__ == "__main__":
    raise SystemExit(main())
