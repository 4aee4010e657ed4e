from __future__ import annotations

import math

import numpy as np
import pytest

from tests.graphs import GraphBuilder, resnet_graph, unknown_graph
from tvm_costmodel.errors import CheckpointError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.ops import CATALOGUE
from tvm_costmodel.tokenizer import SLOT_OF_OPERATOR, VOCABULARY, Tokenizer, TokenizerConfig
from tvm_costmodel.tokenizer.nar_former import encode_numbers


def positions(value: float) -> list[float]:
    """The published encoding of one number, written out: sin and cos of value / 10000^(j/5)."""
    return [f(value / 10000 ** (j / 5)) for j in range(5) for f in (math.sin, math.cos)]


def test_every_operator_of_the_catalogue_has_one_of_the_32_slots() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 32
    assert set(SLOT_OF_OPERATOR) == set(CATALOGUE)
    assert VOCABULARY[-1] == "unknown"
    assert VOCABULARY.index("unknown") not in SLOT_OF_OPERATOR.values()


def test_published_sizes() -> None:
    assert TokenizerConfig().channels == 152
    assert TokenizerConfig().static_channels == 40


def test_golden_tokens_of_a_convolution() -> None:
    builder = GraphBuilder(2, 3, 16, 16)
    tokens = Tokenizer().encode(builder.graph(builder.conv(0, 12, kernel=5, stride=2)))
    conv = tokens.features[1]
    assert tokens.features.shape == (2, 152) and tokens.features.dtype == np.float32
    assert np.flatnonzero(conv[:32]).tolist() == [VOCABULARY.index("conv2d")]
    # kernel, stride, padding, dilation, groups, bias as published, then kernel width, channels in
    attributes = [5, 2, 2, 1, 1, 0, 5, 3]
    expected = np.concatenate([positions(value) for value in attributes])
    np.testing.assert_allclose(conv[32:112], expected, atol=1e-5)
    dims = np.concatenate([positions(value) for value in (2, 12, 8, 8)])
    np.testing.assert_allclose(conv[112:], dims, atol=1e-5)


def test_empty_attribute_places_are_zero_and_absent_dimensions_encode_zero() -> None:
    builder = GraphBuilder(1, 4, 8, 8)
    graph = builder.graph(builder.classify(0, 10))
    dense = Tokenizer().encode(graph).features[-1]
    np.testing.assert_allclose(dense[32:52], positions(0) + positions(4), atol=1e-6)
    assert not dense[52:112].any()
    np.testing.assert_allclose(dense[112:132], positions(1) + positions(10), atol=1e-6)
    np.testing.assert_allclose(dense[132:152], positions(0) * 2)


def test_static_numbers_are_batch_gflops_gparameters_gmacs() -> None:
    graph = resnet_graph()
    static = Tokenizer().encode(graph).static
    parameters = sum(weight.elements for op in graph.operators for weight in op.weights) / 1e9
    assert parameters == pytest.approx(0.0256, rel=0.02)  # ResNet-50
    assert graph.macs / 1e9 == pytest.approx(4.1, rel=0.02)
    numbers = (1, graph.flops / 1e9, parameters, graph.macs / 1e9)
    np.testing.assert_allclose(static, np.concatenate([positions(n) for n in numbers]), atol=1e-5)


def test_numbers_encode_in_float32() -> None:
    value = np.array([1234567.0])
    single = np.sin(np.float32(1234567.0))
    assert encode_numbers(value, TokenizerConfig())[0, 0] == single
    assert encode_numbers(np.array([np.nan]), TokenizerConfig()).tolist() == [[0.0] * 10]


def test_renaming_changes_nothing_and_repeated_operands_make_one_edge() -> None:
    tensor = TensorType((1, 4), "float32")

    def square(name: str) -> OpGraph:
        operators = (
            Operator("input", (), (tensor,), name=name),
            Operator("multiply", ((0, 0), (0, 0)), (tensor,), name=name),
        )
        return OpGraph(operators, ((1, 0),), name)

    one, other = Tokenizer().encode(square("a")), Tokenizer().encode(square("b"))
    assert one.edges.tolist() == [[0, 1]]
    np.testing.assert_array_equal(one.features, other.features)


def test_unknown_operator_is_encoded_by_operands_and_bytes() -> None:
    graph = unknown_graph()
    token = Tokenizer().encode(graph).features[2]
    assert np.flatnonzero(token[:32]).tolist() == [31]
    megabytes = 8 * 16 * 16 * 4 / 2**20
    expected = np.concatenate([positions(v) for v in (1, 0, 1, megabytes, 0, megabytes)])
    np.testing.assert_allclose(token[32:92], expected, atol=1e-6)
    assert graph.unknown_ops == ("com.acme.magic",)


def test_dynamic_and_empty_graphs_are_refused() -> None:
    dynamic = TensorType((-1, 3), "float32")
    graph = OpGraph((Operator("input", (), (dynamic,)),), ((0, 0),))
    with pytest.raises(GraphError, match="--shape"):
        Tokenizer().encode(graph)
    with pytest.raises(GraphError, match="no operators"):
        Tokenizer().encode(OpGraph((), ()))


def test_description_round_trip_and_refusal_of_another_vocabulary() -> None:
    description = Tokenizer().describe()
    assert Tokenizer.from_description(description).config == TokenizerConfig()
    foreign = {**description, "vocabulary": ["a", "b"]}
    with pytest.raises(CheckpointError, match="another vocabulary"):
        Tokenizer.from_description(foreign)
    with pytest.raises(CheckpointError, match="another version"):
        Tokenizer.from_description({**description, "version": 0})
    with pytest.raises(CheckpointError, match="no tokenizer"):
        Tokenizer.from_description({})
