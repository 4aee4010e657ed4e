"""What decided kernels cost one by one, whatever runs the kernel former."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from tvm_costmodel.tokenizer.physical import PhysicalTokens

Place = tuple[Any, np.ndarray]
"""The context of a network's kernels, and the kernels that rows are of, int64 [R]."""

_FEWEST = 4
"""Products of fewer rows sum in an order of their own: a price shall not depend on its company."""


class KernelPricer(Protocol):
    """A fitted kernel former."""

    @property
    def sees_decisions(self) -> bool:
        """Whether what is decided for a kernel changes what its neighbours cost."""

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[Any]:
        """What `costs` needs to know of each network's kernels."""

    def likeness(self, context: Any) -> Sequence[Hashable] | None:
        """For each kernel, what is equal where all that `costs` reads of its context is.

        Returns:
            None where that is known only once it is priced.
        """

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        """Milliseconds of decided kernels by each member.

        Args:
            places: Networks, and which of their kernels the rows are of, one after the other.
            numbers: Tokens of the kernels as decided, [R, F].
            work: Their work, [R, 3].

        Returns:
            float64 [R, M].
        """


class KernelPrices:
    """Latency of kernels under decisions that change no neighbour, each on its own and once.

    Networks under different decisions share most of their kernels: a price is known as soon as an
    equal kernel among equal neighbours was priced, whatever network that was in.

    Args:
        former: Fitted.
    """

    def __init__(self, former: KernelPricer) -> None:
        self._former = former
        self._networks: dict[tuple[bytes, ...], np.ndarray] = {}
        self._contexts: dict[Hashable, int] = {}
        self._places: list[tuple[Any, int]] = []  # network's context and kernel, by context
        self._rows: dict[bytes, int] = {}
        self._arrays: list[np.ndarray] = []  # numbers and work, float32 [F + 3], by row
        self._priced: dict[tuple[int, int], int] = {}
        self._ms = np.zeros((0, 0))

    def contexts(self, tokens: Sequence[PhysicalTokens]) -> list[np.ndarray]:
        """For each kernel of some networks the number of its context, int64 [N] each."""
        keys = [(t.slot.tobytes(), t.edges.tobytes(), t.numbers.tobytes()) for t in tokens]
        new = {
            key: network
            for key, network in zip(keys, tokens, strict=True)
            if key not in self._networks
        }
        if new:
            for key, context in zip(new, self._former.contexts_of([*new.values()]), strict=True):
                self._networks[key] = self._number(context, len(new[key]))
        return [self._networks[key] for key in keys]

    def row(self, numbers: Sequence[float], work: Sequence[float]) -> int:
        """The number of a kernel's token, of F numbers and its work."""
        array = np.array([*numbers, *work], dtype=np.float32)
        row = self._rows.setdefault(array.tobytes(), len(self._arrays))
        if row == len(self._arrays):
            self._arrays.append(array)
        return row

    def of(self, asked: Sequence[tuple[int, int]]) -> np.ndarray:
        """Milliseconds of kernels by each member, float64 [len(asked), M].

        Args:
            asked: Numbers of each kernel's context and of its token, see `contexts` and `row`.
        """
        new = sorted({pair for pair in asked if pair not in self._priced})
        if new:
            self._price(new)
        return self._ms[[self._priced[pair] for pair in asked]]

    def _number(self, context: Any, count: int) -> np.ndarray:
        alike = self._former.likeness(context)
        known = alike or [(len(self._networks), token) for token in range(count)]
        numbers = []
        for token, key in enumerate(known):
            number = self._contexts.setdefault(key, len(self._places))
            if number == len(self._places):
                self._places.append((context, token))
            numbers.append(number)
        return np.array(numbers, dtype=np.int64)

    def _price(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Prices kernels; the contexts of one network have numbers that follow one another."""
        padded = [*pairs, *itertools.repeat(pairs[-1], max(0, _FEWEST - len(pairs)))]
        places: list[Place] = []
        for _, group in itertools.groupby(
            (self._places[context] for context, _ in padded), key=lambda place: id(place[0])
        ):
            contexts, kernels = zip(*group, strict=True)
            places.append((contexts[0], np.array(kernels)))
        rows = np.array([self._arrays[row] for _, row in padded])
        numbers, work = (np.ascontiguousarray(part) for part in np.split(rows, [-3], axis=1))
        made = self._former.costs(places, numbers, work)[: len(pairs)]
        self._priced.update(zip(pairs, itertools.count(len(self._ms)), strict=False))
        self._ms = np.concatenate([self._ms.reshape(-1, made.shape[1]), made])
