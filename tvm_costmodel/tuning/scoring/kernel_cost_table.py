"""What decisions about single kernels add to a network's latency, each computed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tvm_costmodel.graph.types import Operator
from tvm_costmodel.predictors.kernel_costs import KernelCostCache
from tvm_costmodel.tokenizer.kernel_graph import KernelGraph
from tvm_costmodel.tuning.annotate.relax import AnnotatedBase, annotated_operator
from tvm_costmodel.tuning.space.candidate import OperatorValues

NOTHING = 0
"""The entry of a decision that changes no kernel; its cost is 0."""


class KernelRows:
    """Numbers of kernels' tokens under decisions; equal kernels of any networks share them.

    Args:
        cache: Costs of kernels, which numbers the tokens.
    """

    def __init__(self, cache: KernelCostCache) -> None:
        self._cache = cache
        self._rows: dict[tuple[int, OperatorValues], int] = {}  # by kind of kernel

    def of(self, kernels: KernelGraph, token: int, values: OperatorValues) -> int:
        """The number of a kernel's token under the values of its decisions."""
        key = (kernels.kinds[token], values)
        row = self._rows.get(key)
        if row is None:
            anchor: Operator | None = None
            if values:
                anchor = kernels.graph.operators[kernels.anchors[token]]
                anchor = annotated_operator(anchor, dict(values))
            row = self._rows[key] = self._cache.row(*kernels.row(token, anchor))
        return row


class KernelCostTable:
    """Costs of a network's kernels under one set of network decisions.

    A cost is what a decision about a kernel adds to the network's latency, in ms by each ensemble
    member.

    Args:
        base: The network under these decisions.
        kernels: Its kernels.
        contexts: Number of the context of each, see `KernelCostCache`.
        rows: Numbers tokens.

    Attributes:
        operators: Ids of the operators that decisions can name here.
        waiting: Kernel and row of each request without a cost yet: at first, of every kernel.
        total: Latency where all operators have their defaults, float64 [M], in ms; empty until the
            first `take`.
    """

    def __init__(
        self,
        base: AnnotatedBase,
        kernels: KernelGraph,
        contexts: np.ndarray,
        rows: KernelRows,
    ) -> None:
        self._kernels, self._rows = kernels, rows
        self._contexts: list[int] = contexts.tolist()
        self.operators: Mapping[int, int] = base.positions
        every = range(len(kernels))
        self.waiting = [(token, rows.of(kernels, token, ())) for token in every]
        self._entry: dict[tuple[int, OperatorValues], int] = {}
        self._entries = NOTHING + 1
        self._default_ms = self._costs = self.total = np.zeros(0)

    def entries(self, parts: Iterable[tuple[int, OperatorValues]]) -> list[int]:
        """Numbers of the costs of operators under decisions; `KernelScorer` computes new ones."""
        entries, known = [], self._entry
        for part in parts:
            entry = known.get(part)
            if entry is None:
                entry = known[part] = self._added(*part)
            entries.append(entry)
        return entries

    def costs(self, entries: Sequence[int]) -> np.ndarray:
        """Costs by their numbers, float64 [len(entries), M]."""
        return self._costs[np.asarray(entries, dtype=np.int64)]

    def requests(self) -> list[tuple[int, int]]:
        """Context and row of everything that waits, for `KernelCostCache.of`."""
        return [(self._contexts[token], row) for token, row in self.waiting]

    def take(self, kernel_ms: np.ndarray) -> None:
        """Keeps the latencies of the kernels that waited, float64 [len(waiting), M]."""
        if not len(self._default_ms):
            self._default_ms, self.total = kernel_ms, kernel_ms.sum(axis=0)
            self._costs = np.zeros((NOTHING + 1, kernel_ms.shape[1]))
        else:
            added = kernel_ms - self._default_ms[[token for token, _ in self.waiting]]
            self._costs = np.concatenate([self._costs, added])
        self.waiting.clear()

    def _added(self, operator: int, values: OperatorValues) -> int:
        """A new entry for an operator; `NOTHING` where another operator stands for its kernel."""
        position = self.operators.get(operator)
        token = -1 if position is None else self._kernels.token_of[position]
        if position is None or token < 0 or self._kernels.anchors[token] != position:
            return NOTHING
        self.waiting.append((token, self._rows.of(self._kernels, token, values)))
        self._entries += 1
        return self._entries - 1
