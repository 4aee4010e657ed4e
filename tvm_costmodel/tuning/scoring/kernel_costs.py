"""Costs of kernels under decisions, each asked for once and kept by `KernelCosts`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tvm_costmodel.predictors.kernel_costs import KernelCostCache, KernelCostModel
from tvm_costmodel.tokenizer.kernel_graph import KernelCache, KernelGraph
from tvm_costmodel.tuning.annotate.relax import AnnotatedBase, Annotator, annotated_operator
from tvm_costmodel.tuning.space.candidate import Candidate, OperatorValues, Value

Part = tuple[int, OperatorValues]
"""An operator's id and the values of its decisions."""

NOTHING = 0
"""The entry of a decision that changes no kernel; its cost is 0."""


@dataclass(eq=False)
class NetworkKernels:
    """A network's kernels under one set of decisions about the network.

    Attributes:
        base: The network under these decisions; its ``positions`` are the operators that other
            decisions can name here.
        kernels: Its kernels.
        pairs: Context and row of each kernel without further decisions.
        total: Latency without further decisions, float64 [M], in ms.
        entries: Number of the cost of each part that was asked for.
    """

    base: AnnotatedBase
    kernels: KernelGraph
    pairs: list[tuple[int, int]]
    total: np.ndarray
    entries: dict[Part, int] = field(default_factory=dict)


class KernelCosts:
    """What a network costs under any decisions, each kernel computed once.

    Args:
        cost_model: The fitted predictor.
        annotator: Annotates candidates of the network.
    """

    def __init__(self, cost_model: KernelCostModel, annotator: Annotator) -> None:
        self._annotator = annotator
        self._cache = KernelCostCache(cost_model)
        self._known = KernelCache()
        self._rows: dict[tuple[int, OperatorValues], int] = {}  # by kind of kernel
        self._networks: dict[tuple[tuple[str, Value], ...], NetworkKernels] = {}
        self._added = np.zeros((0, 0))  # [entries, M]

    def networks(self, candidates: Sequence[Candidate]) -> list[NetworkKernels]:
        """The kernels of each candidate's network; new ones are computed together."""
        new = {c.network: c for c in candidates if c.network not in self._networks}
        if new:
            bases = [self._annotator.base(candidate) for candidate in new.values()]
            graphs = [KernelGraph(base.graph, self._known) for base in bases]
            contexts = self._cache.contexts([graph.tokens() for graph in graphs])
            pairs = [
                [(at, self._row(graph, token, ())) for token, at in enumerate(of_graph.tolist())]
                for graph, of_graph in zip(graphs, contexts, strict=True)
            ]
            kernel_ms = self._cache.of([pair for of_graph in pairs for pair in of_graph])
            if not len(self._added):
                self._added = np.zeros((NOTHING + 1, kernel_ms.shape[1]))
            ends = np.cumsum([len(graph) for graph in graphs])
            totals = [part.sum(axis=0) for part in np.split(kernel_ms, ends[:-1])]
            made = map(NetworkKernels, bases, graphs, pairs, totals)
            self._networks.update(zip(new, made, strict=True))
        return [self._networks[candidate.network] for candidate in candidates]

    def totals(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Latency of candidates by each member, milliseconds, float64 [N, M]."""
        by_network: dict[NetworkKernels, list[int]] = {}
        for i, network in enumerate(self.networks(candidates)):
            by_network.setdefault(network, []).append(i)
        parts = [[candidates[i].parts for i in at] for at in by_network.values()]
        flat = [[*itertools.chain.from_iterable(of_network)] for of_network in parts]
        costs = self.added(list(zip(by_network, flat, strict=True)))
        first = np.cumsum([len(of_network) for of_network in flat])
        totals = np.zeros((len(candidates), costs.shape[1]))
        for (network, at), of_network, added in zip(
            by_network.items(), parts, np.split(costs, first[:-1]), strict=True
        ):
            sums = np.cumsum(np.concatenate([self._added[[NOTHING]], added]), axis=0)
            counts = np.array([len(of_candidate) for of_candidate in of_network])
            ends = np.cumsum(counts)
            totals[at] = network.total + sums[ends] - sums[ends - counts]
        return totals

    def added(self, requests: Sequence[tuple[NetworkKernels, Sequence[Part]]]) -> np.ndarray:
        """What decisions about operators add to a network's latency, in ms by each member.

        Args:
            requests: Networks, each with operators under decisions.

        Returns:
            The costs of all requests one after the other, float64 [parts, M]; 0 where another
            operator stands for an operator's kernel.
        """
        changed: list[tuple[int, int]] = []  # context and row of each new entry
        default: list[tuple[int, int]] = []  # the same without decisions
        entries = []
        for network, parts in requests:
            known = network.entries
            for part in parts:
                entry = known.get(part)
                if entry is None:
                    entry, token = NOTHING, _token(network, part[0])
                    if token >= 0:
                        entry = len(self._added) + len(changed)
                        context, _ = network.pairs[token]
                        changed.append((context, self._row(network.kernels, token, part[1])))
                        default.append(network.pairs[token])
                    known[part] = entry
                entries.append(entry)
        if changed:
            new = self._cache.of(changed) - self._cache.of(default)
            self._added = np.concatenate([self._added, new])
        return self._added[np.asarray(entries, dtype=np.int64)]

    def _row(self, kernels: KernelGraph, token: int, values: OperatorValues) -> int:
        """The number of a kernel's token under the values of its decisions."""
        key = (kernels.kinds[token], values)
        row = self._rows.get(key)
        if row is None:
            anchor = kernels.graph.operators[kernels.anchors[token]] if values else None
            decided = annotated_operator(anchor, dict(values)) if anchor is not None else None
            row = self._rows[key] = self._cache.row(*kernels.row(token, decided))
        return row


def _token(network: NetworkKernels, operator: int) -> int:
    """The kernel that an operator stands for; -1 where it stands for none."""
    position = network.base.positions.get(operator, -1)
    token = -1 if position < 0 else network.kernels.token_of[position]
    return token if token >= 0 and network.kernels.anchors[token] == position else -1
