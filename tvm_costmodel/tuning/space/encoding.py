"""Candidate encoding: mixed-radix index vectors, on which breeding and checking is arithmetic.

Each choice has one column, which holds the index of its value among the choice's values: 0 is the
default. The radix of a column is the number of its values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Entry, OperatorValues, Value

if TYPE_CHECKING:
    from tvm_costmodel.tuning.space.choice import Choice

_Needs = tuple[tuple[str, tuple[Value, ...]], ...]


class _Part(NamedTuple):
    """The decisions of one operator, as `Candidate` keeps them.

    Attributes:
        part: Its element of ``Candidate.parts``.
        entries: Its elements of ``Candidate.entries``.
    """

    part: tuple[int, OperatorValues]
    entries: tuple[Entry, ...]


class CandidateEncoding:
    """Encodes the candidates of a space as index vectors, one column a choice, and decodes them.

    Args:
        classes: The choices of the space, those together that are best taken together.
        defaults: Default of every decision about the network.

    Attributes:
        column: Column of each choice by its place; columns are in the order of places.
        class_of: Number of each column's class, int64 [C].
        first: The column of the first choice of each class, int64 [classes].
        counts: How many values the choices of each class have, int64 [classes].
    """

    def __init__(self, classes: Sequence[Sequence[Choice]], defaults: Mapping[str, Value]) -> None:
        numbered = [(choice, number) for number, part in enumerate(classes) for choice in part]
        numbered.sort(key=lambda pair: pair[0].place)
        choices = [choice for choice, _ in numbered]
        self.column = {choice.place: n for n, choice in enumerate(choices)}
        self.class_of = np.array([number for _, number in numbered], dtype=np.int64)
        self.first = np.array([self.column[part[0].place] for part in classes], dtype=np.int64)
        self.counts = np.array([len(part[0].values) for part in classes], dtype=np.int64)
        self._defaults = defaults
        self._networks = [choice for choice in choices if choice.operator == NETWORK]
        self._width = max((len(choice.values) for choice in choices), default=1)
        self._start = np.arange(len(choices)) * self._width  # of each column's values
        self._entries = [[(*c.place, value) for value in c.values] for c in choices]
        self._number = {
            entry: column * self._width + index
            for column, entries in enumerate(self._entries)
            for index, entry in enumerate(entries)
        }
        self._number_needs(choices)
        self._number_parts(choices)

    def of(self, candidate: Candidate) -> np.ndarray:
        """Encodes a candidate, int64 [C].

        Raises:
            KeyError: It has a decision or value that its space does not offer.
        """
        encoded = np.zeros(len(self.class_of), dtype=np.int64)
        numbers = np.array([self._number[entry] for entry in candidate.entries], dtype=np.int64)
        columns = numbers // self._width
        encoded[columns] = numbers - columns * self._width
        return encoded

    def candidate(self, encoded: np.ndarray) -> Candidate:
        """Decodes a candidate."""
        count = len(self._networks)
        network = encoded[:count].tolist()
        entries = [self._entries[n][index] for n, index in enumerate(network) if index]
        parts = []
        for operator, number in enumerate(self._numbers_of_operators(encoded)):
            if number:
                known = self._parts[operator].get(number)
                if known is None:
                    known = self._parts[operator][number] = self._part(operator, encoded)
                parts.append(known.part)
                entries += known.entries
        return Candidate.with_parts(tuple(entries), tuple(parts))

    def allowed(self, encoded: np.ndarray) -> np.ndarray:
        """Whether the decisions about the network allow the value of each column, bool [C]."""
        key = encoded[: len(self._networks)].tobytes()
        if key not in self._met:
            self._met[key] = self._needs_met(encoded)
        allowed: np.ndarray = self._met[key][self._needed[self._start + encoded]]
        return allowed

    def under(self, encoded: np.ndarray, network: np.ndarray) -> np.ndarray:
        """The encoding with the decisions about the network taken from another encoding."""
        count = len(self._networks)
        return np.concatenate([network[:count], encoded[count:]])

    def _number_needs(self, choices: Sequence[Choice]) -> None:
        """Numbers what values need of the network: most need nothing, and many the same."""
        needs: dict[_Needs, int] = {}
        self._needed = np.zeros(len(choices) * self._width, dtype=np.int64)
        for start, choice in zip(self._start, choices, strict=True):
            for index, value in enumerate(choice.values):
                needed = tuple(choice.needed(value).items())
                self._needed[start + index] = needs.setdefault(needed, len(needs))
        self._needs = list(needs)
        self._met: dict[bytes, np.ndarray] = {}  # whether each is met, by the network's columns

    def _needs_met(self, encoded: np.ndarray) -> np.ndarray:
        network = dict(self._defaults)
        for choice, index in zip(self._networks, encoded.tolist(), strict=False):
            network[choice.decision.name] = choice.values[index]
        met = [all(network[name] in values for name, values in needs) for needs in self._needs]
        return np.array(met)

    def _number_parts(self, choices: Sequence[Choice]) -> None:
        """Gives every combination of decisions of one operator a number."""
        self._weight = np.ones(len(choices), dtype=np.int64)
        begins = []
        for n, choice in enumerate(choices):
            if choice.operator == NETWORK:
                continue
            if n and choices[n - 1].operator == choice.operator:
                self._weight[n] = self._weight[n - 1] * len(choices[n - 1].values)
            else:
                begins.append(n)
        self._columns = list(zip(begins, [*begins[1:], len(choices)], strict=False))
        self._begins = np.array(begins, dtype=np.int64)
        self._parts: list[dict[int, _Part]] = [{} for _ in begins]  # by that number

    def _numbers_of_operators(self, encoded: np.ndarray) -> list[int]:
        if not self._parts:
            return []
        numbers: list[int] = np.add.reduceat(encoded * self._weight, self._begins).tolist()
        return numbers

    def _part(self, operator: int, encoded: np.ndarray) -> _Part:
        begin, end = self._columns[operator]
        chosen = enumerate(encoded[begin:end].tolist(), start=begin)
        entries = tuple(self._entries[n][index] for n, index in chosen if index)
        values = tuple((name, value) for _, name, value in entries)
        return _Part((entries[0][0], values), entries)
