"""A data set of graphs' physical tokens as tensors, from which batches are gathered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.models.roofline_former import GraphBatch
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens
from tvm_costmodel.tokenizer.ragged import RaggedBatch, segments
from tvm_costmodel.training.kernel_labels import KernelTargets


class GraphSet:
    """Many graphs' tokens as one set of tensors, from which batches are gathered.

    Args:
        tokens: One per graph.
        device: Device of the tensors.
        targets: Kernel targets of each graph on the first device; none when not given.
    """

    def __init__(
        self,
        tokens: Sequence[PhysicalTokens],
        device: str = "cpu",
        targets: Sequence[KernelTargets] | None = None,
    ) -> None:
        self.device = torch.device(device)
        self._ragged = RaggedBatch(tokens)
        self._slot = self._tensor(self._ragged.slot)
        self._numbers = self._tensor(self._ragged.numbers)
        self._work = self._tensor(self._ragged.work)
        self.target_ms = [target.target_ms for target in targets] if targets else None
        """Measured ms of each graph's groups of kernels."""
        self._group = np.concatenate([target.group for target in targets]) if targets else None
        self.totals = np.array([graph.work.sum(axis=0) for graph in tokens])
        """float [G, 3]: each graph's work."""

    def __len__(self) -> int:
        return len(self._ragged)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def batch(self, graphs: np.ndarray) -> GraphBatch:
        """The graphs at these indices, int64 [B], one after the other."""
        index = self._ragged.places(graphs)
        rows = self._tensor(index.rows)
        return GraphBatch(
            slot=self._slot[rows],
            numbers=self._numbers[rows],
            work=self._work[rows],
            source=self._tensor(index.source),
            target=self._tensor(index.target),
            graph=self._tensor(index.graph),
            graphs=len(graphs),
        )

    def kernels(self, graphs: np.ndarray) -> tuple[Tensor, Tensor, Tensor] | None:
        """Groups of kernels in these graphs with their measured times.

        Returns:
            The group of each token [R] (one past the last group for none), the measured ms of each
            group [K], and the graph that each group belongs to [K]; None where no kernels were
            measured.
        """
        if self.target_ms is None or self._group is None:
            return None
        rows, counts = segments(self._ragged.first, graphs)
        targets = [self.target_ms[i] for i in graphs]
        sizes = np.array([len(target) for target in targets])
        first = np.cumsum(sizes) - sizes
        group = self._group[rows]
        group = np.where(group < 0, sizes.sum(), group + np.repeat(first, counts))
        owner = np.repeat(np.arange(len(graphs)), sizes)
        measured_ms = np.concatenate([*targets, np.zeros(0)]).astype(np.float32)
        return self._tensor(group), self._tensor(measured_ms), self._tensor(owner)
