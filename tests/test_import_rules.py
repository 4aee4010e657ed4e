"""Which room may import what, for every room, and that no imports run in circles."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "tvm_costmodel"
LINKED = ("models", "profiling")
"""Folders at the top level that links put into the package."""

HEAVY = ("tvm", "torch", "xgboost", "onnx", "onnxruntime", "scipy", "sqlite3", "safetensors")
COMMON = ("errors", "atomic_files", "bounded_reading", "isolation", "confinement")
COMMON += ("gaussian_process", "json_config", "processor", "user_cache")
"""Modules that every room may import."""
MOST_FILES = 20
"""Most Python files of one folder, its ``__init__.py`` left out."""


@dataclass(frozen=True)
class Rule:
    """What a room may import.

    Attributes:
        rooms: Rooms and modules of the package that it may import, besides itself and `COMMON`.
        never: Packages that it must not import anywhere.
        lazily: Packages and modules that it may import inside functions and for type checking only.
    """

    rooms: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    lazily: tuple[str, ...] = ()


_FRONTENDS = ("graph", "ops", "tvm_version", "frontends")
_TUNING = ("predictors", "compilers", "profiling", "graph", "graph_passes", "ops", "frontends")

RULES: Mapping[str, Rule] = {
    # Files that are made of TVM code, or of torch's: whoever imports them does so inside functions.
    "frontends.onnx.relax_importer": Rule(_FRONTENDS, never=("torch", "sqlite3", "xgboost")),
    "frontends.relax.negative_indices": Rule(_FRONTENDS, never=("torch", "sqlite3", "xgboost")),
    "frontends.torch_importer": Rule(_FRONTENDS, never=("sqlite3", "xgboost")),
    "frontends.torch_export": Rule(
        _FRONTENDS,
        never=("sqlite3", "xgboost"),
        lazily=("tvm", "torch", "tvm_costmodel.frontends.torch_importer"),
    ),
    "frontends.exported_program": Rule(
        _FRONTENDS, never=("sqlite3", "xgboost"), lazily=("tvm", "torch")
    ),
    "frontends.pt2_program": Rule(
        _FRONTENDS, never=("sqlite3", "xgboost"), lazily=("tvm", "torch")
    ),
    "datasets.nasbench201_pth": Rule(
        ("graph", "nas.cells", "datasets"), never=("tvm", "sqlite3", "xgboost"), lazily=("torch",)
    ),
    "schedules.autotvm": Rule(("schedules",), never=("torch", "sqlite3", "xgboost")),
    "schedules.auto_scheduler": Rule(("schedules",), never=("torch", "sqlite3", "xgboost")),
    # A program that users run without this package.
    "tuning.exported": Rule(never=HEAVY[1:], lazily=("tvm",)),
    # Rooms, from the ground up.
    "errors": Rule(never=HEAVY),
    "atomic_files": Rule(never=HEAVY),
    "bounded_reading": Rule(never=HEAVY),
    "isolation": Rule(never=HEAVY),
    "processor": Rule(never=HEAVY),
    "user_cache": Rule(never=HEAVY),
    "confinement": Rule(never=HEAVY),
    "json_config": Rule(never=HEAVY),
    "gaussian_process": Rule(
        never=tuple(name for name in HEAVY if name != "scipy"), lazily=("scipy",)
    ),
    "tvm_version": Rule(never=HEAVY[1:], lazily=("tvm",)),
    "ops": Rule(never=HEAVY),
    "graph": Rule(("ops",), never=HEAVY),
    "graph_passes": Rule(("graph", "ops"), never=HEAVY),
    "tokenizer": Rule(("graph", "ops"), never=HEAVY),
    "frontends": Rule(
        _FRONTENDS,
        never=("torch", "sqlite3", "xgboost"),
        lazily=(
            "tvm",
            "tvm_costmodel.frontends.onnx.relax_importer",
            "tvm_costmodel.frontends.relax.negative_indices",
            "tvm_costmodel.frontends.torch_importer",
        ),
    ),
    "models": Rule(("tokenizer",), never=("tvm", "sqlite3", "onnx", "xgboost")),
    "training": Rule(("models", "tokenizer", "graph"), never=("tvm", "sqlite3", "xgboost")),
    "compilers": Rule(
        ("graph", "ops", "graph_passes", "frontends", "tvm_version"), never=("torch", "sqlite3")
    ),
    "profiling": Rule(
        ("compilers", "graph", "ops", "frontends", "tvm_version"),
        never=("torch", "xgboost"),
        lazily=("tvm",),
    ),
    "predictors": Rule(
        # ... and what this machine is called, to find its checkpoint.
        ("training", "models", "tokenizer", "graph", "ops", "profiling.devices"),
        never=("tvm", "tvm_ffi"),
    ),
    "nas": Rule(
        ("graph", "ops", "tokenizer", "models", "training", "predictors"), never=("tvm", "sqlite3")
    ),
    "datasets": Rule(("graph", "nas"), never=("tvm", "torch", "sqlite3", "xgboost")),
    "schedules": Rule(never=("tvm", "torch", "sqlite3", "xgboost"), lazily=("safetensors",)),
    "transfer": Rule(
        ("predictors", "profiling", "training", "tokenizer", "graph"), never=("tvm", "torch")
    ),
    "tuning": Rule(
        (*_TUNING, "schedules", "tokenizer", "training", "models", "tvm_version"), lazily=HEAVY
    ),
    "diagnostics": Rule(
        ("compilers", "frontends", "predictors", "profiling", "tvm_version"), lazily=HEAVY
    ),
    "cli": Rule(
        (*_TUNING, "transfer", "training", "tuning", "diagnostics", "tvm_version", "__init__"),
        lazily=HEAVY,
    ),
    "__init__": Rule(("graph", "frontends", "predictors", "tuning", "_moved"), lazily=HEAVY),
    "_moved": Rule(never=HEAVY),
    "__main__": Rule(("cli",), lazily=HEAVY),
}
"""The first row whose name begins a module's name wins; ``__init__`` is the package's own."""


@dataclass(frozen=True)
class Import:
    """One import: ``module`` takes ``imported``, a module of ours or a package of others."""

    module: str
    imported: str
    lazy: bool
    where: str


def sources() -> dict[str, Path]:
    """Every module of the package, without ``tvm_costmodel.``, and its file."""
    modules = {}
    for folder in (PACKAGE, *LINKED):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / PACKAGE if folder == PACKAGE else ROOT).with_suffix("")
            modules[".".join(parts.parts).removesuffix(".__init__")] = path
    return modules


MODULES = sources()


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _ours(base: str, name: str) -> str:
    """The module of ours that ``from base import name`` takes."""
    inside = base.removeprefix(PACKAGE).removeprefix(".")
    deeper = f"{inside}.{name}".removeprefix(".")
    return deeper if deeper in MODULES else inside or "__init__"


def imports_of(module: str, path: Path) -> Iterator[Import]:
    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            names = [n.removeprefix(f"{PACKAGE}.") if n in MODULES else n for n in names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: relative import"
            base = node.module or ""
            ours = base.split(".")[0] == PACKAGE
            names = [_ours(base, alias.name) for alias in node.names] if ours else [base]
        where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
        for name in dict.fromkeys(names):
            yield Import(module, name, lazy, where)
        inner = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or inner)

    yield from visit(ast.parse(path.read_text()), False)


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return [i for module, path in MODULES.items() for i in imports_of(module, path)]


def row_for(module: str) -> str | None:
    return next((row for row in RULES if f"{module}.".startswith(f"{row}.")), None)


def breaks(found: Import) -> str | None:
    row = row_for(found.module)
    assert row is not None, f"{found.module} is in no room of the table"
    rule, top = RULES[row], found.imported.split(".")[0]
    if found.imported not in MODULES and found.imported != "__init__":
        if top in rule.never:
            return f"{found.where}: {row} must not import {top}"
        if not found.lazy and top in rule.lazily:
            return f"{found.where}: {row} may import {top} inside functions only"
        return None
    if not found.lazy and f"{PACKAGE}.{found.imported}" in rule.lazily:
        return f"{found.where}: {row} may import {found.imported} inside functions only"
    room = found.module.split(".")[0]
    allowed = (room, *rule.rooms, *COMMON)
    if f"{found.imported}.".startswith(tuple(f"{name}." for name in allowed)):
        return None
    return f"{found.where}: {row} must not import {found.imported}"


def test_every_module_is_in_a_room_of_the_table() -> None:
    assert [module for module in MODULES if row_for(module or "__init__") is None] == []


def test_the_import_table_holds(imports: list[Import]) -> None:
    assert len(imports) > 1000
    assert [message for message in map(breaks, imports) if message] == []


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_imports_run_in_circles(imports: list[Import]) -> None:
    """Lazy imports and those for type checking count too."""
    files: dict[str, set[str]] = defaultdict(set)
    rooms: dict[str, set[str]] = defaultdict(set)
    for found in imports:
        lazy_face = MODULES.get(found.module, ROOT).name == "__init__.py" and found.lazy
        if found.imported not in MODULES or found.module == found.imported or lazy_face:
            continue  # a package's face hands on, when asked, what stands below it
        files[found.module].add(found.imported)
        one, other = (name.split(".")[0] for name in (found.module, found.imported))
        if one != other:
            rooms[one].add(other)
    assert circle(files) == []
    assert circle(rooms) == []
    assert circle({"a": {"b"}, "b": {"a"}}) != []


def test_no_folder_is_crowded() -> None:
    files: dict[Path, int] = defaultdict(int)
    for path in MODULES.values():
        files[path.parent] += path.name != "__init__.py"
    assert {str(d.relative_to(ROOT)): n for d, n in files.items() if n > MOST_FILES} == {}


def test_the_linked_folders_are_in_the_package() -> None:
    for name in LINKED:
        assert (ROOT / PACKAGE / name).resolve() == ROOT / name


@pytest.mark.parametrize(
    ("module", "imported", "lazy", "wrong"),
    [
        ("graph.op_graph", "tvm", True, True),
        ("graph.op_graph", "numpy", False, False),
        ("graph.op_graph", "frontends.relax.export", False, True),
        ("ops.cost", "graph.op_graph", True, True),
        ("frontends.relax.export", "tvm", False, True),
        ("frontends.relax.export", "tvm.relax", True, False),
        ("frontends.relax.export", "torch", True, True),
        ("frontends.onnx.reader", "frontends.onnx.relax_importer", False, True),
        ("frontends.onnx.reader", "frontends.onnx.relax_importer", True, False),
        ("frontends.onnx.relax_importer", "tvm", False, False),
        ("frontends.torch_export", "torch", True, False),
        ("models.nar_former_v2", "sqlite3", True, True),
        ("profiling.worker.server", "torch", True, True),
        ("profiling.profiler", "predictors.base", True, True),
        ("compilers.relax.build_module", "tvm", False, False),
        ("compilers.relax.build_module", "profiling.profiler", True, True),
        ("training.trainer", "predictors.base", True, True),
        ("training.dataset", "profiling.store.store", True, True),
        ("predictors.loading", "tvm", True, True),
        ("predictors.loading", "tuning.tune", True, True),
        ("schedules.autotvm", "tvm", False, False),
        ("schedules.ranker", "tvm", True, True),
        ("tuning.search.strategies", "torch", False, True),
        ("tuning.search.strategies", "torch", True, False),
        ("tuning.tune", "cli", True, True),
        ("tuning.tune", "profiling.paired_profiler", False, False),
        ("cli.predict", "predictors.loading", True, False),
        ("cli.predict", "nas.cells", True, True),
    ],
)
def test_the_rules_catch_what_they_should(module, imported, lazy, wrong) -> None:
    assert imported in (*MODULES, *HEAVY, "numpy", "tvm.relax")
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


@pytest.mark.parametrize("package", ["tvm_costmodel", "tvm_costmodel.frontends"])
def test_every_public_name_has_a_home_that_tools_see(package: str) -> None:
    module = sys.modules.get(package) or __import__(package, fromlist=["x"])
    tree = ast.parse(Path(str(module.__file__)).read_text())
    (block,) = [node for node in tree.body if is_type_checking(node)]
    seen = {
        a.name for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for a in node.names
    }
    assert seen == set(module._MODULES) == set(module.__all__) - {"__version__"}
    for name, home in module._MODULES.items():
        assert f"{package}.{home}".removeprefix(f"{PACKAGE}.") in MODULES, name
