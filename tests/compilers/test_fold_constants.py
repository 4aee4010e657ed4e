from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.relax.pass_pipeline import (
    fold_batch_norm,
    fold_constants,
    sink_transposes,
)
from tvm_costmodel.compilers.relax.passes.fold_constants import constant_value

from .networks_small import batch_norm, convolution, module, nn, op, values


def operators(mod: tvm.IRModule) -> list[str]:
    names = []
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, tvm.ir.Call):
                names.append(binding.value.op.name.removeprefix("relax.").removeprefix("nn."))
    return names


def outputs(mod: tvm.IRModule, *inputs: np.ndarray) -> np.ndarray:
    machine = relax.VirtualMachine(tvm.compile(mod, tvm.target.Target("llvm")), tvm.cpu())
    return machine["main"](*(tvm.runtime.tensor(x) for x in inputs)).numpy()


def result_constant(mod: tvm.IRModule) -> np.ndarray:
    """The value of a ``main`` that adds a constant to its input."""
    (call,) = (b.value for b in mod["main"].body.blocks[0].bindings)
    return constant_value(call.args[1])


C = values(2, 3, 4)
FOLDED = {
    "permute_dims": (lambda c: op.permute_dims(c, [2, 0, 1]), C.transpose(2, 0, 1)),
    "permute_dims, reversed": (lambda c: op.permute_dims(c), C.transpose()),
    "reshape": (lambda c: op.reshape(c, (4, 6)), C.reshape(4, 6)),
    "expand_dims": (lambda c: op.expand_dims(c, [1]), C[:, None]),
    "squeeze": (lambda c: op.squeeze(relax.op.expand_dims(c, [0]), [0]), C),
    "broadcast_to": (lambda c: op.broadcast_to(c, (5, 2, 3, 4)), np.broadcast_to(C, (5, 2, 3, 4))),
    "arithmetic": (lambda c: op.divide(op.subtract(op.multiply(c, c), c), c), (C * C - C) / C),
    "sqrt": (lambda c: op.sqrt(op.abs(c)), np.sqrt(np.abs(C))),
    "concat": (lambda c: op.concat([c, c], 1), np.concatenate([C, C], 1)),
    "maximum": (lambda c: op.maximum(c, relax.const(0.25, "float32")), np.maximum(C, 0.25)),
    "astype": (lambda c: op.astype(op.astype(c, "float64"), "float32"), C),
}


@pytest.mark.parametrize("name", FOLDED)
def test_constant_operators_are_evaluated(name):
    make, expected = FOLDED[name]
    mod = module(lambda emit, x: op.add(x, make(relax.const(C))), [expected.shape])
    folded = fold_constants()(mod)
    assert operators(folded) == ["add"]
    got = result_constant(folded)
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_operators_without_a_numpy_rule_go_to_tvm():
    mod = module(lambda emit, x: op.add(x, op.sin(relax.const(C))), [C.shape])
    folded = fold_constants()(mod)
    assert operators(folded) == ["add"]
    np.testing.assert_allclose(result_constant(folded), np.sin(C), rtol=1e-6)


def test_scalars_stay_scalars():
    mod = module(
        lambda emit, x: op.add(op.multiply(x, relax.const(2.0)), relax.const(3.0)), [(1, 4, 5, 5)]
    )
    folded = fold_batch_norm(True)(fold_constants()(mod))
    for block in folded["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, tvm.ir.Call):
                assert binding.value.args[1].ty.ndim == 0


def folded_operators(make, shape):
    mod = module(make, [shape])
    folded = fold_batch_norm(True)(fold_constants()(mod))
    x = values(*shape, seed=3)
    np.testing.assert_allclose(outputs(folded, x), outputs(mod, x), rtol=1e-4, atol=1e-4)
    return operators(folded)


def test_batch_norm_moves_into_the_convolution():
    make = lambda emit, x: batch_norm(emit, convolution(emit, x, 6))  # noqa: E731
    assert folded_operators(make, (1, 4, 7, 7)) == ["conv2d", "add"]


@pytest.mark.parametrize("groups", [2, 4])
def test_batch_norm_moves_into_grouped_convolutions(groups):
    make = lambda emit, x: batch_norm(emit, convolution(emit, x, 8, groups=groups))  # noqa: E731
    assert folded_operators(make, (1, 4, 7, 7)) == ["conv2d", "add"]


def test_bias_batch_norm_and_a_scale_merge():
    def make(emit, x):
        y = emit(op.add(convolution(emit, x, 6), relax.const(values(1, 6, 1, 1))))
        y = batch_norm(emit, y)
        y = emit(op.multiply(y, relax.const(values(6, 1, 1, seed=4))))
        return emit(op.add(y, relax.const(values(1, 6, 1, 1, seed=5))))

    assert folded_operators(make, (1, 4, 7, 7)) == ["conv2d", "add"]


def test_a_convolution_that_is_read_twice_keeps_its_weights():
    def make(emit, x):
        y = convolution(emit, x, 6)
        return emit(op.add(batch_norm(emit, y), y))

    assert folded_operators(make, (1, 4, 7, 7)) == ["conv2d", "multiply", "add", "add"]


def test_batch_norm_after_relu_becomes_scale_and_shift():
    make = lambda emit, x: batch_norm(emit, emit(nn.relu(x)))  # noqa: E731
    assert folded_operators(make, (1, 4, 7, 7)) == ["relu", "multiply", "add"]


def test_clip_becomes_bounds_that_layouts_pass_through():
    make = lambda emit, x: op.clip(x, -1, 1)  # noqa: E731
    assert folded_operators(make, (1, 4, 7, 7)) == ["maximum", "minimum"]


def sunk(make, shape):
    mod = module(make, [shape])
    result = sink_transposes()(mod)
    x = values(*shape, seed=3)
    np.testing.assert_allclose(outputs(result, x), outputs(mod, x), rtol=1e-5, atol=1e-5)
    return operators(result)


def test_inverse_transposes_meet_through_elementwise_operators():
    def make(emit, x):
        y = emit(op.permute_dims(x, [0, 3, 1, 2]))
        y = emit(op.add(y, relax.const(values(3, 1, 1))))
        y = emit(op.multiply(emit(nn.relu(y)), y))
        return emit(op.permute_dims(y, [0, 2, 3, 1]))

    assert sunk(make, (2, 5, 7, 3)) == ["add", "relu", "multiply"]


def test_transposes_compose_and_identities_vanish():
    def make(emit, x):
        y = emit(op.permute_dims(x, [1, 2, 0]))
        y = emit(op.permute_dims(y, [1, 2, 0]))
        z = emit(op.permute_dims(emit(op.permute_dims(y, [1, 0, 2])), [1, 0, 2]))
        return emit(nn.relu(emit(op.permute_dims(z, [0, 1, 2]))))

    assert sunk(make, (2, 3, 4)) == ["relu", "permute_dims"]


def test_moving_only_unit_axes_is_a_reshape():
    make = lambda emit, x: op.reshape(emit(op.permute_dims(x, [0, 3, 1, 2])), (1, 12))  # noqa: E731
    assert sunk(make, (1, 1, 1, 12)) == ["reshape"]


def test_operands_in_different_layouts_keep_their_transposes():
    def make(emit, x):
        return emit(op.add(emit(op.permute_dims(x, [0, 2, 1])), x))

    assert sunk(make, (2, 4, 4)) == ["permute_dims", "add"]
