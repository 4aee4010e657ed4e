from __future__ import annotations

import numpy as np

from tests.graphs import labelled_graphs
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer
from tvm_costmodel.tokenizer.ragged import RaggedBatch, segments

TOKENS = [PhysicalTokenizer().encode(graph) for graph in labelled_graphs(5)[0]]


def test_segments_are_laid_one_after_the_other() -> None:
    rows, counts = segments(np.array([0, 2, 2, 5]), np.array([2, 1, 0]))
    assert rows.tolist() == [2, 3, 4, 0, 1] and counts.tolist() == [3, 0, 2]


def test_a_batch_holds_each_graphs_tokens_and_its_edges_moved_to_them() -> None:
    ragged, order = RaggedBatch(TOKENS), np.array([3, 0, 3])
    places = ragged.places(order)
    sizes = [len(TOKENS[i]) for i in order]
    start = [0, sizes[0], sizes[0] + sizes[1]]
    assert len(ragged) == 5 and len(places.rows) == sum(sizes)
    for batch_place, i in enumerate(order):
        rows = places.rows[places.graph == batch_place]
        np.testing.assert_array_equal(ragged.numbers[rows], TOKENS[i].numbers)
        np.testing.assert_array_equal(ragged.slot[rows], TOKENS[i].slot)
        np.testing.assert_array_equal(ragged.work[rows], TOKENS[i].work)
    edges = list(zip(places.source.tolist(), places.target.tolist(), strict=True))
    assert edges[: sum(sizes)] == [(row, row) for row in range(sum(sizes))]
    wanted = [
        (at + source, at + target)
        for at, i in zip(start, order, strict=True)
        for source, target in TOKENS[i].edges.tolist()
    ]
    assert edges[sum(sizes) :] == wanted
    assert places.source.dtype == np.int64
