"""Pooling, reductions, softmax and norms against NumPy, on shapes that no vector divides."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target
from tvm_costmodel.compilers.relax.verification import run

from .cpu_rule_cases import fused_module, schedule, target

nn, op = relax.op.nn, relax.op


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def result(make, x, cores=1):
    """The rule's result for a function of one input; every kernel must be taken."""
    scheduled, rule = schedule(fused_module(lambda b, a: make(a), [x.shape]), cores=cores)
    assert rule.unscheduled == []
    assert set(rule.template_of.values()) <= {"pooling", "row_reduction", "elementwise"}
    machine = relax.VirtualMachine(tvm.compile(scheduled, target(cores)), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def window_view(x, kernel, strides, padding, fill):
    """Windows of an NHWC array: (N, out height, out width, C, kernel height, kernel width)."""
    top, left, bottom, right = padding
    x = np.pad(x, [(0, 0), (top, bottom), (left, right), (0, 0)], constant_values=fill)
    slid = np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(1, 2))
    return slid[:, :: strides[0], :: strides[1]]


POOLS = {
    "3x3, stride 2": ((3, 3), (2, 2), (0, 0, 0, 0)),
    "3x3, stride 2, padded": ((3, 3), (2, 2), (1, 1, 1, 1)),
    "3x3, stride 1, padded": ((3, 3), (1, 1), (1, 1, 1, 1)),
    "2x3, uneven": ((2, 3), (1, 2), (0, 2, 1, 0)),
    "whole image": ((9, 11), (1, 1), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [3, 72, 33])
@pytest.mark.parametrize("case", POOLS)
def test_max_pool(case, channels, layout):
    kernel, strides, padding = POOLS[case]
    x = values(1, 9, 11, channels)
    expected = window_view(x, kernel, strides, padding, -np.inf).max((-1, -2))
    if layout == "NCHW":
        x, expected = np.moveaxis(x, 3, 1).copy(), np.moveaxis(expected, 3, 1)
    got = result(lambda a: nn.max_pool2d(a, kernel, strides, padding, layout=layout), x)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("count_include_pad", [True, False])
@pytest.mark.parametrize("channels", [5, 48])
@pytest.mark.parametrize("case", POOLS)
def test_average_pool(case, channels, count_include_pad):
    kernel, strides, padding = POOLS[case]
    x = values(1, 9, 11, channels)
    total = window_view(x, kernel, strides, padding, 0).sum((-1, -2))
    inside = window_view(np.ones_like(x), kernel, strides, padding, 0).sum((-1, -2))
    size = kernel[0] * kernel[1] if count_include_pad else inside
    got = result(
        lambda a: nn.avg_pool2d(
            a, kernel, strides, padding, layout="NHWC", count_include_pad=count_include_pad
        ),
        x,
    )
    np.testing.assert_allclose(got, total / size, rtol=1e-5, atol=1e-6)


def test_dilated_and_ceil_mode_pools():
    x = values(1, 10, 9, 20)
    got = result(lambda a: nn.max_pool2d(a, (3, 3), dilation=(2, 2), layout="NHWC"), x)
    expected = window_view(x, (5, 5), (1, 1), (0, 0, 0, 0), 0)[..., ::2, ::2].max((-1, -2))
    np.testing.assert_array_equal(got, expected)
    got = result(lambda a: nn.max_pool2d(a, (3, 3), (2, 2), layout="NHWC", ceil_mode=True), x)
    expected = window_view(x, (3, 3), (2, 2), (0, 0, 1, 0), -np.inf).max((-1, -2))
    np.testing.assert_array_equal(got, expected)


def test_adaptive_average_pool():
    x = values(1, 14, 21, 24)
    got = result(lambda a: nn.adaptive_avg_pool2d(a, (7, 7), layout="NHWC"), x)
    expected = x.reshape(1, 7, 2, 7, 3, 24).mean((2, 4))
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


REDUCED = [
    ((1, 13, 13, 1000), (1, 2)),
    ((1, 40, 7, 7), (2, 3)),
    ((3, 197), (1,)),
    ((5, 6, 7), (0,)),
    ((5, 6, 7), (0, 2)),
    ((2, 3, 129), (2,)),
    ((1, 17), (0, 1)),
]


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(("shape", "axes"), REDUCED)
def test_sum_mean_and_max(shape, axes, cores):
    x = values(*shape)
    for make, expected in (
        (op.sum, x.astype("float64").sum(axes)),
        (op.mean, x.astype("float64").mean(axes)),
        (op.max, x.max(axes)),
    ):
        got = result(lambda a, make=make: make(a, list(axes)), x, cores)
        np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize(("shape", "axis"), [((1, 1000), 1), ((2, 3, 197), 2), ((4, 7, 5), 1)])
def test_softmax(shape, axis, cores):
    x = 20 * values(*shape)
    power = np.exp(x.astype("float64") - x.max(axis, keepdims=True))
    expected = power / power.sum(axis, keepdims=True)
    got = result(lambda a: nn.softmax(a, axis), x, cores)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(got.sum(axis), 1, rtol=1e-5)
    got = result(lambda a: nn.log_softmax(a, axis), x, cores)
    np.testing.assert_allclose(got, np.log(np.maximum(expected, 1e-300)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [40, 33, 200])
def test_layer_norm(width):
    x, gamma, beta = 3 + values(7, width), values(width, seed=1), values(width, seed=2)
    make = lambda a: nn.layer_norm(a, relax.const(gamma), relax.const(beta), axes=-1)  # noqa: E731
    x64 = x.astype("float64")
    scaled = (x64 - x64.mean(1, keepdims=True)) / np.sqrt(x64.var(1, keepdims=True) + 1e-5)
    scheduled, _ = schedule(fused_module(lambda b, a: make(a), [x.shape]))
    machine = relax.VirtualMachine(tvm.compile(scheduled, target()), tvm.cpu())
    got = machine["main"](tvm.runtime.tensor(x)).numpy()
    np.testing.assert_allclose(got, scaled * gamma + beta, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize("channels", [3, 40, 96])
def test_local_response_normalisation(channels, layout):
    # as the ONNX importer writes it: a mean of squares over five neighbouring channels
    x = values(1, channels, 6, 7)
    builder = relax.BlockBuilder()
    data = relax.Var("x", relax.TensorType(list(x.shape), "float32"))
    weight = relax.const(np.eye(channels, dtype="float32").reshape(channels, channels, 1, 1))
    with builder.function("main", [data]):
        with builder.dataflow():
            y = builder.emit(nn.conv2d(data, weight))
            square = builder.emit(op.expand_dims(builder.emit(op.multiply(y, y)), [1]))
            pads = (2, 0, 0, 2, 0, 0)
            mean = nn.avg_pool3d(square, (5, 1, 1), padding=pads, count_include_pad=True)
            mean = builder.emit(mean)
            mean = builder.emit(op.squeeze(mean, [1]))
            base = builder.emit(op.multiply(mean, relax.const(1e-2, "float32")))
            base = builder.emit(op.add(base, relax.const(2.0, "float32")))
            root = builder.emit(op.power(base, relax.const(0.75, "float32")))
            out = builder.emit_output(op.divide(y, root))
        builder.emit_func_output(out)
    built = build(builder.get(), cpu_target(), PipelineConfig(layout=layout))
    assert built.unscheduled == ()
    (got,) = run(built.executable, [x])
    padded = np.pad(x.astype("float64") ** 2, [(0, 0), (2, 2), (0, 0), (0, 0)])
    means = sum(padded[:, k : k + channels] for k in range(5)) / 5
    np.testing.assert_allclose(got, x / (2 + 1e-2 * means) ** 0.75, rtol=1e-5, atol=1e-6)
