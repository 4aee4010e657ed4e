from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import GraphBuilder
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.measuring.record import KernelTime
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer
from tvm_costmodel.training.kernel_labels import KernelTargets, kernel_targets


def kernel(name: str, calls: int, latency_s: float, *shapes: tuple[int, ...]) -> KernelTime:
    parameters = tuple((shape, "float32") for shape in shapes)
    return KernelTime(name, name, calls, latency_s, 0.01, None, parameters)


def network() -> OpGraph:
    """Two equal convolutions, another one, a max pooling and a dense layer."""
    b = GraphBuilder(1, 8, 16, 16)
    x = b.relu(b.conv(b.relu(b.conv(0, 8)), 8))
    x = b.conv(x, 16)
    n, c, h, w = b.shape(x)
    x = b.add("max_pool2d", [x], (n, c, h // 2, w // 2), kernel=(2, 2), strides=(2, 2))
    return b.graph(b.classify(x, 10))


SAME = ((1, 8, 16, 16), (8, 8, 3, 3), (1, 8, 16, 16))
WIDER = ((1, 2, 16, 16, 4), (16, 8, 3, 3), (1, 16, 16, 16))  # a packed layout, as many elements
POOL = ((1, 16, 16, 16), (1, 16, 8, 8))
DENSE = ((1, 16), (16, 10), (1, 10))


def targets(*kernels: KernelTime) -> KernelTargets:
    graph = network()
    return kernel_targets(graph, PhysicalTokenizer().encode(graph), kernels)


def test_kernels_are_found_again_by_kind_and_elements() -> None:
    grouped = targets(
        kernel("fused_conv2d_relu", 2, 1e-3, *SAME),
        kernel("fused_conv2d", 1, 5e-3, *WIDER),
        kernel("max_pool2d", 1, 1e-4, *POOL),
        kernel("fused_dense_add", 1, 2e-4, *DENSE),
        kernel("layout_transform", 1, 9e-4, *POOL),
    )
    # tokens: three convolutions, two poolings, dense; the mean pooling's kernel was not timed
    assert grouped.group.tolist() == [0, 0, 1, 2, -1, 3]
    np.testing.assert_allclose(grouped.target_ms, [2.0, 5.0, 0.1, 0.2])


def test_several_kernels_of_one_group_add_up() -> None:
    grouped = targets(kernel("conv2d", 1, 1e-3, *SAME), kernel("conv2d_relu", 1, 3e-3, *SAME))
    assert grouped.group.tolist() == [0, 0, -1, -1, -1, -1]
    assert grouped.target_ms == pytest.approx([4.0])


def test_groups_with_another_number_of_calls_are_left_out() -> None:
    grouped = targets(kernel("conv2d", 3, 1e-3, *SAME), kernel("conv2d", 1, 5e-3, *WIDER))
    assert grouped.group.tolist() == [-1, -1, 0, -1, -1, -1]
    assert grouped.target_ms == pytest.approx([5.0])


def test_without_kernels_there_are_no_groups() -> None:
    grouped = targets()
    assert set(grouped.group) == {-1} and grouped.target_ms.shape == (0,)
