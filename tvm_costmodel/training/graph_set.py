"""Many graphs' physical tokens as one set of tensors, and batches gathered from them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.models.roofline_former import GraphBatch
from tvm_costmodel.tokenizer.joined import JoinedGraphs, segments
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
        self.device = torch.device(device)
        self._joined = JoinedGraphs(tokens)
        self._slot = self._tensor(self._joined.slot)
        self._numbers = self._tensor(self._joined.numbers)
        self._work = self._tensor(self._joined.work)
        self.target_ms = [target.target_ms for target in targets] if targets else None
        """What the groups of kernels of each graph took."""
        self._group = np.concatenate([target.group for target in targets]) if targets else None
        self.totals = np.array([graph.work.sum(axis=0) for graph in tokens])
        """float [G, 3]: each graph's work."""

    def __len__(self) -> int:
        return len(self._joined)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def batch(self, graphs: np.ndarray) -> GraphBatch:
        """The graphs at these indices, int64 [B], one after the other."""
        places = self._joined.places(graphs)
        index = self._tensor(places.rows)
        return GraphBatch(
            slot=self._slot[index],
            numbers=self._numbers[index],
            work=self._work[index],
            source=self._tensor(places.source),
            target=self._tensor(places.target),
            graph=self._tensor(places.graph),
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
        rows, counts = segments(self._joined.first, graphs)
        targets = [self.target_ms[i] for i in graphs]
        sizes = np.array([len(target) for target in targets])
        first = np.cumsum(sizes) - sizes
        group = self._group[rows]
        group = np.where(group < 0, sizes.sum(), group + np.repeat(first, counts))
        owner = np.repeat(np.arange(len(graphs)), sizes)
        took = np.concatenate([*targets, np.zeros(0)]).astype(np.float32)
        return self._tensor(group), self._tensor(took), self._tensor(owner)
