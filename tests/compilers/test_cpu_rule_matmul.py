from __future__ import annotations

import pytest
from tvm import relax

from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig

from .cpu_rule_cases import assert_same_result, weights

nn, op = relax.op.nn, relax.op


@pytest.mark.parametrize("rows", [1, 3, 7, 50])
@pytest.mark.parametrize(("steps", "lanes"), [(64, 1000), (17, 33), (3, 7), (130, 1), (1, 20)])
@pytest.mark.parametrize("pack", [True, False])
def test_dense_with_bias_and_relu(rows, steps, lanes, pack):
    def build(builder, x):
        y = builder.emit(op.matmul(x, weights(steps, lanes)))
        return nn.relu(builder.emit(op.add(y, weights(lanes, seed=3))))

    config = CpuRuleConfig(pack_weights=pack)
    assert_same_result(build, [(rows, steps)], "channels_last", config)


def test_dense_over_tokens_of_a_batch():
    def build(builder, x):
        y = builder.emit(op.matmul(x, weights(48, 72)))
        return nn.gelu(builder.emit(op.add(y, weights(72, seed=3))))

    assert_same_result(build, [(2, 19, 48)], "channels_last")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((1, 3, 50, 64), (1, 3, 64, 50)),
        ((2, 4, 7, 5), (2, 4, 5, 9)),
        ((3, 1, 17), (3, 17, 33)),
    ],
)
def test_batched_matmul(left, right):
    def build(builder, x, y):
        return op.matmul(x, y)

    assert_same_result(build, [left, right], "channels_last")


def test_batched_matrix_times_vector():
    def build(builder, x, y):
        return op.matmul(x, y)

    # One column: the rows of the left operand are the output's neighbours.
    assert_same_result(build, [(5, 13, 16), (5, 16, 1)], "channels_first")


@pytest.mark.parametrize(("rows", "steps", "lanes"), [(50, 64, 50), (7, 5, 9), (1, 16, 40)])
def test_right_operand_transposed_in_the_function(rows, steps, lanes):
    te = pytest.importorskip("tvm.te")

    def transposed(a, b):
        k = te.reduce_axis((0, steps), "k")
        return te.compute((3, rows, lanes), lambda i, m, n: te.sum(a[i, m, k] * b[i, n, k], k))

    def build(builder, x, y):
        return builder.call_te(transposed, x, y)

    assert_same_result(build, [(3, rows, steps), (3, lanes, steps)], "channels_last")


def test_several_cores_run_parallel_loops():
    def build(builder, x):
        return op.matmul(x, weights(48, 72))

    scheduled = assert_same_result(build, [(30, 48)], "channels_last", cores=2)
    assert "T.parallel" in scheduled.script()
