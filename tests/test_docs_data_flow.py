"""Functions that docs/data_flow.md and docs/glossary.md name: each one must be there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

STEP = re.compile(r"\b((?:[a-z_]+/)+[a-z0-9_]+\.py):([A-Za-z_][A-Za-z0-9_.]*[A-Za-z0-9_])")
"""``FOLDER/FILE.py:NAME``, below ``tvm_costmodel/``."""

FEWEST = {"data_flow": 60, "glossary": 30}
COMMANDS = ("predict", "profile", "train", "tune")


@cache
def names_in(path: Path) -> frozenset[str]:
    """What a file defines or imports at its top level, and ``Class.member`` for its classes."""
    names: set[str] = set()

    def add(body: list[ast.stmt], prefix: str = "") -> None:
        for node in body:
            if isinstance(node, ast.ClassDef):
                names.add(prefix + node.name)
                add(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.FunctionDef):
                names.add(prefix + node.name)
            elif isinstance(node, ast.ImportFrom):
                names.update(prefix + (alias.asname or alias.name) for alias in node.names)
            elif isinstance(node, ast.Assign):
                names.update(prefix + t.id for t in node.targets if isinstance(t, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(prefix + node.target.id)
            elif isinstance(node, ast.If):
                add(node.body, prefix)

    text = path.read_text()
    add(ast.parse(text).body)
    if "def __getattr__(" in text:  # names that are imported when they are asked for
        names.update(re.findall(r'"(\w+)"', text))
    return frozenset(names)


@pytest.mark.parametrize("page", FEWEST)
def test_every_function_named_exists(page: str) -> None:
    steps = STEP.findall((DOCS / f"{page}.md").read_text())
    missing = []
    for file, name in steps:
        path = ROOT / "tvm_costmodel" / file
        if not path.is_file():
            missing.append(f"{file}: no such file")
        elif name not in names_in(path):
            missing.append(f"{file}:{name}: not defined there")
    assert not missing, "\n".join(missing)
    assert len(set(steps)) >= FEWEST[page]


def test_data_flow_describes_every_main_command() -> None:
    text = (DOCS / "data_flow.md").read_text()
    for command in COMMANDS:
        assert f"\n## {command}\n" in text
        assert f"cli/{command}.py:run" in text
