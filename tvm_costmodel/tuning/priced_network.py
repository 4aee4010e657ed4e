"""What deciding single kernels adds to a network's latency, every way of it priced once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tvm_costmodel.graph import Operator
from tvm_costmodel.tokenizer.kernels import KernelGraph
from tvm_costmodel.training.kernel_prices import KernelPrices
from tvm_costmodel.tuning.annotation import AnnotatedBase, decided_operator
from tvm_costmodel.tuning.candidate import Decided

NOTHING = 0
"""The entry of what changes no kernel."""


class DecidedRows:
    """Numbers of decided kernels' tokens; those of equal kernels in any network are made once.

    Args:
        prices: Which tokens are numbered for.
    """

    def __init__(self, prices: KernelPrices) -> None:
        self._prices = prices
        self._rows: dict[tuple[int, Decided], int] = {}  # by kind of kernel

    def of(self, kernels: KernelGraph, token: int, decided: Decided) -> int:
        """The number of a kernel's token as it was decided."""
        key = (kernels.kinds[token], decided)
        row = self._rows.get(key)
        if row is None:
            anchor: Operator | None = None
            if decided:
                anchor = kernels.graph.operators[kernels.anchors[token]]
                anchor = decided_operator(anchor, dict(decided))
            row = self._rows[key] = self._prices.row(*kernels.row(token, anchor))
        return row


class PricedNetwork:
    """Prices of a network's kernels under one set of network decisions.

    A price is what deciding a kernel adds to the network's latency, in ms by each member.

    Args:
        base: The network under these decisions.
        kernels: Its kernels.
        contexts: Number of the context of each, see `KernelPrices`.
        rows: Numbers tokens.

    Attributes:
        operators: Ids of the operators that decisions can name here.
        waiting: Kernel and row of what was asked for and is not priced: at first, of every kernel.
        total: Latency where nothing is decided for operators, float64 [M]; empty until priced.
    """

    def __init__(
        self,
        base: AnnotatedBase,
        kernels: KernelGraph,
        contexts: np.ndarray,
        rows: DecidedRows,
    ) -> None:
        self._kernels, self._rows = kernels, rows
        self._contexts: list[int] = contexts.tolist()
        self.operators: Mapping[int, int] = base.positions
        every = range(len(kernels))
        self.waiting = [(token, rows.of(kernels, token, ())) for token in every]
        self._entry: dict[tuple[int, Decided], int] = {}
        self._entries = NOTHING + 1
        self._undecided = self._prices = self.total = np.zeros(0)

    def entries(self, parts: Iterable[tuple[int, Decided]]) -> list[int]:
        """Numbers of the prices of decided operators; `KernelScorer` prices what is new."""
        found, known = [], self._entry
        for part in parts:
            entry = known.get(part)
            if entry is None:
                entry = known[part] = self._added(*part)
            found.append(entry)
        return found

    def prices(self, entries: Sequence[int]) -> np.ndarray:
        """Prices by their numbers, float64 [len(entries), M]."""
        return self._prices[np.asarray(entries, dtype=np.int64)]

    def asked(self) -> list[tuple[int, int]]:
        """Context and row of everything that waits, for `KernelPrices.of`."""
        return [(self._contexts[token], row) for token, row in self.waiting]

    def take(self, made: np.ndarray) -> None:
        """Keeps what kernels that waited cost, float64 [len(waiting), M]."""
        if not len(self._undecided):
            self._undecided, self.total = made, made.sum(axis=0)
            self._prices = np.zeros((NOTHING + 1, made.shape[1]))
        else:
            added = made - self._undecided[[token for token, _ in self.waiting]]
            self._prices = np.concatenate([self._prices, added])
        self.waiting.clear()

    def _added(self, operator: int, decided: Decided) -> int:
        """The entry of a decided operator; nothing for one that another kernel stands for."""
        position = self.operators.get(operator)
        token = -1 if position is None else self._kernels.token_of[position]
        if position is None or token < 0 or self._kernels.anchors[token] != position:
            return NOTHING
        self.waiting.append((token, self._rows.of(self._kernels, token, decided)))
        self._entries += 1
        return self._entries - 1
