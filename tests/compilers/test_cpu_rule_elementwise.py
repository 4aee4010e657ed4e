from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.cpu_rule import CpuScheduleRule
from tvm_costmodel.compilers.cpu_rule.templates.elementwise import TEMPLATES as ELEMENTWISE

from .cpu_rule_cases import fused_module, schedule, target

nn, op = relax.op.nn, relax.op


def check(build, inputs, expected, cores=1, **tolerance):
    """Asserts that one template takes the only kernel and that its result is NumPy's."""
    mod = fused_module(build, [x.shape for x in inputs])
    scheduled, rule = schedule(mod, cores=cores)
    assert list(rule.template_of.values()) == ["elementwise"], (rule.template_of, rule.unscheduled)
    machine = relax.VirtualMachine(tvm.compile(scheduled, target(cores)), tvm.cpu())
    got = machine["main"](*(tvm.runtime.tensor(x) for x in inputs)).numpy()
    np.testing.assert_allclose(got, expected, **{"rtol": 1e-6, "atol": 1e-6, **tolerance})


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.mark.parametrize("cores", [1, 2])
@pytest.mark.parametrize("shape", [(1, 7, 5, 3), (2, 3, 17), (1, 1, 1, 1), (33,), (1, 13, 13, 40)])
def test_chain_of_elementwise_operators(shape, cores):
    x, y = values(*shape), values(*shape, seed=1)

    def build(builder, a, b):
        return nn.relu(builder.emit(op.subtract(builder.emit(op.multiply(a, b)), a)))

    check(build, [x, y], np.maximum(x * y - x, 0), cores)


@pytest.mark.parametrize("axis", [1, 3])
def test_scale_and_shift_along_an_axis(axis):
    x = values(1, 19, 11, 21)
    shape = [1, 1, 1, 1]
    shape[axis] = x.shape[axis]
    scale = values(*shape, seed=1)
    check(lambda builder, a, b: op.multiply(a, b), [x, scale], x * scale)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("cores", [1, 2])
def test_concatenation_along_any_axis(axis, cores):
    shapes = [[2, 5, 6, 7] for _ in range(3)]
    for size, shape in zip((3, 1, 18), shapes, strict=True):
        shape[axis] = size
    parts = [values(*shape, seed=i) for i, shape in enumerate(shapes)]

    def build(builder, *inputs):
        return nn.relu(builder.emit(op.concat(list(inputs), axis)))

    check(build, parts, np.maximum(np.concatenate(parts, axis), 0), cores)


@pytest.mark.parametrize("axes", [(0, 2, 3, 1), (0, 3, 1, 2), (0, 2, 1, 3), (3, 2, 1, 0)])
@pytest.mark.parametrize("shape", [(1, 3, 17, 20), (1, 24, 14, 33), (2, 16, 16, 16)])
def test_transposes(axes, shape):
    x = values(*shape)
    check(lambda builder, a: op.permute_dims(a, axes), [x], np.transpose(x, axes))


