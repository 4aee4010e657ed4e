"""The best values of decisions about operators, found class by class from costs of kernels."""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.tuning.space.candidate import Candidate, OperatorValues, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace


@dataclass(frozen=True)
class Part:
    """One decision for operators of equal kernels under some decisions about the network.

    Attributes:
        name: Name of the decision.
        operators: Ids of the operators.
        values: The values to choose from, the default first.
    """

    name: str
    operators: Sequence[int]
    values: Sequence[Value]

    def options(self, best: Mapping[int, OperatorValues]) -> list[list[tuple[int, OperatorValues]]]:
        """For each value, the operators with all of their values, those of others as they are."""
        options: list[list[tuple[int, OperatorValues]]] = [[] for _ in self.values]
        last: OperatorValues | None = None
        varied: list[OperatorValues] = []
        for operator in self.operators:
            current = best.get(operator, ())
            if current != last:  # mostly it is the same one for all
                last, varied = current, self._varied(current)
            for option, values in zip(options, varied, strict=True):
                option.append((operator, values))
        return options

    def _varied(self, current: OperatorValues) -> list[OperatorValues]:
        others = [(name, value) for name, value in current if name != self.name]
        departing = (sorted([*others, (self.name, value)]) for value in self.values[1:])
        return [tuple(others), *map(tuple, departing)]


def parts_of(
    space: DecisionSpace, network: Candidate, operators: Container[int]
) -> dict[str, list[Part]]:
    """The classes of operators that can be decided under a network's decisions, by decision.

    Args:
        space: What can be decided.
        network: Decisions about the network alone.
        operators: Ids of the operators that are left under them.
    """
    valid = space.is_valid(network)
    parts: dict[str, list[Part]] = {}
    for choices in space.classes:
        present = [choice for choice in choices if choice.operator in operators]
        if present:
            values = space.allowed(present[0], network) if valid else present[0].values[:1]
            part = Part(present[0].decision.name, [choice.operator for choice in present], values)
            parts.setdefault(part.name, []).append(part)
    return parts


class CoordinateDescent:
    """Takes the cheapest value of one decision after the other, each with the others as they are.

    Args:
        network: Decisions about the network alone.
        parts: What can be decided there, by decision.
    """

    def __init__(self, network: Candidate, parts: Mapping[str, Sequence[Part]]) -> None:
        self._network, self._parts = network, parts
        self._best: dict[int, OperatorValues] = {}
        self._options: list[list[list[tuple[int, OperatorValues]]]] = []

    def options(self, name: str) -> list[tuple[int, OperatorValues]]:
        """The operators under all values of a decision, for each part of it."""
        self._options = [part.options(self._best) for part in self._parts.get(name, ())]
        return [*itertools.chain.from_iterable(itertools.chain(*self._options))]

    def take_cheapest(self, costs: np.ndarray) -> None:
        """Sets the decision of the last call of `options` to its cheapest value in each part.

        Args:
            costs: What each of the options adds to the network's latency, [len(options)].
        """
        at = 0
        for options in self._options:
            of_part = costs[at : (at := at + sum(map(len, options)))]
            totals = of_part.reshape(len(options), -1).sum(axis=1).tolist()
            self._best.update(options[totals.index(min(totals))])

    def candidate(self) -> Candidate:
        """The candidate with the values chosen so far."""
        chosen = ((i, name, value) for i, values in self._best.items() for name, value in values)
        return self._network.replaced(chosen)
