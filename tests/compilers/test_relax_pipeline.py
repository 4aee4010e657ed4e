from __future__ import annotations

import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.relax import (
    CpuRuleConfig,
    PipelineConfig,
    build,
    cpu_target,
    lower,
    pipeline,
    verify,
)
from tvm_costmodel.compilers.relax import config as config_module
from tvm_costmodel.compilers.relax.verification import random_inputs, run
from tvm_costmodel.errors import BuildError, ConfigError, DeviceError

from .networks_small import (
    NETWORKS,
    batch_norm,
    convolution,
    module,
    network,
    nn,
    op,
    outputs_of_tvm,
    values,
)

CONFIGS = {
    "default": PipelineConfig(),
    "channels first": PipelineConfig(layout="NCHW"),
    "not fused": PipelineConfig(fuse=False),
    "batch norm kept": PipelineConfig(fold_batch_norm=False),
    "narrow tiles": PipelineConfig(rule=CpuRuleConfig(vector_bits=256, accumulators=6)),
    "weights not packed": PipelineConfig(rule=CpuRuleConfig(pack_weights=False)),
}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        *(("residual", config) for config in CONFIGS),
        *(("dense", config) for config in ("default", "channels first", "batch norm kept")),
        *(("attention", config) for config in ("default", "not fused", "weights not packed")),
    ],
)
def test_outputs_equal_tvms_default_build(name, config):
    mod = network(name)
    built = build(mod, cpu_target(), CONFIGS[config])
    assert built.unscheduled == ()
    difference = verify(built.executable, outputs_of_tvm(mod), random_inputs(mod), rtol=1e-4)
    assert difference.equal, difference


@pytest.mark.parametrize("name", NETWORKS)
def test_two_threads_compute_the_same(name):
    mod = network(name)
    built = build(mod, cpu_target(threads=2))
    assert verify(built.executable, outputs_of_tvm(mod), random_inputs(mod), rtol=1e-4).equal


def test_pipeline_serves_tvm_compile():
    mod = network("residual")
    executable = tvm.compile(mod, cpu_target(), relax_pipeline=pipeline(PipelineConfig()))
    assert verify(executable, outputs_of_tvm(mod), random_inputs(mod), rtol=1e-4).equal