@pytest.mark.parametrize(("groups", "channels"), [(2, 24), (4, 136), (3, 27), (17, 34)])
def test_channel_shuffle(groups, channels):
    x = values(1, 7, 5, channels)

    def build(builder, a):
        first = builder.emit(op.permute_dims(a, [0, 3, 1, 2]))
        split = builder.emit(op.reshape(first, (1, groups, channels // groups, 7, 5)))
        swapped = builder.emit(op.permute_dims(split, [0, 2, 1, 3, 4]))
        merged = builder.emit(op.reshape(swapped, (1, channels, 7, 5)))
        return op.permute_dims(merged, [0, 2, 3, 1])

    order = np.arange(channels).reshape(groups, -1).T.ravel()
    check(build, [x], x[..., order])


def test_padding_and_slice():
    x = values(1, 9, 10, 19)
    pads = [0, 0, 1, 2, 3, 0, 2, 5]
    padded = np.pad(x, [(0, 0), (1, 2), (3, 0), (2, 5)], constant_values=0.5)
    check(lambda builder, a: nn.pad(a, pads, pad_value=0.5), [x], padded)
    check(
        lambda builder, a: op.strided_slice(a, [1, 3], [2, 1], [9, 18], [3, 2]),
        [x],
        x[:, 2:9:3, :, 1:18:2],
    )


@pytest.mark.parametrize("shapes", [((3, 1, 5), (1, 17, 5)), ((4, 19), (1,)), ((1, 1), (6, 40))])
def test_broadcasts(shapes):
    x, y = values(*shapes[0]), values(*shapes[1], seed=1)
    check(lambda builder, a, b: op.add(a, b), [x, y], x + y)


def reference(function):
    return lambda x: np.vectorize(function)(x.astype("float64"))


LIBRARY = {
    "exp": (op.exp, np.exp),
    "tanh": (op.tanh, np.tanh),
    "erf": (op.erf, reference(math.erf)),
    "sigmoid": (op.sigmoid, lambda x: 1 / (1 + np.exp(-x.astype("float64")))),
    "gelu": (nn.gelu, reference(lambda x: x / 2 * (1 + math.erf(x / math.sqrt(2))))),
    "silu": (nn.silu, lambda x: x / (1 + np.exp(-x.astype("float64")))),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_library_functions_are_accurate(name):
    build, expected = LIBRARY[name]
    x = np.concatenate([np.linspace(-12, 12, 997), [0.0, -0.0, 1e-9, -1e-9, 40.0, -40.0]])
    x = x.astype("float32").reshape(17, 59)
    # gelu multiplies what erf leaves of 1 + erf by x
    atol = 2e-6 if name == "gelu" else 3e-7
    check(lambda builder, a: build(a), [x], expected(x), rtol=2e-6, atol=atol)


def vector_math(build, x):
    mod, _ = schedule(fused_module(lambda builder, a: build(a), [x.shape]))
    machine = relax.VirtualMachine(tvm.compile(mod, target()), tvm.cpu())
    return machine["main"](tvm.runtime.tensor(x)).numpy()


def test_exp_is_zero_far_below_and_infinite_above():
    x = np.array([-np.inf, -3e38, -200, -104, -87.01, 88.7229, 89, 3e38, np.inf] * 3, "float32")
    np.testing.assert_array_equal(vector_math(op.exp, x), ([0] * 5 + [np.inf] * 4) * 3)
    inside = np.concatenate([np.linspace(-86.98, 88.7228, 4099), [-0.0, 1e-38, 88.72283]])
    inside = inside.astype("float32")
    np.testing.assert_allclose(vector_math(op.exp, inside), np.exp(inside.astype("float64")), 2e-7)


@pytest.mark.parametrize("name", ["exp", "tanh", "erf", "sigmoid"])
def test_vector_functions_keep_nan_and_have_limits(name):
    x = np.array([np.nan, -np.nan, -np.inf, np.inf, 0.0] * 5, "float32")
    limits = {"exp": (0, np.inf, 1), "sigmoid": (0, 1, 0.5)}.get(name, (-1, 1, 0))
    got = vector_math(getattr(op, name), x)
    np.testing.assert_allclose(got, [np.nan, np.nan, *limits] * 5, atol=3e-7)


@pytest.mark.parametrize("exponent", [0.5, 0.75, 2.0, 3.0, 1.7])
def test_powers(exponent):
    x = np.abs(values(3, 41)) + 0.1
    build = lambda builder, a: op.power(a, relax.const(exponent, "float32"))  # noqa: E731
    check(build, [x], x**exponent, rtol=2e-6)


def test_contiguous_axes_become_one_vector_loop():
    # 3 x 5 x 7 = 105 elements: one loop of vectors of 16 and one that overlaps, none per row of 7
    mod = fused_module(lambda builder, a: nn.relu(a), [(3, 5, 7)])
    scheduled, _ = schedule(mod)
    (func,) = (f for v, f in scheduled.functions_items() if v.name_hint != "main")
    text = func.script()
    lanes = 16 if "avx512f" in tvm.target.codegen.llvm_get_cpu_features(target()) else None
    if lanes:
        assert text.count(f"T.vectorized(T.int64({lanes}))") == 2
        assert "range(T.int64(6))" in text


def test_a_function_with_a_reduction_is_declined():
    mod = fused_module(lambda builder, a: op.sum(a, [1]), [(3, 40)])
    _, rule = schedule(mod)
    assert "elementwise" not in rule.template_of.values()
    assert isinstance(rule, CpuScheduleRule) and len(ELEMENTWISE) == 1
