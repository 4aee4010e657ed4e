"""Batches of encoded graphs: padded, or merged so that equal operators are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.tokenizer.nar_former import TokenArrays, encode_tokens


@dataclass(frozen=True, eq=False)
class PaddedBatch:
    """Graphs padded to the largest one.

    Attributes:
        features: float32 [B, N, channels], padding all 0.
        adjacency: float32 [B, N, N], 1 between neighbours, no self loops; symmetric, or directed
            (row = producer, column = consumer).
        mask: bool [B, N], true on operators.
        static: float32 [B, static_channels].
    """

    features: np.ndarray
    adjacency: np.ndarray
    mask: np.ndarray
    static: np.ndarray


def collate(
    graphs: Sequence[TokenArrays], length: int | None = None, directed: bool = False
) -> PaddedBatch:
    """Pads graphs into one batch.

    Args:
        graphs: At least one graph, all of one tokenizer configuration.
        length: Operators ``N`` to pad to; the largest graph's when not given.
        directed: Whether the adjacency keeps the direction of the edges.
    """
    size = max(length or 0, max(len(graph) for graph in graphs))
    count = len(graphs)
    features = np.zeros((count, size, graphs[0].config.channels), dtype=np.float32)
    adjacency = np.zeros((count, size, size), dtype=np.float32)
    mask = np.zeros((count, size), dtype=bool)
    for row, graph in enumerate(graphs):
        features[row, : len(graph)] = graph.features
        mask[row, : len(graph)] = True
        adjacency[row, graph.edges[:, 0], graph.edges[:, 1]] = 1.0
        if not directed:
            adjacency[row, graph.edges[:, 1], graph.edges[:, 0]] = 1.0
    return PaddedBatch(features, adjacency, mask, np.stack([graph.static for graph in graphs]))


def distinct_tokens(graphs: Sequence[TokenArrays]) -> tuple[np.ndarray, np.ndarray]:
    """Every different token of many graphs once, wherever it stands.

    Args:
        graphs: At least one graph, all of one tokenizer configuration.

    Returns:
        float32 [U, channels], and the row of every operator, graph after graph, int64 [R].
    """
    op_id = np.concatenate([graph.op_id for graph in graphs])
    values = np.concatenate([graph.values for graph in graphs])
    first, label = _classes(_hash_rows(op_id, values, np.zeros(len(op_id), np.int64)))
    return encode_tokens(op_id[first], values[first], graphs[0].config), label


@dataclass(frozen=True, eq=False)
class MergedHop:
    """Rows of one attention step: ``R_out`` classes of operators read ``R_in`` classes.

    Attributes:
        own: int64 [R_out], the class of the operator itself among the ``R_in``.
        source: int64 [E], classes of its neighbours, grouped by output class.
        target: int64 [E], output class of each source, ascending.
        offsets: int64 [R_out], first position of each output class in ``source``.
        degree: float32 [R_in, 1], number of neighbours.
    """

    own: np.ndarray
    source: np.ndarray
    target: np.ndarray
    offsets: np.ndarray
    degree: np.ndarray


@dataclass(frozen=True, eq=False)
class MergedBatch:
    """Graphs whose equal operators are one row.

    An operator's state after ``k`` attention steps depends on nothing but the tokens and degrees
    within ``k`` steps of it. Operators that agree on those form one class, over the whole batch:
    class 0 by token and degree, class ``k + 1`` by own class ``k`` and the multiset of the
    neighbours' classes ``k`` (colour refinement). Deep networks repeat their blocks, so there are
    far fewer classes than operators. Classes may be padded up to a round number with rows that
    nothing reads: matrix libraries cache a kernel and its memory for every new shape.

    Attributes:
        features: float32 [R_0, channels].
        hops: One per attention step.
        pool_rows: int64 [P], classes that each graph holds after the last step, by graph.
        pool_offsets: int64 [B], first position of each graph in ``pool_rows``.
        pool_counts: float32 [P], how many operators of the graph are in that class.
        static: float32 [B, static_channels].
        operators: Number of operators before merging.
    """

    features: np.ndarray
    hops: tuple[MergedHop, ...]
    pool_rows: np.ndarray
    pool_offsets: np.ndarray
    pool_counts: np.ndarray
    static: np.ndarray
    operators: int


def merge(
    graphs: Sequence[TokenArrays], steps: int, share: bool = True, multiple: int = 1
) -> MergedBatch:
    """Merges the equal operators of a batch.

    Args:
        graphs: At least one graph, all of one tokenizer configuration.
        steps: Attention steps of the network.
        share: False keeps every operator a class of its own (same results, more work).
        multiple: Rows of every step are padded to a multiple of this.
    """
    op_id = np.concatenate([graph.op_id for graph in graphs])
    values = np.concatenate([graph.values for graph in graphs])
    total = len(op_id)
    source, indptr, degree = _neighbours(graphs)
    keys = _hash_rows(op_id, values, degree) if share else np.arange(total, dtype=np.uint64)
    first, label = _classes(keys)
    features = _pad(encode_tokens(op_id[first], values[first], graphs[0].config), multiple)
    hops = []
    for _ in range(steps):
        before, before_first = label, first
        if share:
            keys = _refine(keys, source, indptr)
            first, label = _classes(keys)
        counts = degree[first]
        entries = _ranges(indptr[first], counts)
        own = _pad(before[first], multiple)
        offsets = np.full(len(own), len(entries))
        offsets[: len(first)] = np.cumsum(counts) - counts
        hops.append(
            MergedHop(
                own=own,
                source=before[source[entries]],
                target=np.repeat(np.arange(len(first)), counts),
                offsets=offsets,
                degree=_pad(degree[before_first].astype(np.float32)[:, None], multiple),
            )
        )
    rows, offsets, counts = _pool(graphs, label, len(first))
    static = np.stack([graph.static for graph in graphs])
    return MergedBatch(features, tuple(hops), rows, offsets, counts, static, total)


def _pad(rows: np.ndarray, multiple: int) -> np.ndarray:
    """Rows of zeros after ``rows`` up to a multiple."""
    extra = -len(rows) % multiple
    return np.pad(rows, [(0, extra)] + [(0, 0)] * (rows.ndim - 1)) if extra else rows


def _neighbours(graphs: Sequence[TokenArrays]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undirected neighbour lists of the whole batch: sources by target, start and length."""
    starts = np.cumsum([0] + [len(graph) for graph in graphs])
    edges = np.concatenate(
        [graph.edges.astype(np.int64) + start for graph, start in zip(graphs, starts, strict=False)]
    )
    target = np.concatenate([edges[:, 1], edges[:, 0]])
    source = np.concatenate([edges[:, 0], edges[:, 1]])
    source = source[np.argsort(target, kind="stable")]
    degree = np.bincount(target, minlength=starts[-1])
    return source, np.cumsum(degree) - degree, degree


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenation of ``arange(start, start + count)`` over all pairs."""
    shift = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return shift + np.arange(int(counts.sum()))


def _classes(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First operator of each class and class of each operator."""
    _, first, label = np.unique(keys, return_index=True, return_inverse=True)
    return first, label.reshape(-1)


def _pool(
    graphs: Sequence[TokenArrays], label: np.ndarray, classes: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    graph_of = np.repeat(np.arange(len(graphs)), [len(graph) for graph in graphs])
    pairs, counts = np.unique(graph_of * classes + label, return_counts=True)
    offsets = np.searchsorted(pairs // classes, np.arange(len(graphs)))
    return pairs % classes, offsets, counts.astype(np.float32)


_STEP = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser, a bijection on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return x


def _hash_rows(op_id: np.ndarray, values: np.ndarray, degree: np.ndarray) -> np.ndarray:
    """64-bit hash of each operator's token and degree."""
    keys = _mix(op_id.astype(np.uint64) * _STEP + degree.astype(np.uint64))
    for column in np.ascontiguousarray(values.T).view(np.uint32):
        keys = _mix(keys * _STEP + column)
    return keys


def _refine(keys: np.ndarray, source: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Hash of each operator's own key and the multiset of its neighbours' keys."""
    running = np.concatenate([[np.uint64(0)], np.cumsum(_mix(keys + _STEP)[source])])
    ends = np.append(indptr[1:], len(source))
    return _mix(keys * _STEP + running[ends] - running[indptr])
