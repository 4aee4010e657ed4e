"""Files, modules, links and commands that README.md and docs/ name: each one must be there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_docs_data_flow import ROOT, names_in
from tvm_costmodel.cli import build_parser

PACKAGE = ROOT / "tvm_costmodel"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

FILE = re.compile(r"(?<![\w./])((?:[a-z_]+/)+[a-z0-9_-]+\.(?:py|sh|md|toml|xz|txt))\b")
DOTTED = re.compile(r"`((?:tvm_costmodel\.)?[a-z_]+(?:\.[A-Za-z_][A-Za-z0-9_]*)+)[`(]")
IMPORT = re.compile(r"^from (tvm_costmodel[a-z0-9_.]*) import ([\w, ]+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([\w./]+\.md)(?:#[\w-]+)?\)")
COMMAND = re.compile(r"^ {0,4}tvm-costmodel (.+)$", re.MULTILINE)

WRITTEN = ("tuned/", "results/")  # what commands write


def in_tree(file: str) -> bool:
    return any((folder / file).exists() for folder in (ROOT, PACKAGE))


def resolves(parts: list[str]) -> bool:
    """Whether parts below the package are folders, then a file, then names that it holds."""
    path = PACKAGE
    for at, part in enumerate(parts):
        if (path / part).is_dir():
            path = path / part
            continue
        is_file = (path / f"{part}.py").is_file()
        file = path / (f"{part}.py" if is_file else "__init__.py")
        name = ".".join(parts[at + is_file :])
        return file.is_file() and (not name or name in names_in(file))
    return True


def missing(page: Path) -> Iterator[str]:
    text = page.read_text()
    for file in FILE.findall(text):
        if not file.startswith(WRITTEN) and not in_tree(file):
            yield f"{file}: no such file"
    for dotted in DOTTED.findall(text):
        parts = dotted.removeprefix("tvm_costmodel.").split(".")
        is_ours = dotted.startswith("tvm_costmodel.") or (PACKAGE / parts[0]).is_dir()
        if is_ours and not resolves(parts):
            yield f"{dotted}: no such name"
    for module, names in IMPORT.findall(text):
        for name in names.split(","):
            if not resolves([*module.split(".")[1:], name.strip()]):
                yield f"from {module} import {name.strip()}: no such name"
    for link in LINK.findall(text):
        if not (page.parent / link).is_file():
            yield f"link to {link}: no such page"


def test_everything_named_exists() -> None:
    gone = [f"{page.relative_to(ROOT)}: {what}" for page in PAGES for what in missing(page)]
    assert not gone, "\n".join(gone)


def test_readme_lists_every_page() -> None:
    listed = set(LINK.findall((ROOT / "README.md").read_text()))
    assert listed >= {f"docs/{page.name}" for page in PAGES[1:]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_understood(page: Path) -> None:
    parser = build_parser()
    for line in COMMAND.findall(page.read_text().replace("\\\n", " ")):
        try:
            parser.parse_args(shlex.split(line, comments=True))
        except SystemExit:
            pytest.fail(f"the command line does not take: tvm-costmodel {line}")
