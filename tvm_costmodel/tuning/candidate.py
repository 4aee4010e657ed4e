"""A candidate: what was decided for one network, where that is not the default."""

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

Decided = tuple[tuple[str, Value], ...]
"""What was decided for one operator, sorted."""

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


@dataclass(frozen=True)
class Candidate:
    """Decisions that differ from their defaults; immutable, the default candidate is empty.

    Attributes:
        decided: ``(operator id or NETWORK, decision, value)``, sorted.
    """

    decided: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, decided: Mapping[tuple[int, str], Value]) -> Candidate:
        """A candidate of non-default values by (operator id or ``NETWORK``, decision)."""
        return cls(tuple(sorted((i, name, value) for (i, name), value in decided.items())))

    @classmethod
    def joined(
        cls, decided: tuple[Entry, ...], parts: tuple[tuple[int, Decided], ...]
    ) -> Candidate:
        """A candidate of these decisions, whose `parts` are known already."""
        made = cls(decided)
        made.__dict__["parts"] = parts  # where the cached property keeps them
        return made

    @functools.cached_property
    def values(self) -> Mapping[tuple[int, str], Value]:
        """Non-default value by (operator id or ``NETWORK``, decision)."""
        return {(i, name): value for i, name, value in self.decided}

    @functools.cached_property
    def network(self) -> tuple[tuple[str, Value], ...]:
        """The decisions about the whole network: candidates that share them share a graph."""
        decided = itertools.takewhile(lambda entry: entry[0] == NETWORK, self.decided)
        return tuple((name, value) for _, name, value in decided)

    @property
    def of_network(self) -> Candidate:
        """The candidate that decides the same about the whole network and nothing else."""
        return Candidate(self.decided[: len(self.network)])

    @functools.cached_property
    def operators(self) -> tuple[Entry, ...]:
        """The decisions about single operators."""
        return self.decided[len(self.network) :]

    @functools.cached_property
    def parts(self) -> tuple[tuple[int, Decided], ...]:
        """What is decided for each operator that anything is decided for, in their order."""
        return tuple(
            (i, tuple((name, value) for _, name, value in entries))
            for i, entries in itertools.groupby(self.operators, key=operator.itemgetter(0))
        )

    @functools.cached_property
    def _hash(self) -> int:
        return hash(self.decided)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[type[Candidate], tuple[object, ...]]:
        return Candidate, (self.decided,)  # hashes of texts hold in their own process alone

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
        found: dict[str, Any] = {"network": dict(self.network), "operators": operators}
        return {part: decisions for part, decisions in found.items() if decisions}

    def to_json(self) -> str:
        """Canonical JSON: equal candidates give equal text."""
        return _ENCODER.encode(self.to_dict())

    @functools.cached_property
    def key(self) -> str:
        """Content key, 32 hexadecimal digits."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Candidate:
        """Reads what ``to_dict`` made.

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
        """Reads what ``to_json`` wrote.

        Raises:
            ConfigError: The text is no candidate's.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"this is no candidate's JSON ({error})") from error
        return cls.from_dict(fields)
