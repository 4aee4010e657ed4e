"""A candidate: the decisions for one network that differ from their defaults."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tvm_costmodel.errors import ConfigError

Value = int | str

NETWORK = -1
"""In place of an operator's id, for decisions about the whole network."""

Entry = tuple[int, str, Value]
"""``(operator id or NETWORK, decision, value)``."""

OperatorValues = tuple[tuple[str, Value], ...]
"""``(decision, value)`` of one operator, sorted."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Candidate:
    """Decisions that differ from their defaults; immutable, the default candidate is empty.

    Attributes:
        entries: ``(operator id or NETWORK, decision, value)``, sorted.
    """

    entries: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, values: Mapping[tuple[int, str], Value]) -> Candidate:
        """A candidate of non-default values by (operator id or ``NETWORK``, decision)."""
        return cls(tuple(sorted((i, name, value) for (i, name), value in values.items())))

    @classmethod
    def with_parts(
        cls, entries: tuple[Entry, ...], parts: tuple[tuple[int, OperatorValues], ...]
    ) -> Candidate:
        """A candidate of these entries, whose `parts` are known already."""
        candidate = cls(entries)
        candidate.__dict__["parts"] = parts  # where the cached property keeps them
        return candidate

    @functools.cached_property
    def values(self) -> Mapping[tuple[int, str], Value]:
        """Non-default value by (operator id or ``NETWORK``, decision)."""
        return {(i, name): value for i, name, value in self.entries}

    @functools.cached_property
    def network(self) -> tuple[tuple[str, Value], ...]:
        """The decisions about the whole network: candidates that share them share a graph."""
        entries = itertools.takewhile(lambda entry: entry[0] == NETWORK, self.entries)
        return tuple((name, value) for _, name, value in entries)

    @property
    def of_network(self) -> Candidate:
        """The candidate with the same decisions about the whole network and no others."""
        return Candidate(self.entries[: len(self.network)])

    @functools.cached_property
    def operators(self) -> tuple[Entry, ...]:
        """The decisions about single operators."""
        return self.entries[len(self.network) :]

    @functools.cached_property
    def parts(self) -> tuple[tuple[int, OperatorValues], ...]:
        """Decisions of each operator that has any, in the order of the operators."""
        return tuple(
            (i, tuple((name, value) for _, name, value in entries))
            for i, entries in itertools.groupby(self.operators, key=operator.itemgetter(0))
        )

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.entries)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Candidate], tuple[object, ...]]:
        return Candidate, (self.entries,)  # hashes of texts hold in their own process alone

    def replaced(self, changes: Iterable[tuple[int, str, Value | None]]) -> Candidate:
        """A copy with some decisions changed; None goes back to the default."""
        values = dict(self.values)
        for i, name, value in changes:
            if value is None:
                values.pop((i, name), None)
            else:
                values[i, name] = value
        return Candidate.of(values)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: ``{"network": {decision: value}, "operators": {id: {decision: value}}}``."""
        operators: dict[str, dict[str, Value]] = {}
        for i, name, value in self.operators:
            operators.setdefault(str(i), {})[name] = value
        parts: dict[str, Any] = {"network": dict(self.network), "operators": operators}
        return {part: decisions for part, decisions in parts.items() if decisions}

    def to_json(self) -> str:
        """Canonical JSON: equal candidates give equal text."""
        return _ENCODER.encode(self.to_dict())

    @functools.cached_property
    def key(self) -> str:
        """Content key, 32 hexadecimal digits."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Candidate:
        """Reads the values of ``to_dict``.

        Raises:
            ConfigError: The fields are not those of a candidate.
        """
        try:
            unknown = set(fields) - {"network", "operators"}
            if unknown:
                raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
            entries = [(NETWORK, n, v) for n, v in fields.get("network", {}).items()]
            for i, decisions in fields.get("operators", {}).items():
                number = int(i)
                entries += [(number, name, value) for name, value in decisions.items()]
            if not all(isinstance(v, int | str) and not isinstance(v, bool) for _, _, v in entries):
                raise ValueError("a value that is neither a whole number nor a text")
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"this is no candidate ({error}); use what Candidate.to_json wrote"
            ) from error
        return cls(tuple(sorted(entries)))

    @classmethod
    def from_json(cls, text: str) -> Candidate:
        """Reads the text of ``to_json``.

        Raises:
            ConfigError: The text is no candidate's.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"this is no candidate's JSON ({error})") from error
        return cls.from_dict(fields)