def test_lower_gives_scheduled_functions_and_leaves_its_input_alone():
    mod = network("residual")
    before = mod.script()
    lowered = lower(mod, cpu_target())
    functions = [f for f in lowered.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert functions and all(f.attrs["tirx.is_scheduled"] for f in functions)
    assert mod.script() == before


def test_build_lists_its_kernels():
    built = build(network("residual"), cpu_target())
    names = [kernel.name for kernel in built.kernels]
    # input to NHWC, three convolutions with what follows them, pool, mean, dense, softmax
    assert len(names) == len(set(names)) == 8
    assert all(kernel.calls == 1 and len(kernel.hash) == 16 for kernel in built.kernels)
    assert all(kernel.template for kernel in built.kernels)
    conv = next(kernel for kernel in built.kernels if "conv2d" in kernel.name)
    assert conv.parameters[-1] == ((1, 23, 21, 20), "float32")
    stages = {"graph", "fusion", "schedule", "virtual machine", "code generation"}
    assert set(built.seconds) == stages and all(s > 0 for s in built.seconds.values())


def test_repeated_kernels_are_counted_once_with_their_calls():
    def make(emit, x):
        for seed in range(4):
            x = emit(nn.relu(convolution(emit, x, 16, seed=seed)))
        return x

    built = build(module(make, [(1, 16, 10, 10)]), cpu_target())
    calls = {kernel.name: kernel.calls for kernel in built.kernels if "conv2d" in kernel.name}
    assert list(calls.values()) == [4]


def test_each_kernel_can_be_timed_in_the_built_library():
    built = build(network("dense"), cpu_target())
    for kernel in built.kernels:
        arguments = [
            tvm.runtime.tensor(np.zeros(shape, dtype)) for shape, dtype in kernel.parameters
        ]
        timer = built.kernel_library.time_evaluator(kernel.name, tvm.cpu(), number=1, repeat=2)
        assert min(timer(*arguments).results) > 0


def test_exported_library_gives_the_same_outputs(tmp_path):
    mod = network("dense")
    built = build(mod, cpu_target())
    inputs = random_inputs(mod)
    path = built.export(tmp_path / "network.so")
    loaded = tvm.runtime.load_module(str(path))
    machine = relax.VirtualMachine(loaded, tvm.cpu())
    got = machine["main"](*(tvm.runtime.tensor(x) for x in inputs)).numpy()
    np.testing.assert_array_equal(got, run(built.executable, inputs)[0])
    assert built.seconds["export"] > 0


def test_kernel_hashes_are_the_same_in_another_process():
    program = (
        "from tvm_costmodel.tvm_version import import_tvm_without_torch\n"
        "import_tvm_without_torch()\n"
        "from tests.compilers.networks_small import network\n"
        "from tvm_costmodel.compilers.relax import build, cpu_target\n"
        "import json\n"
        "print(json.dumps([k.hash for k in build(network('dense'), cpu_target()).kernels]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    here = [kernel.hash for kernel in build(network("dense"), cpu_target()).kernels]
    assert json.loads(other.stdout) == here and len(set(here)) == len(here)


def test_kernel_hash_follows_shape_and_not_names():
    def conv(out, size):
        make = lambda emit, x: nn.relu(convolution(emit, x, out))  # noqa: E731
        built = build(module(make, [(1, 8, size, size)]), cpu_target())
        return next(kernel.hash for kernel in built.kernels if "conv2d" in kernel.name)

    assert conv(16, 9) == conv(16, 9)
    assert len({conv(16, 9), conv(16, 10), conv(24, 9)}) == 3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_config_survives_json(config):
    assert PipelineConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_config_keys_differ_and_follow_the_versions(monkeypatch):
    keys = {config.key for config in CONFIGS.values()}
    assert len(keys) == len(CONFIGS) and all(len(key) == 16 for key in keys)
    assert PipelineConfig().key == PipelineConfig.from_dict({}).key
    before = PipelineConfig().key
    monkeypatch.setattr(config_module, "PIPELINE_VERSION", -1)
    assert PipelineConfig().key != before
    monkeypatch.undo()
    monkeypatch.setattr(config_module, "RULE_VERSION", -1)
    assert PipelineConfig().key != before


def test_config_errors_name_what_is_allowed():
    with pytest.raises(ConfigError, match="did you mean 'layout'"):
        PipelineConfig.from_dict({"layuot": "NHWC"})
    with pytest.raises(ConfigError, match="NHWC, NCHW"):
        PipelineConfig(layout="NCHW16c")
    with pytest.raises(ConfigError, match="accumulators"):
        PipelineConfig.from_dict({"rule": {"accumulators": 1000}})


def test_target_is_checked():
    assert int(cpu_target(threads=3).attrs["num-cores"]) == 3
    assert str(cpu_target(mcpu="haswell").attrs["mcpu"]) == "haswell"
    with pytest.raises(DeviceError, match="no-such-cpu"):
        cpu_target(mcpu="no-such-cpu")
    with pytest.raises(DeviceError, match="threads is 0"):
        cpu_target(threads=0)


def test_a_failing_stage_is_named(monkeypatch):
    def fail(*_args, **_kwargs):
        raise ValueError("boom")

    monkeypatch.setattr("tvm_costmodel.compilers.relax.build_module.schedule_module", fail)
    with pytest.raises(BuildError, match="stage 'schedule': ValueError: boom"):
        build(network("dense"), cpu_target())


def test_a_kernel_without_a_template_is_reported_and_still_right(caplog):
    # its block stores a value and a position
    mod = module(lambda emit, x: op.argmax(x, 1), [(3, 40)])
    with caplog.at_level(logging.WARNING):
        built = build(mod, cpu_target())
    assert len(built.unscheduled) == 1 and built.unscheduled[0].startswith("argmax")
    assert "no schedule template takes argmax" in caplog.text
    x = values(3, 40)
    np.testing.assert_array_equal(run(built.executable, [x])[0], x.argmax(1))


def test_batch_norm_in_training_keeps_its_meaning():
    make = lambda emit, x: nn.relu(batch_norm(emit, x, training=True))  # noqa: E731
    mod = module(make, [(2, 8, 9, 9)])
    built = build(mod, cpu_target())
    difference = verify(built.executable, outputs_of_tvm(mod), random_inputs(mod), rtol=1e-4)
    assert difference.equal, difference


def test_batch_norm_costs_no_kernel_of_its_own():
    def make(emit, x):
        y = batch_norm(emit, convolution(emit, x, 16))
        return nn.relu(y)

    built = build(module(make, [(1, 8, 9, 9)]), cpu_target())
    assert [k.name for k in built.kernels if "conv2d" in k.name] == ["fused_conv2d_add_relu"]
    kept = build(module(make, [(1, 8, 9, 9)]), cpu_target(), PipelineConfig(fold_batch_norm=False))
    assert any("multiply" in kernel.name for kernel in kept.kernels)
