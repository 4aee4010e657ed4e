from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.relax.verification import compare_outputs, random_inputs, verify
from tvm_costmodel.errors import BuildError

from .networks_small import module, nn, op


def test_differences_are_measured_against_the_largest_output():
    expected = [np.array([100.0, -1.0], "float32"), np.array([2.0], "float32")]
    got = [np.array([100.5, -1.0], "float32"), np.array([2.004], "float32")]
    difference = compare_outputs(got, expected, rtol=0.01)
    assert difference.equal
    assert difference.max_abs_err == pytest.approx(0.5) and difference.max_rel_err == pytest.approx(
        5e-3
    )
    assert not compare_outputs(got, expected, rtol=1e-3).equal


def test_shapes_and_infinities_must_agree():
    one = [np.ones((2, 3), "float32")]
    assert not compare_outputs([np.ones((3, 2), "float32")], one).equal
    assert not compare_outputs([], one).equal
    broken = [np.array([[1, np.nan, 1], [1, 1, np.inf]], "float32")]
    assert not compare_outputs(broken, one).equal
    assert compare_outputs(broken, broken).equal


def test_two_builds_and_a_callable_as_reference():
    mod = module(lambda emit, x: nn.relu(x), [(3, 5)])
    other = module(lambda emit, x: op.abs(x), [(3, 5)])
    target = tvm.target.Target("llvm")
    relu, absolute = tvm.compile(mod, target), tvm.compile(other, target)
    inputs = random_inputs(mod)
    assert verify(relu, tvm.compile(mod, target), inputs).max_abs_err == 0
    assert verify(relu, lambda x: [np.maximum(x, 0)], inputs).equal
    difference = verify(relu, absolute, inputs)
    assert not difference.equal and difference.max_abs_err == pytest.approx(-inputs[0].min())


def test_inputs_follow_seed_and_dtype():
    mod = module(lambda emit, x: op.add(x, x), [(4, 6)], dtype="int64")
    (first,), (second,) = random_inputs(mod, 1), random_inputs(mod, 1)
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int64 and set(np.unique(first)) <= {0, 1}
    size = tvm.tirx.Var("n", "int64")
    data = relax.Var("data", relax.TensorType([size, 3], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [data]):
        builder.emit_func_output(builder.emit(nn.relu(data)))
    with pytest.raises(BuildError, match="'data'"):
        random_inputs(builder.get())
