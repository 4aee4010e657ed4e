"""Tokens of kernels: what crosses a kernel's boundary, and the decisions about it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.graphs import GraphBuilder, resnet_graph
from tvm_costmodel.errors import CheckpointError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import TensorType
from tvm_costmodel.tokenizer.kernel_features import KERNEL_FEATURES
from tvm_costmodel.tokenizer.kernel_graph import KernelCache, KernelGraph
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens
from tvm_costmodel.tokenizer.vocabulary import VOCABULARY
from tvm_costmodel.tuning.annotate.relax import Annotator
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

IMAGE = 3 * 32 * 32 * 4
MAP = 16 * 32 * 32 * 4
WEIGHTS = 16 * 3 * 9 * 4


def fused_conv() -> GraphBuilder:
    """A convolution whose bias and relu are in its kernel."""
    b = GraphBuilder(1, 3, 32, 32)
    conv = b.conv(0, 16)
    bias = b.add("add", [conv], b.shape(conv), [(16, 1, 1)], fused=(0,))
    b.add("relu", [bias], b.shape(bias), fused=(0,))
    return b


def amount(tokens: PhysicalTokens, token: int, name: str) -> float:
    return math.expm1(4 * number(tokens, token, name))


def number(tokens: PhysicalTokens, token: int, name: str) -> float:
    return float(tokens.numbers[token, KERNEL_FEATURES.index(name)])


def with_decisions(graph: OpGraph, i: int, **attrs: object) -> OpGraph:
    operators = list(graph.operators)
    operators[i] = replace(operators[i], attrs={**operators[i].attrs, **attrs})
    return OpGraph(tuple(operators), graph.outputs, graph.name)


def test_a_kernel_is_one_token_of_what_crosses_its_boundary() -> None:
    b = fused_conv()
    relu = len(b.operators) - 1
    tokens = KernelTokenizer().encode(b.graph(b.add("max_pool2d", [relu], (1, 16, 16, 16))))
    assert [VOCABULARY[slot] for slot in tokens.slot] == ["conv2d", "max_pool2d"]
    assert tokens.anchor.tolist() == [1, 4] and tokens.edges.tolist() == [[0, 1]]
    assert amount(tokens, 0, "read bytes") == pytest.approx(IMAGE, rel=1e-4)
    assert amount(tokens, 0, "written bytes") == pytest.approx(MAP, rel=1e-4)
    assert amount(tokens, 0, "weight bytes") == pytest.approx(WEIGHTS + 16 * 4, rel=1e-4)
    assert number(tokens, 0, "folded add") == 1 and number(tokens, 0, "folded relu") == 1
    macs = 16 * 32 * 32 * 27
    elementwise = 2 * 16 * 32 * 32 / 2  # of bias and relu
    moved = IMAGE + MAP + WEIGHTS + 64
    assert tokens.work[0].tolist() == pytest.approx([(macs + elementwise) / 1e9, moved / 1e9, 1.0])


def test_unfused_operators_are_kernels_and_move_their_bytes() -> None:
    b = fused_conv()
    for i in (2, 3):
        b.operators[i] = replace(b.operators[i], attrs={})
    tokens = KernelTokenizer().encode(b.graph(3))
    assert len(tokens) == 3 and tokens.edges.tolist() == [[0, 1], [1, 2]]
    assert amount(tokens, 2, "read bytes") == pytest.approx(MAP, rel=1e-4)


def test_a_result_that_is_also_read_outside_is_written_too() -> None:
    b = fused_conv()
    late = b.sum(1, 3)  # reads the convolution and its own relu, in a kernel of its own
    tokens = KernelTokenizer().encode(b.graph(late))
    assert amount(tokens, 0, "written bytes") == pytest.approx(2 * MAP, rel=1e-4)
    assert amount(tokens, 1, "read bytes") == pytest.approx(2 * MAP, rel=1e-4)


def test_views_are_part_of_what_is_around_them() -> None:
    b = fused_conv()
    flat = b.add("reshape", [3], (1, 16 * 1024))
    tokens = KernelTokenizer().encode(
        b.graph(
            b.add(
                "dense", [flat], (1, 10), [(16 * 1024, 10)], in_features=16 * 1024, out_features=10
            )
        )
    )
    assert tokens.anchor.tolist() == [1, 5] and tokens.edges.tolist() == [[0, 1]]


def test_winograd_counts_its_macs_tiles_and_transformed_weights() -> None:
    graph = with_decisions(fused_conv().graph(3), 1, algorithm="winograd4")
    tokens = KernelTokenizer().encode(graph)
    assert number(tokens, 0, "algorithm winograd4") == 1
    assert amount(tokens, 0, "tiles") == pytest.approx(64, rel=1e-4)  # 8 x 8 of 4 x 4 outputs
    assert amount(tokens, 0, "products") == pytest.approx(64 * 36 * 3 * 16, rel=1e-4)
    assert amount(tokens, 0, "transformed") == pytest.approx(64 * 36 * (3 + 16), rel=1e-4)
    assert amount(tokens, 0, "stored weights") == pytest.approx((WEIGHTS + 64) * 4, rel=1e-4)
    assert number(tokens, 0, "tile share") == 1.0
    ragged = GraphBuilder(1, 8, 10, 10)
    ragged.conv(0, 8)
    tokens = KernelTokenizer().encode(with_decisions(ragged.graph(1), 1, algorithm="winograd4"))
    assert number(tokens, 0, "tile share") == pytest.approx(100 / 144)  # 3 x 3 tiles of 16


def test_float16_weights_change_decision_features_and_nothing_that_neighbours_see() -> None:
    graph = fused_conv().graph(3)
    operators = list(graph.operators)
    half = tuple(TensorType(t.shape, "float16") for t in operators[1].weights)
    operators[1] = replace(operators[1], weights=half)
    plain = KernelTokenizer().encode(graph)
    stored = KernelTokenizer().encode(OpGraph(tuple(operators), graph.outputs))
    changed = [KERNEL_FEATURES[i] for i in np.flatnonzero(plain.numbers[0] != stored.numbers[0])]
    assert changed == ["stored weights", "half weights"]
    assert amount(stored, 0, "stored weights") == pytest.approx(WEIGHTS / 2 + 64, rel=1e-4)


def test_a_row_with_decisions_is_that_of_the_annotated_graph() -> None:
    graph = fused_conv().graph(3)
    changed = with_decisions(graph, 1, algorithm="winograd2", tile=(24, 2, "pixels"))
    row, work = KernelGraph(graph).row(0, changed.operators[1])
    whole = KernelTokenizer().encode(changed)
    np.testing.assert_array_equal(np.float32(row), whole.numbers[0])
    np.testing.assert_array_equal(np.float32(work), whole.work[0])
    assert number(whole, 0, "accumulators") == pytest.approx(24 / 28)
    assert number(whole, 0, "outer loop pixels") == 1


def test_cached_kernels_are_the_same_to_the_last_bit() -> None:
    graph = resnet_graph((2, 2), 16, 32, 10)
    space = DecisionSpace.for_graph(graph, tolerance=1e-2, half_arithmetic=True)
    rng = np.random.default_rng(5)
    annotator, cache = Annotator(graph), KernelCache()
    for rate in (0.0, 0.2, 0.5, 0.8) * 6:
        annotated = annotator.annotate(space.sample(rng, rate))
        shared = KernelGraph(annotated, cache)
        tokens, alone = shared.tokens(), KernelTokenizer().encode(annotated)
        for name in ("slot", "numbers", "work", "edges", "anchor"):
            np.testing.assert_array_equal(getattr(tokens, name), getattr(alone, name))
        rows = dict(zip(shared.kinds, tokens.numbers, strict=True))
        np.testing.assert_array_equal([rows[kind] for kind in shared.kinds], tokens.numbers)
    plain = KernelGraph(annotator.annotate(space.default))
    assert len(set(plain.kinds)) < len(plain)  # blocks of a stage are alike


def test_kinds_distinguish_what_crosses_a_boundary() -> None:
    b = fused_conv()
    late = b.sum(1, 3)  # reads the convolution in the middle of its kernel
    cache = KernelCache()
    one, other = KernelGraph(fused_conv().graph(3), cache), KernelGraph(b.graph(late), cache)
    assert one.kinds[0] != other.kinds[0]
    assert KernelGraph(fused_conv().graph(3), cache).kinds == one.kinds


def test_refusals() -> None:
    with pytest.raises(GraphError, match="no operators that compute"):
        KernelTokenizer().encode(GraphBuilder(1, 3).graph(0))
    tokenizer = KernelTokenizer()
    with pytest.raises(CheckpointError, match="version 0"):
        KernelTokenizer.from_description({**tokenizer.describe(), "kernels": 0})
    assert KernelTokenizer.from_description(tokenizer.describe()).describe() == tokenizer.describe()
