"""The table of kernels: amounts of work by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import GraphBuilder
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer
from tvm_costmodel.tokenizer.roofline_terms import CLASSES, TERMS, KernelTable, kernel_table


def table(graph: OpGraph) -> KernelTable:
    return kernel_table([PhysicalTokenizer().encode(graph)])


def amounts(kernels: KernelTable, at: int) -> dict[str, float]:
    return dict(zip(TERMS, kernels.amount[at].tolist(), strict=True))


def test_a_convolution_is_a_matmul_and_what_alone_follows_is_fused_with_it() -> None:
    b = GraphBuilder(1, 16, 8, 8)
    y = b.conv(0, 32, 3)
    z = b.sum(b.relu(y), y)
    kernels = table(b.graph(b.relu(z)))
    convolution, first, add, last = range(4)
    outputs, depth = 32 * 8 * 8, 16 * 3 * 3
    bytes_in, bytes_out, weights = 4 * 16 * 64, 4 * outputs, 4 * 32 * depth
    assert amounts(kernels, convolution) == {
        "arithmetic": pytest.approx(outputs * depth / 1e9, rel=1e-5),
        "activations": pytest.approx((bytes_in + bytes_out) / 1e9, rel=1e-5),
        "weights": pytest.approx(weights / 1e9, rel=1e-5),
        "depth": pytest.approx(depth / 1e3, rel=1e-5),
        "kernels": 1.0,
    }
    # the first clamp shares what it reads with the addition, the last one follows it alone
    groups = [CLASSES[group] for group in kernels.group]
    assert groups == ["product", "other", "other", "joined"]
    moved = pytest.approx(2 * bytes_out / 1e9, rel=1e-5)
    nothing = {"arithmetic": 0.0, "weights": 0.0, "depth": 0.0}
    assert amounts(kernels, first) == {**nothing, "activations": moved, "kernels": 1.0}
    assert amounts(kernels, last) == {**nothing, "activations": moved, "kernels": 0.0}
    assert kernels.kind[first] != kernels.kind[last]
    assert amounts(kernels, add)["activations"] == pytest.approx(3 * bytes_out / 1e9, rel=1e-5)
    np.testing.assert_allclose(kernels.place[convolution, :3], np.log([64, 32, depth]))


@pytest.mark.parametrize(
    ("op", "shape", "attributes", "window"),
    [
        ("max_pool2d", (1, 32, 4, 4), {"kernel": (3, 3), "strides": (2, 2)}, 9),
        ("avg_pool2d", (1, 32, 7, 6), {"kernel": (2, 3), "strides": (1, 1)}, 6),
        ("adaptive_avg_pool2d", (1, 32, 1, 1), {"output_size": (1, 1)}, 64),
        ("mean", (1, 32, 1, 1), {"axis": (2, 3), "keepdims": True}, 64),
    ],
)
def test_pooling_reads_elements_one_after_the_other(op, shape, attributes, window) -> None:
    b = GraphBuilder(1, 32, 8, 8)
    attributes = {"padding": (0, 0, 0, 0), **attributes} if "kernel" in attributes else attributes
    kernels = table(b.graph(b.add(op, [0], shape, **attributes)))
    outputs = int(np.prod(shape))
    assert CLASSES[kernels.group[0]] == "window"
    assert amounts(kernels, 0) == {
        "arithmetic": pytest.approx(window * outputs / 1e9, rel=1e-4),
        "activations": pytest.approx(4 * (32 * 64 + outputs) / 1e9, rel=1e-4),
        "weights": 0.0,
        "depth": pytest.approx(window / 1e3, rel=1e-4),
        "kernels": 1.0,
    }
