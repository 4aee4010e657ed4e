"""Which room may import what: the table in docs, held true over every import statement."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = {"models": "tvm_costmodel.models", "profiling": "tvm_costmodel.profiling"}

HEAVY = ("tvm", "torch", "xgboost", "onnx", "onnxruntime", "scipy", "sqlite3", "safetensors")
ANYTHING = ("",)


@dataclass(frozen=True)
class Rule:
    """What a room may import.

    ``never`` is forbidden anywhere, ``lazily`` only inside functions and type-checking blocks.
    ``rooms`` are the rooms of the package that it may import, besides itself and `errors`.
    """

    never: tuple[str, ...] = ()
    lazily: tuple[str, ...] = ()
    rooms: tuple[str, ...] = ANYTHING


_FRONTENDS = ("graph", "graph_json", "ops", "frontends")

# Front-end modules made of TVM code: the others may import them inside functions only.
TVM_CODE = ("tvm_costmodel.frontends.onnx_importer", "tvm_costmodel.frontends.relax_indices")

# Cost models that TVM's tuners take, which are subclasses of TVM's own.
TUNERS = ("tvm_costmodel.schedules.autotvm", "tvm_costmodel.schedules.auto_scheduler")

# The first that matches the module's name wins.
RULES: dict[str, Rule] = {
    **{name: Rule(never=("torch", "sqlite3", "xgboost"), rooms=_FRONTENDS) for name in TVM_CODE},
    "tvm_costmodel.graph": Rule(never=HEAVY, rooms=("ops", "graph_json")),
    "tvm_costmodel.graph_json": Rule(never=HEAVY, rooms=("graph",)),
    "tvm_costmodel.ops": Rule(never=HEAVY, rooms=("graph",)),
    **{
        f"tvm_costmodel.frontends.{name}": Rule(
            never=("sqlite3", "xgboost"), lazily=("tvm", "torch", *TVM_CODE), rooms=_FRONTENDS
        )
        for name in ("torch", "nasbench201_pth")
    },
    "tvm_costmodel.frontends": Rule(
        never=("torch", "sqlite3", "xgboost"), lazily=("tvm", *TVM_CODE), rooms=_FRONTENDS
    ),
    "tvm_costmodel.tokenizer": Rule(never=HEAVY, rooms=("graph", "ops")),
    "tvm_costmodel.models": Rule(never=("tvm", "sqlite3", "onnx", "xgboost"), rooms=("tokenizer",)),
    "tvm_costmodel.training": Rule(never=("tvm", "tvm_ffi")),
    "tvm_costmodel.baselines": Rule(never=("tvm", "tvm_ffi", "sqlite3")),
    "tvm_costmodel.predictor": Rule(never=("tvm", "tvm_ffi")),
    "tvm_costmodel.compilers": Rule(
        never=("torch", "sqlite3"), rooms=("graph", "ops", "frontends", "compilers")
    ),
    "tvm_costmodel.profiling": Rule(
        never=("torch", "xgboost"),
        lazily=("tvm",),
        rooms=("graph", "ops", "frontends", "compilers", "profiling"),
    ),
    **{name: Rule(never=("torch", "sqlite3", "xgboost"), rooms=("schedules",)) for name in TUNERS},
    "tvm_costmodel.schedules": Rule(
        never=("tvm", "torch", "sqlite3", "xgboost"), lazily=("safetensors",), rooms=()
    ),
    "tvm_costmodel.tuning": Rule(
        lazily=HEAVY,
        rooms=(
            "graph",
            "graph_json",
            "ops",
            "frontends",
            "tokenizer",
            "compilers",
            "profiling",
            "predictor",
            "training",
            "tuning",
        ),
    ),
    "tvm_costmodel.cli": Rule(lazily=HEAVY[:6]),
    "tvm_costmodel": Rule(lazily=HEAVY[:6]),
}


@dataclass(frozen=True)
class Import:
    module: str
    imported: str
    lazy: bool
    where: str


def sources() -> Iterator[tuple[str, Path]]:
    for folder in ("tvm_costmodel", *FOLDERS):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join((FOLDERS.get(parts[0], parts[0]), *parts[1:]))
            yield name.removesuffix(".__init__"), path


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of(module: str, path: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: 1 - node.level or None], base]).rstrip(".")
            is_ours = base.split(".")[0] == "tvm_costmodel"
            names = [f"{base}.{alias.name}" if is_ours else base for alias in node.names]
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for name in names:
            yield Import(module, name, lazy, where)
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or inner)

    yield from visit(ast.parse(path.read_text()), False)


def rule_for(module: str) -> tuple[str, Rule]:
    return next((r, rule) for r, rule in RULES.items() if f"{module}.".startswith(f"{r}."))


def breaks(found: Import) -> str | None:
    room, rule = rule_for(found.module)
    top = found.imported.split(".")[0]
    if top in rule.never:
        return f"{found.where}: {room} must not import {top}"
    if not found.lazy and f"{found.imported}.".startswith(tuple(f"{n}." for n in rule.lazily)):
        return f"{found.where}: {room} may import {found.imported} inside functions only"
    if top != "tvm_costmodel" or rule.rooms == ANYTHING or f"{found.imported}.".startswith(room):
        return None
    allowed = [f"tvm_costmodel.{name}." for name in (*rule.rooms, "errors", "files")]
    if f"{found.imported}.".startswith(tuple(allowed)):
        return None
    return f"{found.where}: {room} must not import {found.imported}"


def test_the_import_table_holds() -> None:
    found = [i for module, path in sources() for i in imports_of(module, path)]
    assert len(found) > 100
    assert [message for message in map(breaks, found) if message] == []


@pytest.mark.parametrize(
    ("module", "imported", "lazy", "wrong"),
    [
        ("tvm_costmodel.graph", "tvm", True, True),
        ("tvm_costmodel.graph", "numpy", False, False),
        ("tvm_costmodel.graph", "tvm_costmodel.frontends", False, True),
        ("tvm_costmodel.frontends.relax", "tvm", False, True),
        ("tvm_costmodel.frontends.relax", "tvm.relax", True, False),
        ("tvm_costmodel.frontends.relax", "torch", True, True),
        ("tvm_costmodel.frontends.onnx", "tvm_costmodel.frontends.onnx_importer", False, True),
        ("tvm_costmodel.frontends.onnx", "tvm_costmodel.frontends.onnx_importer", True, False),
        ("tvm_costmodel.frontends.onnx_importer", "tvm", False, False),
        ("tvm_costmodel.frontends.torch", "torch", True, False),
        ("tvm_costmodel.models.nar_former_v2", "sqlite3", True, True),
        ("tvm_costmodel.profiling.worker", "torch", True, True),
        ("tvm_costmodel.compilers.relax", "tvm", False, False),
        ("tvm_costmodel.predictor", "torch", True, False),
        ("tvm_costmodel.schedules.autotvm", "tvm", False, False),
        ("tvm_costmodel.schedules.ranker", "tvm", True, True),
        ("tvm_costmodel.tuning.search", "torch", False, True),
        ("tvm_costmodel.tuning.search", "torch", True, False),
        ("tvm_costmodel.tuning.search", "tvm_costmodel.cli", True, True),
        ("tvm_costmodel.tuning.tune", "tvm_costmodel.profiling.trials", False, False),
    ],
)
def test_the_rules_catch_what_they_should(module, imported, lazy, wrong) -> None:
    assert (breaks(Import(module, imported, lazy, "here")) is not None) is wrong


IMPORT_IT = """
import json, sys, time
start = time.process_time()  # unlike the clock on the wall, blind to what else is running
import tvm_costmodel
seconds = time.process_time() - start
from tvm_costmodel.frontends import relax
from tvm_costmodel.graph import OpGraph
heavy = {"tvm", "torch", "xgboost", "onnx", "scipy"}
print(json.dumps([seconds, sorted(heavy & set(sys.modules))]))
"""


def test_the_package_imports_quickly_and_alone() -> None:
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT_IT], capture_output=True, text=True, check=True
        )
        took, loaded = json.loads(done.stdout)
        assert loaded == []
        seconds.append(took)
    assert min(seconds) < 0.3


def test_every_public_name_has_a_home() -> None:
    import tvm_costmodel

    for name in tvm_costmodel.__all__:
        home = tvm_costmodel._HOMES.get(name)
        if home is not None:
            path = ROOT / "tvm_costmodel" / Path(*home.split("."))
            assert path.with_suffix(".py").exists() or (path / "__init__.py").exists(), name
