"""Cost of single kernels under decisions, whichever engine runs the `KernelFormer`."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from tvm_costmodel.tokenizer.operator_features import PhysicalTokens

Place = tuple[Any, np.ndarray]
"""The context of a network's kernels, and the kernel of each row, int64 [R]."""

_FEWEST = 4
"""Matmuls of fewer rows sum in another order; a cost must not depend on the size of its batch."""


class KernelCostModel(Protocol):
    """A fitted `KernelFormer`, run by any engine."""

    @property
    def sees_decisions(self) -> bool:
        """Whether the decisions for a kernel change the cost of its neighbours."""

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[Any]:
        """Context of each network's kernels, which `costs` takes."""

    def cache_key(self, context: Any) -> Sequence[Hashable] | None:
        """A key for each kernel, equal for kernels whose contexts are the same to `costs`.

        Returns:
            None when the engine cannot tell before it computes the costs.
        """

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        """Latency of kernels under decisions for each member.

        Args:
            places: Networks, and the kernel of each row, one network after the other.
            numbers: Tokens of the kernels under the decisions, [R, F].
            work: Work of the kernels, [R, 3].

        Returns:
            Milliseconds, float64 [R, M].
        """


class KernelCostCache:
    """Computes the latency of each kernel under each decision only once.

    Decisions must not change the cost of neighbours. Networks under different decisions share most
    of their kernels, so the cost of a kernel is reused in every network in which an equal kernel
    has equal neighbours.

    Args:
        cost_model: The fitted predictor.
    """

    def __init__(self, cost_model: KernelCostModel) -> None:
        self._cost_model = cost_model
        self._networks: dict[tuple[bytes, ...], np.ndarray] = {}
        self._contexts: dict[Hashable, int] = {}
        self._places: list[tuple[Any, int]] = []  # network's context and kernel, by context
        self._rows: dict[bytes, int] = {}
        self._arrays: list[np.ndarray] = []  # numbers and work, float32 [F + 3], by row
        self._entries: dict[tuple[int, int], int] = {}  # context and token to row of `_ms`
        self._ms = np.zeros((0, 0))

    def contexts(self, tokens: Sequence[PhysicalTokens]) -> list[np.ndarray]:
        """Numbers the context of each kernel of some networks, int64 [N] each."""
        keys = [(t.slot.tobytes(), t.edges.tobytes(), t.numbers.tobytes()) for t in tokens]
        new = {
            key: network
            for key, network in zip(keys, tokens, strict=True)
            if key not in self._networks
        }
        if new:
            for key, context in zip(
                new, self._cost_model.contexts_of([*new.values()]), strict=True
            ):
                self._networks[key] = self._number(context, len(new[key]))
        return [self._networks[key] for key in keys]

    def row(self, numbers: Sequence[float], work: Sequence[float]) -> int:
        """Numbers a kernel's token, given its F numbers and its work."""
        array = np.array([*numbers, *work], dtype=np.float32)
        row = self._rows.setdefault(array.tobytes(), len(self._arrays))
        if row == len(self._arrays):
            self._arrays.append(array)
        return row

    def of(self, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Latency of kernels for each member, milliseconds, float64 [len(pairs), M].

        Args:
            pairs: Numbers of each kernel's context and of its token, see `contexts` and `row`.
        """
        new = sorted({pair for pair in pairs if pair not in self._entries})
        if new:
            self._compute(new)
        return self._ms[[self._entries[pair] for pair in pairs]]

    def _number(self, context: Any, count: int) -> np.ndarray:
        own_keys = [(len(self._networks), token) for token in range(count)]
        numbers = []
        for token, key in enumerate(self._cost_model.cache_key(context) or own_keys):
            number = self._contexts.setdefault(key, len(self._places))
            if number == len(self._places):
                self._places.append((context, token))
            numbers.append(number)
        return np.array(numbers, dtype=np.int64)

    def _compute(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Computes sorted pairs; contexts of one network have consecutive numbers."""
        padded = [*pairs, *itertools.repeat(pairs[-1], max(0, _FEWEST - len(pairs)))]
        places: list[Place] = []
        for _, group in itertools.groupby(
            (self._places[context] for context, _ in padded), key=lambda place: id(place[0])
        ):
            contexts, kernels = zip(*group, strict=True)
            places.append((contexts[0], np.array(kernels)))
        rows = np.array([self._arrays[row] for _, row in padded])
        numbers, work = (np.ascontiguousarray(part) for part in np.split(rows, [-3], axis=1))
        costs = self._cost_model.costs(places, numbers, work)[: len(pairs)]
        self._entries.update(zip(pairs, itertools.count(len(self._ms)), strict=False))
        self._ms = np.concatenate([self._ms.reshape(-1, costs.shape[1]), costs])
