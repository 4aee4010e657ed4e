"""The `Compiler` objects of Relax and Relay, and how one is found by its name."""

from __future__ import annotations

import inspect
import json
import lzma
import subprocess
import sys
from pathlib import Path

import pytest

from tvm_costmodel.compilers.build_result import draw_inputs
from tvm_costmodel.compilers.compiler import Compiler
from tvm_costmodel.compilers.registry import (
    COMPILERS,
    DEFAULT_COMPILER,
    compiler_named,
    installed_compiler,
    known_compiler,
)
from tvm_costmodel.compilers.relax.compiler import RELAX
from tvm_costmodel.compilers.relay.compiler import RELAY
from tvm_costmodel.errors import ConfigError, MissingDependencyError
from tvm_costmodel.profiling.runners.executors import EXECUTORS
from tvm_costmodel.profiling.workloads.writers import WRITERS
from tvm_costmodel.tuning.backends import BACKENDS

from .networks_small import network

LABELS = Path(__file__).resolve().parents[2] / "profiling" / "labels"
MEMBERS = {name: member for name, member in vars(Compiler).items() if not name.startswith("_")}


@pytest.mark.parametrize("compiler", COMPILERS.values(), ids=list(COMPILERS))
def test_a_compiler_has_the_members_of_the_protocol_and_no_others(compiler):
    assert {name for name in dir(compiler) if not name.startswith("_")} == set(MEMBERS)
    for name, member in MEMBERS.items():
        assert inspect.getdoc(member), name
        if not isinstance(member, property):
            _, *declared = inspect.signature(member).parameters.values()
            own = inspect.signature(getattr(compiler, name)).parameters.values()
            assert [(p.name, p.default) for p in own] == [(p.name, p.default) for p in declared]
    with pytest.raises(AttributeError):
        compiler.name = "other"


def test_the_tables_of_other_rooms_have_an_entry_for_each_compiler():
    assert list(COMPILERS) == ["relax", "relay"] and DEFAULT_COMPILER == "relax"
    assert set(BACKENDS) == set(WRITERS) == set(COMPILERS)
    assert {compiler.executor for compiler in COMPILERS.values()} == set(EXECUTORS)
    assert RELAX.label_pipeline is None and RELAY.label_pipeline == {"random_constants": True}


def test_holding_compilers_imports_no_tvm():
    program = (
        "import sys\n"
        "from tvm_costmodel.compilers.registry import COMPILERS\n"
        "from tvm_costmodel.compilers.relax import compare_outputs\n"
        "import tvm_costmodel.profiling.profiler, tvm_costmodel.tuning.tune\n"
        "relay = COMPILERS['relay']\n"
        "relay.describe(relay.config())\n"
        "print([compiler.is_installed() for compiler in COMPILERS.values()])\n"
        "print({'tvm', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[True, False]", "set()"]


@pytest.mark.parametrize("look_up", [known_compiler, compiler_named])
def test_unknown_names_are_refused_with_the_known_ones(look_up):
    assert [look_up(name) for name in ("relax", "relay")] == [RELAX, RELAY]
    with pytest.raises(ConfigError, match="unknown compiler 'rely'; use relax or relay"):
        look_up("rely")


def test_a_compiler_of_ones_own_is_imported_for_a_caller_alone():
    name = "tvm_costmodel.compilers.relax.compiler:RELAX"
    assert compiler_named(name) is RELAX
    with pytest.raises(ConfigError, match="has no 'RELACKS'"):
        compiler_named(name.replace("RELAX", "RELACKS"))
    with pytest.raises(ImportError):
        compiler_named("no_such_module:COMPILER")
    with pytest.raises(ConfigError, match="unknown compiler"):
        known_compiler(name)


def test_descriptions_are_those_of_the_shipped_labels():
    described = RELAX.describe(RELAX.config())
    assert described["pipeline_key"] == "406af521d93343d4"
    assert set(described["pipeline"]) == {"config", "pipeline_version", "rule_version"}
    assert RELAX.config(described["pipeline"]["config"]) == RELAX.config()
    for compiler, file in ((RELAX, "cpu-amd-zen5"), (RELAY, "cpu-amd-zen5-relay-variants")):
        with lzma.open(LABELS / f"{file}.jsonl.xz", "rt") as lines:
            header = json.loads(next(lines))
        config = compiler.config(compiler.label_pipeline)
        assert header["pipeline_key"] == compiler.describe(config)["pipeline_key"]


def test_relax_builds_what_it_reads():
    assert installed_compiler() is RELAX
    RELAX.require()
    with pytest.raises(MissingDependencyError, match=r"Relay left TVM at 0.20"):
        RELAY.require()
    module, graph = RELAX.module_graph(network("dense"))
    target = RELAX.cpu_target()
    build = RELAX.build(module, target)
    other = RELAX.build(module, target, RELAX.config({"fuse": False}))
    assert len(other.kernels) > len(build.kernels) > 0 and len(graph) > 2
    inputs = draw_inputs(RELAX.input_specs(module))
    assert RELAX.verify(build, other, inputs, rtol=1e-4).equal


def test_public_names_stay_functions_whichever_module_loads_first():
    program = (
        "from tvm_costmodel.tvm_version import import_tvm_without_torch\n"
        "import_tvm_without_torch()\n"
        "import tvm_costmodel.compilers.relax.verification\n"
        "from tvm_costmodel.compilers import relax\n"
        "import tvm_costmodel.compilers.relax.build_module\n"
        "from tvm_costmodel.compilers.relax import build, pipeline, verify\n"
        "print([callable(value) for value in (build, pipeline, verify)])\n"
        "print(sorted(name for name in relax.__all__ if not hasattr(relax, name)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[True, True, True]", "[]"]
