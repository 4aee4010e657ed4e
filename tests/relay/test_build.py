"""Building with Relay: decisions, kernels, outputs, drawn constants, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relay

from tests.relay.modules import const, typed, var
from tvm_costmodel.compilers import relay as compiler
from tvm_costmodel.compilers.build_result import draw_inputs
from tvm_costmodel.compilers.registry import installed_compiler
from tvm_costmodel.compilers.relay import RelayConfig
from tvm_costmodel.compilers.relay.compiler import RELAY
from tvm_costmodel.compilers.relay.random_constants import draw_constants
from tvm_costmodel.compilers.relay.target import library_architecture, require_runnable_here
from tvm_costmodel.errors import BuildError, ConfigError, DeviceError, MeasurementError
from tvm_costmodel.frontends.relay.export import from_relay
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace


def values(*shape: int, scale: float = 0.2) -> relay.Constant:
    rng = np.random.default_rng(sum(shape))
    return relay.const((rng.standard_normal(shape) * scale).astype("float32"))


def network() -> tvm.IRModule:
    """Two convolutions of one input, added up, then two dense layers of one input and a softmax."""
    x = var("x", 1, 8, 8, 8)
    one = relay.nn.conv2d(x, values(16, 8, 3, 3), padding=1, channels=16, kernel_size=(3, 3))
    other = relay.nn.conv2d(x, values(16, 8, 3, 3), padding=1, channels=16, kernel_size=(3, 3))
    one = relay.nn.relu(relay.nn.bias_add(one, values(16)))
    y = relay.nn.global_avg_pool2d(relay.add(one, relay.tanh(other)))
    y = relay.nn.batch_flatten(y)
    matmuls = [relay.nn.dense(y, values(10, 16)) for _ in range(2)]
    return typed(relay.nn.softmax(relay.add(matmuls[0], relay.sigmoid(matmuls[1]))), x)


@pytest.fixture(scope="module")
def mod() -> tvm.IRModule:
    return network()


@pytest.fixture(scope="module")
def target() -> tvm.target.Target:
    return compiler.cpu_target()


@pytest.fixture(scope="module")
def baseline(mod: tvm.IRModule, target: tvm.target.Target) -> compiler.BuildResult:
    return compiler.build(mod, target)


def test_kernels_are_named_counted_and_typed(baseline: compiler.BuildResult) -> None:
    assert baseline.inputs == ("x",)
    assert sum("conv2d" in kernel.name for kernel in baseline.kernels) >= 1
    assert all(len(kernel.hash) == 16 and kernel.calls >= 1 for kernel in baseline.kernels)
    last = baseline.kernels[-1]
    assert last.parameters[-1] == ((1, 10), "float32")
    assert len({kernel.hash for kernel in baseline.kernels}) == len(baseline.kernels)
    assert baseline.seconds["relay.build"] > 0


def test_outputs_are_those_of_numpy(target: tvm.target.Target) -> None:
    x = var("x", 2, 4)
    weight = np.arange(12, dtype="float32").reshape(3, 4)
    small = typed(relay.nn.relu(relay.nn.dense(x, relay.const(weight))), x)
    (data,) = compiler.random_inputs(small)
    (got,) = compiler.run(compiler.build(small, target), [data])
    np.testing.assert_allclose(got, np.maximum(data @ weight.T, 0), rtol=1e-5)


CONFIGS: dict[str, dict[str, Any]] = {
    "opt level 0": {"opt_level": 0},
    "no AlterOpLayout": {"alter_layout": False},
    "fusion of one": {"fuse_depth": 1},
    "NHWC": {"layout": "NHWC"},
    "FastMath": {"fast_math": True},
    "no CanonicalizeOps": {"canonicalize_ops": False},
    "merged convolutions": {"combine_conv2d": True},
    "merged matmuls": {"combine_dense": "flat"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_decisions_change_the_build_and_not_the_outputs(
    name: str, mod: tvm.IRModule, target: tvm.target.Target, baseline: compiler.BuildResult
) -> None:
    config = RelayConfig(**CONFIGS[name])
    assert config.key != RelayConfig().key
    tuned = compiler.build(mod, target, config)
    assert [k.hash for k in tuned.kernels] != [k.hash for k in baseline.kernels]
    difference = compiler.verify(tuned, baseline, compiler.random_inputs(mod))
    assert difference.equal, difference


def test_half_precision_keeps_the_output_type_within_its_error(
    mod: tvm.IRModule, target: tvm.target.Target, baseline: compiler.BuildResult
) -> None:
    tuned = compiler.build(mod, target, RelayConfig(precision="float16"))
    inputs = compiler.random_inputs(mod)
    assert compiler.run(tuned, inputs)[0].dtype == np.float32
    difference = compiler.verify(tuned, baseline, inputs)
    assert 0 < difference.max_rel_err < 5e-3


def test_drawn_constants_give_the_same_kernels(
    mod: tvm.IRModule, target: tvm.target.Target, baseline: compiler.BuildResult
) -> None:
    drawn = compiler.build(mod, target, RelayConfig(random_constants=True))
    uses = [{(k.hash, k.calls) for k in built.kernels} for built in (drawn, baseline)]
    assert uses[0] == uses[1]
    (output,) = compiler.run(drawn, compiler.random_inputs(mod))
    assert np.isfinite(output).all()


@pytest.mark.parametrize("level", [0, 2])
def test_drawn_constants_leave_what_a_level_computes_each_time(
    mod: tvm.IRModule, target: tvm.target.Target, level: int
) -> None:
    """Half-precision weights are cast in every run where constants are not folded."""
    config = RelayConfig(opt_level=level, precision="float16")
    drawn = dataclasses.replace(config, random_constants=True)
    uses = [
        [(k.hash, k.calls) for k in compiler.build(mod, target, c).kernels] for c in (drawn, config)
    ]
    assert uses[0] == uses[1]


def test_drawing_takes_what_comes_of_constants_alone() -> None:
    x = var("x", 4, 6)
    weight = relay.transpose(relay.multiply(const(6, 4), relay.const(np.float32(2))), [1, 0])
    pieces = relay.split(const(8, 6), 2, axis=0)
    y = relay.add(relay.multiply(x, weight), pieces[1])
    y = relay.take(y, relay.add(const(2, dtype="int32"), const(2, dtype="int32")), axis=0)
    drawn = draw_constants()(typed(y, x))
    assert [o.op for o in from_relay(drawn).operators] == ["input", "multiply", "add", "take"]
    text = drawn.astext(show_meta_data=False)
    assert "transpose" not in text and "split" not in text and text.count("add(") == 2
    for _ in range(3000):
        y = relay.nn.relu(y)
    assert len(from_relay(draw_constants()(typed(y, x)))) == 3004


def test_config_reads_what_it_writes() -> None:
    config = RelayConfig(opt_level=2, fuse_depth=4, layout="NHWC", precision="float16")
    assert RelayConfig.from_dict(config.to_dict()) == config
    assert RelayConfig.from_dict({"fuse_depth": 4}) == RelayConfig(fuse_depth=4)
    with pytest.raises(ConfigError, match="unknown key 'fuse_dept'; did you mean 'fuse_depth'"):
        RelayConfig.from_dict({"fuse_dept": 4})
    with pytest.raises(ConfigError, match="layout is 'NHCW'; use one of imported, NHWC, NCHW"):
        RelayConfig(layout="NHCW")
    with pytest.raises(ConfigError, match="fuse_depth is 999"):
        RelayConfig(fuse_depth=999)


def test_declared_decisions_become_configs(mod: tvm.IRModule) -> None:
    space = DecisionSpace.for_graph(from_relay(mod), 1e-2, compiler="relay")
    offered = {choice.decision.name: choice.values for choice in space.choices}
    assert offered == {
        "opt_level": (3, 0, 1, 2),
        "alter_layout": ("on", "off"),
        "fusion": ("full", "depth1", "depth2", "depth4"),
        "layout": ("imported", "NHWC"),
        "fast_math": ("exact", "fast"),
        "canonical": ("on", "off"),
        "products": ("apart", "flat", "batch"),
        "convolutions": ("apart", "joined"),
        "precision": ("float32", "float16"),
    }
    for choice in space.choices:
        for value in choice.values[1:]:
            candidate = Candidate.of({(NETWORK, choice.decision.name): value})
            config = RelayConfig.from_dict(space.config_fields(candidate))
            assert config != RelayConfig(), (choice.decision.name, value)
    strict = DecisionSpace.for_graph(from_relay(mod), 1e-4, compiler="relay")
    assert not {"precision", "fast_math"} & {choice.decision.name for choice in strict.choices}


def test_dynamic_inputs_are_refused() -> None:
    x = var("x", relay.Any(), 4)
    with pytest.raises(BuildError, match=r"input 'x' has the type .* fixed shape"):
        compiler.input_specs(typed(relay.nn.relu(x), x))


def test_a_stage_that_fails_is_named(target: tvm.target.Target) -> None:
    x = var("x", relay.Any(), 4)
    broken = typed(relay.nn.relu(x), x)
    with pytest.raises(BuildError, match=r"failed in stage 'relay.build': .*try RelayConfig\(\)"):
        compiler.build(broken, target)


def test_targets_that_there_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="threads is 0"):
        compiler.cpu_target(threads=0)
    with pytest.raises(DeviceError, match="does not know the processor 'z80'"):
        compiler.cpu_target(mcpu="z80")
    codegen = tvm.target.codegen
    monkeypatch.setattr(codegen, "llvm_get_targets", lambda: ["aarch64", "riscv64"])
    with pytest.raises(DeviceError, match="no code for x86_64; it has aarch64, riscv64"):
        compiler.cpu_target()
    monkeypatch.setattr(tvm.runtime, "enabled", lambda name: False)
    with pytest.raises(DeviceError, match="built without LLVM; install one that has it"):
        compiler.cpu_target()


def test_code_for_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"aarch64-linux-gnu is no x86_64.*--tracker"):
        require_runnable_here(tvm.target.Target("llvm -mtriple=aarch64-linux-gnu"))
    library = tmp_path / "network.so"
    library.write_bytes(b"\x7fELF\x02\x01" + bytes(12) + (183).to_bytes(2, "little") + bytes(8))
    assert library_architecture(library) == "aarch64"
    with pytest.raises(MeasurementError, match="built for aarch64, and this machine is x86_64"):
        compiler.load_library(library)
    with pytest.raises(MeasurementError, match="No such file"):
        compiler.load_library(tmp_path / "absent.so")


def test_an_exported_library_loads_and_runs(
    mod: tvm.IRModule, baseline: compiler.BuildResult, tmp_path: Path
) -> None:
    path = baseline.export(tmp_path / "network.so")
    assert library_architecture(path) == "x86_64"
    factory = compiler.load_library(path)
    inputs = compiler.random_inputs(mod)
    loaded = tvm.contrib.graph_executor.GraphModule(factory["default"](tvm.cpu()))
    loaded.run(x=inputs[0])
    np.testing.assert_array_equal(loaded.get_output(0).numpy(), compiler.run(baseline, inputs)[0])


def test_the_compiler_object_builds_what_it_reads(
    mod: tvm.IRModule, baseline: compiler.BuildResult, target: tvm.target.Target
) -> None:
    assert installed_compiler() is RELAY
    RELAY.require()
    module, graph = RELAY.module_graph(mod)
    assert graph.hash == from_relay(mod).hash
    build = RELAY.build(module, target)
    assert [kernel.hash for kernel in build.kernels] == [kernel.hash for kernel in baseline.kernels]
    other = RELAY.build(module, target, RELAY.config({"fuse_depth": 1}))
    assert RELAY.verify(other, build, draw_inputs(RELAY.input_specs(module)), rtol=1e-4).equal
