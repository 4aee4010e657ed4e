"""Candidates as rows of small numbers, so that breeding and checking them is arithmetic.

A choice's digit is the place of its value among the choice's values: 0 is the default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tvm_costmodel.tuning.candidate import NETWORK, Candidate, Decided, Entry, Value

if TYPE_CHECKING:
    from tvm_costmodel.tuning.space import Choice

_Needs = tuple[tuple[str, tuple[Value, ...]], ...]


class _Part(NamedTuple):
    """What is decided for one operator, as `Candidate` keeps it.

    Attributes:
        part: Among its ``parts``.
        entries: Among what is ``decided``.
    """

    part: tuple[int, Decided]
    entries: tuple[Entry, ...]


class Digits:
    """Writes the candidates of a space as digits, one column for each choice, and reads them.

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
            entry: column * self._width + digit
            for column, entries in enumerate(self._entries)
            for digit, entry in enumerate(entries)
        }
        self._number_needs(choices)
        self._number_parts(choices)

    def of(self, candidate: Candidate) -> np.ndarray:
        """A candidate's digits, int64 [C].

        Raises:
            KeyError: It decides what its space does not offer.
        """
        digits = np.zeros(len(self.class_of), dtype=np.int64)
        numbers = np.array([self._number[entry] for entry in candidate.decided], dtype=np.int64)
        columns = numbers // self._width
        digits[columns] = numbers - columns * self._width
        return digits

    def candidate(self, digits: np.ndarray) -> Candidate:
        """The candidate of these digits."""
        count = len(self._networks)
        network = digits[:count].tolist()
        decided = [self._entries[n][digit] for n, digit in enumerate(network) if digit]
        parts = []
        for operator, number in enumerate(self._numbers_of_operators(digits)):
            if number:
                found = self._parts[operator].get(number)
                if found is None:
                    found = self._parts[operator][number] = self._part(operator, digits)
                parts.append(found.part)
                decided += found.entries
        return Candidate.joined(tuple(decided), tuple(parts))

    def allowed(self, digits: np.ndarray) -> np.ndarray:
        """Whether the decisions about the network let each digit be carried out, bool [C]."""
        key = digits[: len(self._networks)].tobytes()
        if key not in self._met:
            self._met[key] = self._needs_met(digits)
        return self._met[key][self._needed[self._start + digits]]

    def under(self, digits: np.ndarray, network: np.ndarray) -> np.ndarray:
        """Digits whose decisions about the network are those of others."""
        count = len(self._networks)
        return np.concatenate([network[:count], digits[count:]])

    def _number_needs(self, choices: Sequence[Choice]) -> None:
        """Numbers what values need of the network: most need nothing, and many the same."""
        needs: dict[_Needs, int] = {}
        self._needed = np.zeros(len(choices) * self._width, dtype=np.int64)
        for start, choice in zip(self._start, choices, strict=True):
            for digit, value in enumerate(choice.values):
                needed = tuple(choice.needed(value).items())
                self._needed[start + digit] = needs.setdefault(needed, len(needs))
        self._needs = list(needs)
        self._met: dict[bytes, np.ndarray] = {}  # whether each is met, by the network's digits

    def _needs_met(self, digits: np.ndarray) -> np.ndarray:
        network = dict(self._defaults)
        for choice, digit in zip(self._networks, digits.tolist(), strict=False):
            network[choice.decision.name] = choice.values[digit]
        met = [all(network[name] in values for name, values in needs) for needs in self._needs]
        return np.array(met)

    def _number_parts(self, choices: Sequence[Choice]) -> None:
        """Gives whatever can be decided for one operator a number."""
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

    def _numbers_of_operators(self, digits: np.ndarray) -> list[int]:
        if not self._parts:
            return []
        numbers: list[int] = np.add.reduceat(digits * self._weight, self._begins).tolist()
        return numbers

    def _part(self, operator: int, digits: np.ndarray) -> _Part:
        begin, end = self._columns[operator]
        chosen = enumerate(digits[begin:end].tolist(), start=begin)
        entries = tuple(self._entries[n][digit] for n, digit in chosen if digit)
        decided = tuple((name, value) for _, name, value in entries)
        return _Part((entries[0][0], decided), entries)
