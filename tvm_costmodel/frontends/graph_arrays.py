"""The compact arrays that a walk over a function of TVM fills.

The native walk and its Python twin fill the same arrays in the same order, so that parity is plain
equality and everything after the walk is written once.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

WALK_VERSION = 1
"""Version of the arrays and their content; raise it together with ``kWalkVersion`` in
``csrc/graph_arrays.h``, so that a native library from before the change is not used."""

NONE, INT, BOOL, FLOAT, STRING, TUPLE = range(6)
"""Kinds of an attribute's tokens. A tuple's value is its length and its items follow."""

WEIGHT = -1
"""Producer of an operand that is a constant; the operand's second number is then its type's id."""


@dataclass(frozen=True)
class GraphArrays:
    """A function of Relax or Relay, N operators, in ragged arrays.

    ``x_start[i]:x_start[i + 1]`` are the rows that belong to operator ``i`` (for ``dim_start``: to
    type ``i``; for ``value_start``: to attribute ``i``).

    Attributes:
        strings: Vocabulary of operator names, attribute keys, dtypes and string values.
        names: [N] the variable that each operator was bound to; empty for nested calls.
        op: int32 [N] raw operator name, an index into ``strings``.
        operand_start: int32 [N + 1].
        operand: int32 [A, 2] (producer, output index), or (`WEIGHT`, type id).
        output_start: int32 [N + 1].
        output: int32 [O] type ids.
        attr_start: int32 [N + 1].
        attr_key: int32 [K], an index into ``strings``.
        value_start: int32 [K + 1].
        value_kind: int32 [V], one of the kinds above.
        value: int64 [V]; a float's bits, a string's index into ``strings``, a tuple's length.
        type_dtype: int32 [T], an index into ``strings``.
        dim_start: int32 [T + 1].
        dim: int64 [D]; -1 where unknown until run time.
        result: int32 [R, 2] what the function returns, flattened; as ``operand``.
    """

    strings: list[str]
    names: list[str]
    op: np.ndarray
    operand_start: np.ndarray
    operand: np.ndarray
    output_start: np.ndarray
    output: np.ndarray
    attr_start: np.ndarray
    attr_key: np.ndarray
    value_start: np.ndarray
    value_kind: np.ndarray
    value: np.ndarray
    type_dtype: np.ndarray
    dim_start: np.ndarray
    dim: np.ndarray
    result: np.ndarray


ARRAY_FIELDS = tuple(f for f in GraphArrays.__dataclass_fields__ if f not in ("strings", "names"))
_WIDE = ("value", "dim")
_PAIRS = ("operand", "result")


class GraphArraysBuilder:
    """Fills the arrays operator by operator."""

    def __init__(self) -> None:
        self._columns: dict[str, list[int]] = {name: [] for name in ARRAY_FIELDS}
        for name in ARRAY_FIELDS:
            if name.endswith("_start"):
                self._columns[name].append(0)
        self._strings: dict[str, int] = {}
        self._types: dict[tuple[int, tuple[int, ...]], int] = {}
        self._names: list[str] = []

    @property
    def count(self) -> int:
        """Operators so far, which is the next one's id."""
        return len(self._names)

    def string(self, text: str) -> int:
        """Id of a string, which is added where it is new."""
        return self._strings.setdefault(text, len(self._strings))

    def type(self, dtype: str, shape: tuple[int, ...]) -> int:
        """Id of a type, which is added where it is new."""
        key = (self.string(dtype), shape)
        type_id = self._types.get(key)
        if type_id is None:
            type_id = self._types[key] = len(self._types)
            self._columns["type_dtype"].append(key[0])
            self._columns["dim"].extend(shape)
            self._columns["dim_start"].append(len(self._columns["dim"]))
        return type_id

    def operator(
        self,
        op: str,
        operands: list[tuple[int, int]],
        outputs: list[int],
        attrs: list[tuple[str, Any]],
        name: str,
    ) -> int:
        """Appends an operator and returns its id."""
        columns = self._columns
        columns["op"].append(self.string(op))
        for pair in operands:
            columns["operand"].extend(pair)
        columns["operand_start"].append(len(columns["operand"]) // 2)
        columns["output"].extend(outputs)
        columns["output_start"].append(len(columns["output"]))
        for key, value in attrs:
            columns["attr_key"].append(self.string(key))
            self._append_value(value)
            columns["value_start"].append(len(columns["value"]))
        columns["attr_start"].append(len(columns["attr_key"]))
        self._names.append(name)
        return len(self._names) - 1

    def output_type(self, operator: int, index: int) -> int:
        """Type id of one output of an operator that was appended."""
        return self._columns["output"][self._columns["output_start"][operator] + index]

    def results(self, leaves: list[tuple[int, int]]) -> None:
        """Sets what the function returns."""
        for pair in leaves:
            self._columns["result"].extend(pair)

    def arrays(self) -> GraphArrays:
        """The finished arrays."""
        columns: Mapping[str, np.ndarray] = {
            name: np.array(values, dtype=np.int64 if name in _WIDE else np.int32)
            for name, values in self._columns.items()
        }
        shaped = {k: v.reshape(-1, 2) if k in _PAIRS else v for k, v in columns.items()}
        return GraphArrays(strings=list(self._strings), names=self._names, **shaped)

    def _append_value(self, value: Any) -> None:
        kinds, values = self._columns["value_kind"], self._columns["value"]
        if isinstance(value, tuple):
            kinds.append(TUPLE)
            values.append(len(value))
            for item in value:
                self._append_value(item)
            return
        kind, word = self._token(value)
        kinds.append(kind)
        values.append(word)

    def _token(self, value: Any) -> tuple[int, int]:
        if value is None:
            return NONE, 0
        if isinstance(value, bool):
            return BOOL, int(value)
        if isinstance(value, int):
            return INT, value
        if isinstance(value, float):
            return FLOAT, struct.unpack("<q", struct.pack("<d", value))[0]
        return STRING, self.string(str(value))


def read_value(kinds: list[int], words: list[int], at: int, strings: list[str]) -> tuple[Any, int]:
    """Reads the value whose tokens begin at ``at``; returns it and where the next one begins."""
    kind, word = kinds[at], words[at]
    at += 1
    if kind == INT:
        return word, at
    if kind == TUPLE:
        items = []
        for _ in range(word):
            item, at = read_value(kinds, words, at, strings)
            items.append(item)
        return tuple(items), at
    if kind == STRING:
        return strings[word], at
    if kind == BOOL:
        return bool(word), at
    if kind == FLOAT:
        return struct.unpack("<d", struct.pack("<q", word))[0], at
    return None, at
