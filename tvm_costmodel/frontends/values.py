"""The values that expressions have while a function of TVM is walked, for Relax and Relay together.

Tensors are leaves, tuples are aggregates of values, and literals become attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Leaf:
    """One tensor-like value: what an operator returned, or a constant."""

    producer: int  # operator id, or WEIGHT
    index: int  # output index, or the constant's type id


@dataclass(frozen=True, slots=True)
class Literal:
    """A value known while walking: an extent, a shape, a number, a string, a function's name."""

    value: Any  # None, int, float, str or tuple of those


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A tuple."""

    fields: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class LocalFunction:
    """A function bound inside the function being walked, with the values that it captures."""

    name: str
    captured: tuple[Leaf, ...] = field(default=())


Value = Leaf | Literal | Aggregate | LocalFunction
