from __future__ import annotations

import numpy as np

from tests.graphs import GraphBuilder, labelled_graphs, resnet_graph
from tvm_costmodel.tokenizer import Tokenizer, collate, merge


def test_collate_pads_with_zeros_and_links_both_ways() -> None:
    graphs, _ = labelled_graphs(3)
    tokens = [Tokenizer().encode(graph) for graph in graphs]
    batch = collate(tokens, length=40)
    assert batch.features.shape == (3, 40, 152) and batch.adjacency.shape == (3, 40, 40)
    np.testing.assert_array_equal(batch.adjacency, batch.adjacency.transpose(0, 2, 1))
    for row, (graph, one) in enumerate(zip(graphs, tokens, strict=True)):
        size = len(graph)
        assert batch.mask[row].sum() == size
        np.testing.assert_array_equal(batch.features[row, :size], one.features)
        assert not batch.features[row, size:].any() and not batch.adjacency[row, size:].any()
        assert batch.adjacency[row].sum() == 2 * len(one.edges)


def test_merge_counts_every_operator_once() -> None:
    graphs, _ = labelled_graphs(5)
    tokens = [Tokenizer().encode(graph) for graph in graphs]
    for share in (True, False):
        batch = merge(tokens, 2, share)
        ends = np.append(batch.pool_offsets[1:], len(batch.pool_rows))
        counts = [
            batch.pool_counts[start:end].sum()
            for start, end in zip(batch.pool_offsets, ends, strict=True)
        ]
        assert counts == [len(graph) for graph in graphs]
    assert len(merge(tokens, 2, share=False).features) == sum(map(len, graphs))


def test_equal_blocks_merge_and_the_ends_of_a_chain_stay_apart() -> None:
    builder = GraphBuilder(1, 8, 8, 8)
    x = 0
    for _ in range(10):
        x = builder.relu(x)
    batch = merge([Tokenizer().encode(builder.graph(x))], 2)
    # tokens: the input, the inner ReLUs of degree 2, the last one of degree 1
    assert len(batch.features) == 3
    # after one step the ReLUs next to the ends differ from the inner ones, after two the next
    assert [len(hop.own) for hop in batch.hops] == [5, 7]
    assert sorted(batch.pool_counts.tolist()) == [1, 1, 1, 1, 1, 1, 5]


def test_a_deep_network_shrinks() -> None:
    tokens = Tokenizer().encode(resnet_graph())
    batch = merge([tokens], 2)
    assert batch.operators == len(tokens) == 176
    assert [len(batch.features), *(len(hop.own) for hop in batch.hops)] == [57, 81, 98]


def test_rows_are_padded_to_a_multiple_that_nothing_reads() -> None:
    tokens = [Tokenizer().encode(graph) for graph in labelled_graphs(4)[0]]
    plain, padded = merge(tokens, 2), merge(tokens, 2, multiple=64)
    assert len(padded.features) % 64 == 0 == len(padded.hops[1].own) % 64
    np.testing.assert_array_equal(plain.pool_rows, padded.pool_rows)
    for one, other in zip(plain.hops, padded.hops, strict=True):
        np.testing.assert_array_equal(one.source, other.source)
        np.testing.assert_array_equal(one.own, other.own[: len(one.own)])
        assert (other.offsets[len(one.own) :] == len(other.source)).all()
