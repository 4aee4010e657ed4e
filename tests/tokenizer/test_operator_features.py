"""Tokens of physical quantities, by values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.graphs import GraphBuilder, resnet_graph, unknown_graph
from tvm_costmodel.errors import CheckpointError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.tokenizer.operator_features import (
    CATEGORY_OF_SLOT,
    FEATURES,
    PhysicalTokenizer,
    PhysicalTokens,
)
from tvm_costmodel.tokenizer.vocabulary import VOCABULARY


def encode(graph: OpGraph) -> PhysicalTokens:
    return PhysicalTokenizer().encode(graph)


def slots(tokens: PhysicalTokens) -> list[str]:
    return [VOCABULARY[slot] for slot in tokens.slot]


def feature(tokens: PhysicalTokens, token: int, name: str) -> float:
    return float(tokens.numbers[token, FEATURES.index(name)])


def amount(tokens: PhysicalTokens, token: int, name: str) -> float:
    """A feature that is a logarithm, as the amount itself."""
    return math.expm1(4 * feature(tokens, token, name))


def matmul(tokens: PhysicalTokens, token: int) -> list[float]:
    names = ("product rows", "product columns", "product depth")
    return [amount(tokens, token, name) for name in names]


def test_a_convolution_takes_in_its_bias_norm_and_relu() -> None:
    b = GraphBuilder(1, 3, 32, 32)
    conv = b.conv(0, 16)
    x = b.add("add", [conv], b.shape(conv), [(16, 1, 1)])
    tokens = encode(b.graph(b.relu(b.norm(x))))
    assert slots(tokens) == ["conv2d"] and tokens.anchor.tolist() == [conv]
    folded = {
        name: feature(tokens, 0, f"folded {name}")
        for name in ("batch_norm", "add", "multiply", "relu", "clip")
    }
    assert folded == {"batch_norm": 1, "add": 1, "multiply": 0, "relu": 1, "clip": 0}
    assert tokens.edges.shape == (0, 2)


def test_what_two_operators_read_is_folded_into_neither() -> None:
    b = GraphBuilder(1, 3, 32, 32)
    conv = b.conv(0, 16)
    norm, relu = b.norm(conv), b.relu(conv)
    total = b.sum(norm, relu)
    tokens = encode(b.graph(total))
    assert slots(tokens) == ["conv2d", "batch_norm", "relu", "add"]
    assert tokens.edges.tolist() == [[0, 1], [0, 2], [1, 3], [2, 3]]
    assert feature(tokens, 0, "folded relu") == 0
    assert feature(tokens, 0, "consumers") == 2 / 4


def test_nothing_is_folded_into_what_is_no_product() -> None:
    b = GraphBuilder(1, 16, 8, 8)
    pool = b.add("max_pool2d", [0], (1, 16, 4, 4), kernel=(2, 2), strides=(2, 2))
    assert slots(encode(b.graph(b.relu(pool)))) == ["max_pool2d", "relu"]


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("gate_first", [True, False])
def test_a_hard_swish_written_out_is_one_token(scaled: bool, gate_first: bool) -> None:
    b = GraphBuilder(1, 3, 32, 32)
    x = b.conv(0, 16)
    shape = b.shape(x)
    gate = b.add("clip", [b.add("add", [x], shape, [()])], shape, min=0.0, max=6.0)
    gate = b.add("multiply", [gate], shape, [()]) if scaled else gate
    last = b.add("multiply", [gate, x] if gate_first else [x, gate], shape)
    tokens = encode(b.graph(b.conv(last, 8)))
    assert slots(tokens) == ["conv2d", "silu", "conv2d"]  # hard swish shares silu's slot
    assert tokens.anchor.tolist() == [x, last, last + 1]
    assert tokens.edges.tolist() == [[0, 1], [1, 2]]


def test_a_gate_that_is_read_elsewhere_is_no_hard_swish() -> None:
    b = GraphBuilder(1, 3, 32, 32)
    x = b.conv(0, 16)
    shape = b.shape(x)
    gate = b.add("clip", [b.add("add", [x], shape, [()])], shape, min=0.0, max=6.0)
    last = b.add("multiply", [x, gate], shape)
    tokens = encode(b.graph(b.sum(last, gate)))
    assert slots(tokens) == ["conv2d", "add", "clip", "multiply", "add"]


def test_views_and_inputs_are_no_tokens_and_edges_go_through_them() -> None:
    b = GraphBuilder(1, 3, 8, 8)
    graph = b.graph(b.classify(b.conv(0, 12), 10))  # convolution, pooling, flatten, dense
    tokens = encode(graph)
    assert [graph.operators[i].op for i in tokens.anchor] == [
        "conv2d",
        "adaptive_avg_pool2d",
        "dense",
    ]
    assert tokens.edges.tolist() == [[0, 1], [1, 2]]
    assert len(encode(resnet_graph())) == 53 + 16 + 16 + 1 + 1 + 1  # + sums, relus, pools, dense


def test_products_of_a_convolution_a_depthwise_one_and_a_dense() -> None:
    b = GraphBuilder(1, 3, 32, 32)
    x = b.conv(0, 16, kernel=3, stride=2)
    x = b.conv(x, 16, kernel=5, groups=16)
    x = b.conv(x, 24, kernel=1, groups=2)
    tokens = encode(b.graph(b.classify(x, 10)))
    assert matmul(tokens, 0) == pytest.approx([16 * 16, 16, 3 * 9], rel=1e-5)
    assert matmul(tokens, 1) == pytest.approx([16 * 16, 1, 25], rel=1e-5)
    assert matmul(tokens, 2) == pytest.approx([16 * 16, 12, 8], rel=1e-5)
    assert matmul(tokens, 4) == pytest.approx([1, 10, 24], rel=1e-5)
    assert matmul(tokens, 3) == pytest.approx([0, 0, 0])  # a pooling is none
    flags = ("depthwise", "pointwise", "grouped", "strided")
    assert [[feature(tokens, i, name) for name in flags] for i in range(3)] == [
        [0, 0, 0, 1],
        [1, 0, 0, 0],
        [0, 1, 1, 0],
    ]
    assert feature(tokens, 2, "columns filled at 8") == pytest.approx(12 / 16)
    assert feature(tokens, 2, "columns filled at 4") == 1
    assert feature(tokens, 0, "depth filled at 8") == pytest.approx(27 / 32)


def test_work_is_in_1e9_macs_and_bytes() -> None:
    b = GraphBuilder(1, 3, 32, 32)
    conv = b.conv(0, 16)
    tokens = encode(b.graph(b.add("max_pool2d", [conv], (1, 16, 16, 16), kernel=(2, 2))))
    moved = 4 * (3 * 32 * 32 + 16 * 27 + 16 * 32 * 32)
    np.testing.assert_allclose(tokens.work[0], [16 * 32 * 32 * 27 / 1e9, moved / 1e9, 1], rtol=1e-6)
    assert 0 < tokens.work[1, 0] < tokens.work[0, 0] / 10  # half of a pooling's operations
    np.testing.assert_allclose(tokens.work[1, 1], 4 * (16 * 32 * 32 + 16 * 16 * 16) / 1e9)
    assert amount(tokens, 0, "macs") == pytest.approx(16 * 32 * 32 * 27, rel=1e-4)
    assert amount(tokens, 0, "weight bytes") == pytest.approx(4 * 16 * 27, rel=1e-4)


def test_twice_the_channels_is_the_same_step_at_every_size() -> None:
    def macs(channels: int) -> float:
        b = GraphBuilder(1, channels, 16, 16)
        return feature(encode(b.graph(b.conv(0, channels))), 0, "macs")

    assert macs(64) - macs(32) == pytest.approx(math.log(4) / 4, abs=1e-5)
    assert macs(1024) - macs(512) == pytest.approx(math.log(4) / 4, abs=1e-5)


def test_unknown_operators_and_categories() -> None:
    tokens = encode(unknown_graph())
    assert slots(tokens) == ["conv2d", "unknown", "relu"]
    category = dict(zip(VOCABULARY, CATEGORY_OF_SLOT, strict=True))
    assert category["unknown"] == category["other"] != category["relu"]
    assert category["tanh"] == category["gelu"] == category["silu"] == category["relu"]
    assert len(set(CATEGORY_OF_SLOT)) == 7


def test_a_graph_without_work_and_a_dynamic_one_are_refused() -> None:
    b = GraphBuilder(1, 4, 2, 2)
    with pytest.raises(GraphError, match="no operators that compute"):
        encode(b.graph(b.add("flatten", [0], (1, 16))))
    kinds = (TensorType((-1, 8), "float32"),)
    graph = OpGraph(
        (Operator("input", (), kinds), Operator("relu", ((0, 0),), kinds)), ((1, 0),), "dyn"
    )
    with pytest.raises(GraphError, match=r"'?dyn'? has dimensions unknown.*--shape"):
        encode(graph)


def test_a_description_of_another_version_is_refused() -> None:
    description = PhysicalTokenizer().describe()
    assert encode(resnet_graph((1,), 8, 32)).numbers.shape[1] == len(description["features"])
    PhysicalTokenizer.from_description(description)
    for other in (
        {**description, "version": 99},
        {**description, "features": description["features"][1:]},
        {**description, "vocabulary": []},
        {},
    ):
        with pytest.raises(CheckpointError, match="train it again"):
            PhysicalTokenizer.from_description(other)
