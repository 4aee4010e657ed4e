"""Physical tokens of graphs of different sizes as one set of arrays, and batches as indices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvm_costmodel.tokenizer.operator_features import PhysicalTokens


class BatchIndex(NamedTuple):
    """Indices of a batch of graphs, one after the other.

    Attributes:
        rows: int64 [R], its tokens among those of all graphs.
        source: int64 [E], the token of the batch that is read: every token itself, then producers.
        target: int64 [E], the token that reads.
        graph: int64 [R], which graph of the batch each token belongs to.
    """

    rows: np.ndarray
    source: np.ndarray
    target: np.ndarray
    graph: np.ndarray


class RaggedBatch:
    """Tokens of many graphs, one graph after the other.

    Args:
        tokens: One per graph, at least one.

    Attributes:
        slot: int64 [R], see `PhysicalTokens`, as are the others.
        numbers: float32 [R, F].
        work: float32 [R, 3].
        first: int64 [G + 1], where each graph's tokens start.
    """

    def __init__(self, tokens: Sequence[PhysicalTokens]) -> None:
        self.slot = np.concatenate([graph.slot for graph in tokens])
        self.numbers = np.concatenate([graph.numbers for graph in tokens])
        self.work = np.concatenate([graph.work for graph in tokens])
        self.first = np.cumsum([0, *(len(graph) for graph in tokens)])
        self._first_edge = np.cumsum([0, *(len(graph.edges) for graph in tokens)])
        edges = [graph.edges.reshape(-1, 2) for graph in tokens]
        self._edges = np.concatenate(edges).astype(np.int64)

    def __len__(self) -> int:
        return len(self.first) - 1

    def places(self, graphs: np.ndarray) -> BatchIndex:
        """The batch of the graphs at these indices, int64 [B]."""
        rows, counts = segments(self.first, graphs)
        edges, edge_counts = segments(self._first_edge, graphs)
        start = np.cumsum(counts) - counts
        pairs = self._edges[edges] + np.repeat(start, edge_counts)[:, None]
        own = np.arange(len(rows))
        return BatchIndex(
            rows=rows,
            source=np.concatenate([own, pairs[:, 0]]),
            target=np.concatenate([own, pairs[:, 1]]),
            graph=np.repeat(np.arange(len(graphs)), counts),
        )


def segments(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the chosen segments, one after the other, and the segments' lengths."""
    counts = offsets[chosen + 1] - offsets[chosen]
    starts = np.repeat(offsets[chosen] - (np.cumsum(counts) - counts), counts)
    return starts + np.arange(counts.sum()), counts
