"""The nine networks that ship with ONNX, compiled and run: outputs must be onnxruntime's."""

from __future__ import annotations

import pytest

from tests.networks import (
    ONNX_NETWORKS,
    onnx_inputs,
    onnx_network,
    randomised,
    run_onnxruntime,
    without_softmax,
)
from tvm_costmodel.compilers.relax import PipelineConfig, build, compare_outputs, cpu_target
from tvm_costmodel.compilers.relax.verification import run
from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax

FAST = ("shufflenet",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in ONNX_NETWORKS],
)
def test_outputs_equal_onnxruntime(name):
    model = load_onnx(without_softmax(randomised(onnx_network(name))))
    mod = onnx_to_relax(model)
    built = build(mod, cpu_target(), PipelineConfig())
    assert built.unscheduled == ()
    inputs = onnx_inputs(model)
    expected = run_onnxruntime(model, inputs)
    difference = compare_outputs(run(built.executable, list(inputs.values())), expected, rtol=2e-5)
    assert difference.equal, difference
    # the outputs differ from each other, so that equality means something
    assert expected[0].std() > 1e-3 * abs(expected[0]).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "inception_v2", "resnet50"])
def test_channels_first_equals_onnxruntime(name):
    model = load_onnx(without_softmax(randomised(onnx_network(name))))
    built = build(onnx_to_relax(model), cpu_target(), PipelineConfig(layout="NCHW"))
    inputs = onnx_inputs(model)
    expected = run_onnxruntime(model, inputs)
    difference = compare_outputs(run(built.executable, list(inputs.values())), expected, rtol=2e-5)
    assert difference.equal, difference
