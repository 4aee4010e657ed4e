"""What random operators are drawn from: choices, extents, types and values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from tvm import relax

T = TypeVar("T")

EXTENTS = (1, 1, 2, 3, 4, 5, 7, 8, 9, 11, 13, 15, 16, 17, 23, 24, 31, 32, 33, 40, 48)
SMALL = (1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 16, 17)
INTEGERS = ("int8", "uint8", "int32", "int64")
REALS = ("float32", "float32", "float32", "float16")

Emit = Callable[[relax.Expr], relax.Expr]


class Source(Protocol):
    """Where a case takes its choices from."""

    def integer(self, low: int, high: int) -> int:
        """An integer of ``low`` to ``high``, both included."""

    def pick(self, options: Sequence[T]) -> T:
        """One of some options."""


class RandomSource:
    """Choices of NumPy's generator."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """See `Source`."""
        return int(self._random.integers(low, high + 1))

    def pick(self, options: Sequence[T]) -> T:
        """See `Source`."""
        return options[self.integer(0, len(options) - 1)]


@dataclasses.dataclass(frozen=True)
class Case:
    """One operator.

    Attributes:
        text: What was drawn, for messages.
        inputs: Its inputs.
        make: Builds it: gets ``emit`` and a variable for each input.
        expected: The right outputs.
        rtol: Allowed difference, relative to the largest magnitude of an output.
    """

    text: str
    inputs: tuple[np.ndarray, ...]
    make: Callable[..., relax.Expr]
    expected: np.ndarray
    rtol: float = 1e-5


def values(source: Source, shape: Sequence[int], dtype: str = "float32") -> np.ndarray:
    """Random values of a type."""
    random = np.random.default_rng(source.integer(0, 2**20))
    if dtype == "bool":
        return random.integers(0, 2, shape).astype("bool")
    if dtype.startswith(("int", "uint")):
        low, high = (0, 12) if dtype.startswith("uint") else (-12, 12)
        return random.integers(low, high, shape).astype(dtype)
    return random.standard_normal(shape).astype(dtype)


def shape_of(source: Source, rank: int, most: int = 6000, extents: Sequence[int] = EXTENTS) -> list:
    """Random extents whose product stays small."""
    shape: list[int] = []
    for _ in range(rank):
        room = most // max(1, math.prod(shape))
        shape.append(source.pick([e for e in extents if e <= room] or extents[:1]))
    return shape


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.astype("float64"))


def tolerance_of(dtype: str) -> float:
    return {"float16": 4e-3, "float32": 2e-5}.get(dtype, 0.0)


def any_type(source: Source, shape: Sequence[int]) -> np.ndarray:
    return values(source, shape, source.pick((*REALS, *INTEGERS, "bool")))
