"""Many graphs' physical tokens as one set of tensors, and batches gathered from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.models.roofline_former import GraphBatch
from tvm_costmodel.tokenizer.physical import PhysicalTokens
from tvm_costmodel.training.kernel_targets import KernelTargets


class GraphSet:
    """Many graphs' tokens as one set of tensors, from which batches are gathered.

    Args:
        tokens: One per graph.
        device: Where the tensors live.
        targets: Kernels of each graph on the first device; none when not given.
    """

    def __init__(
        self,
        tokens: Sequence[PhysicalTokens],
        device: str = "cpu",
        targets: Sequence[KernelTargets] | None = None,
    ) -> None:
        counts = np.array([len(graph) for graph in tokens])
        edges = np.array([len(graph.edges) for graph in tokens])
        self.device = torch.device(device)
        self._nodes = np.concatenate([[0], np.cumsum(counts)])
        self._edges = np.concatenate([[0], np.cumsum(edges)])
        self._edge = np.concatenate([graph.edges.reshape(-1, 2) for graph in tokens]).astype(int)
        self._slot = self._tensor(np.concatenate([graph.slot for graph in tokens]))
        self._numbers = self._tensor(np.concatenate([graph.numbers for graph in tokens]))
        self._work = self._tensor(np.concatenate([graph.work for graph in tokens]))
        self.target_ms = [target.target_ms for target in targets] if targets else None
        """What the groups of kernels of each graph took."""
        self._group = np.concatenate([target.group for target in targets]) if targets else None
        self.totals = np.array([graph.work.sum(axis=0) for graph in tokens])
        """float [G, 3]: each graph's work."""

    def __len__(self) -> int:
        return len(self._nodes) - 1

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def batch(self, graphs: np.ndarray) -> GraphBatch:
        """The graphs at these indices, int64 [B], one after the other."""
        rows, counts = _ranges(self._nodes, graphs)
        edges, edge_counts = _ranges(self._edges, graphs)
        first = np.cumsum(counts) - counts
        pairs = self._edge[edges] + np.repeat(first, edge_counts)[:, None]
        own = np.arange(len(rows))
        index = self._tensor(rows)
        return GraphBatch(
            slot=self._slot[index],
            numbers=self._numbers[index],
            work=self._work[index],
            source=self._tensor(np.concatenate([own, pairs[:, 0]])),
            target=self._tensor(np.concatenate([own, pairs[:, 1]])),
            graph=self._tensor(np.repeat(np.arange(len(graphs)), counts)),
            graphs=len(graphs),
        )

    def kernels(self, graphs: np.ndarray) -> tuple[Tensor, Tensor, Tensor] | None:
        """Groups of kernels of these graphs.

        Returns:
            The group of each of their tokens [R] (one past the last for none), what each group's
            kernels took in ms [K], and the graph that each group belongs to [K]; None where
            nothing is known of them.
        """
        if self.target_ms is None or self._group is None:
            return None
        rows, counts = _ranges(self._nodes, graphs)
        targets = [self.target_ms[i] for i in graphs]
        sizes = np.array([len(target) for target in targets])
        first = np.cumsum(sizes) - sizes
        group = self._group[rows]
        group = np.where(group < 0, sizes.sum(), group + np.repeat(first, counts))
        owner = np.repeat(np.arange(len(graphs)), sizes)
        took = np.concatenate([*targets, np.zeros(0)]).astype(np.float32)
        return self._tensor(group), self._tensor(took), self._tensor(owner)


def _ranges(offsets: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the chosen segments, one after the other, and the segments' lengths."""
    counts = offsets[chosen + 1] - offsets[chosen]
    starts = np.repeat(offsets[chosen] - (np.cumsum(counts) - counts), counts)
    return starts + np.arange(counts.sum()), counts
