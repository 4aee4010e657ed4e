"""The best values of decisions about operators, found class by class with prices of kernels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.tuning.candidate import Candidate, Decided, Value
from tvm_costmodel.tuning.priced_network import PricedNetwork
from tvm_costmodel.tuning.space import DecisionSpace


@dataclass(frozen=True)
class Part:
    """One decision for operators of equal kernels under some decisions about the network.

    Attributes:
        name: Of the decision.
        operators: Their ids.
        values: The values to choose from, the default first.
    """

    name: str
    operators: Sequence[int]
    values: Sequence[Value]

    def options(self, best: Mapping[int, Decided]) -> list[list[tuple[int, Decided]]]:
        """For each value, each operator with what is decided for it, all else as it is."""
        found: list[list[tuple[int, Decided]]] = [[] for _ in self.values]
        last: Decided | None = None
        varied: list[Decided] = []
        for operator in self.operators:
            taken = best.get(operator, ())
            if taken != last:  # mostly it is the same one for all
                last, varied = taken, self._varied(taken)
            for options, decided in zip(found, varied, strict=True):
                options.append((operator, decided))
        return found

    def _varied(self, decided: Decided) -> list[Decided]:
        others = [(name, value) for name, value in decided if name != self.name]
        departing = (sorted([*others, (self.name, value)]) for value in self.values[1:])
        return [tuple(others), *map(tuple, departing)]


def parts_of(
    space: DecisionSpace, network: Candidate, priced: PricedNetwork
) -> dict[str, list[Part]]:
    """The classes of operators that can be decided under a network's decisions, by decision."""
    valid = space.is_valid(network)
    parts: dict[str, list[Part]] = {}
    for choices in space.classes:
        here = [choice for choice in choices if choice.operator in priced.operators]
        if here:
            values = space.allowed(here[0], network) if valid else here[0].values[:1]
            part = Part(here[0].decision.name, [choice.operator for choice in here], values)
            parts.setdefault(part.name, []).append(part)
    return parts


class Descent:
    """Takes the cheapest value of one decision after the other, each with the others as they are.

    Args:
        network: Decisions about the network alone.
        priced: The network under them.
        parts: What can be decided there, by decision.
    """

    def __init__(
        self, network: Candidate, priced: PricedNetwork, parts: Mapping[str, Sequence[Part]]
    ) -> None:
        self.priced = priced
        self._network, self._parts = network, parts
        self._best: dict[int, Decided] = {}
        self._options: list[list[list[tuple[int, Decided]]]] = []

    def entries(self, name: str) -> list[list[int]]:
        """Entries in the prices of all values of a decision, for each part of it."""
        self._options = [part.options(self._best) for part in self._parts.get(name, ())]
        return [self.priced.entries(itertools.chain(*options)) for options in self._options]

    def take_cheapest(self, entries: Sequence[Sequence[int]]) -> None:
        """Sets what `entries` was asked for last to the cheapest of its values in each part."""
        means = self.priced.prices([*itertools.chain(*entries)]).mean(axis=1)
        ends = np.cumsum([len(found) for found in entries])
        for options, costs in zip(self._options, np.split(means, ends[:-1]), strict=False):
            totals = costs.reshape(len(options), -1).sum(axis=1).tolist()
            self._best.update(options[totals.index(min(totals))])

    def candidate(self) -> Candidate:
        """The candidate of what was taken."""
        taken = ((i, name, value) for i, decided in self._best.items() for name, value in decided)
        return self._network.replaced(taken)
