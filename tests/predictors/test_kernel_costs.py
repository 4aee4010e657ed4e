"""The cost of a kernel among equal neighbours is computed once, in whichever network it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.predictors.kernel_costs import KernelCostCache, Place
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens


class Counting:
    """A kernel costs its first number times its context; counts the rows that are computed."""

    sees_decisions = False

    def __init__(self, has_keys: bool = True) -> None:
        self._has_keys = has_keys
        self.rows: list[int] = []
        self.networks = 0

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[np.ndarray]:
        self.networks += len(tokens)
        return [network.numbers[:, 0] for network in tokens]

    def cache_key(self, context: np.ndarray) -> list[float] | None:
        return context.tolist() if self._has_keys else None

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        self.rows.append(len(numbers))
        contexts = np.concatenate([context[at] for context, at in places])
        return (contexts * numbers[:, 0] * work[:, 0])[:, None] * np.array([1.0, 2.0])


def network(*contexts: float) -> PhysicalTokens:
    count = len(contexts)
    return PhysicalTokens(
        slot=np.zeros(count, np.int64),
        numbers=np.array([[context, 0.0] for context in contexts], np.float32),
        work=np.ones((count, 3), np.float32),
        edges=np.zeros((0, 2), np.int32),
        anchor=np.arange(count),
    )


def test_equal_kernels_of_two_networks_are_computed_once() -> None:
    cost_model = Counting()
    costs = KernelCostCache(cost_model)
    one, other = costs.contexts([network(2, 3, 5, 7, 2), network(3, 11)])
    assert one.tolist() == [0, 1, 2, 3, 0] and other.tolist() == [1, 4]
    rows = [costs.row([number, 0.0], (1.0, 1.0, 1.0)) for number in (4.0, 6.0, 4.0)]
    assert rows == [0, 1, 0]
    pairs = [(context, rows[0]) for context in one]
    assert costs.of(pairs)[:, 0].tolist() == [8, 12, 20, 28, 8]
    assert costs.of([(other[1], 1), (other[0], 0), (one[2], 1)]).tolist() == [
        [66, 132],
        [12, 24],
        [30, 60],
    ]
    assert cost_model.rows == [4, 4]  # two new ones, padded with the last of them
    assert costs.contexts([network(3, 11)])[0].tolist() == [1, 4] and cost_model.networks == 2


def test_kernels_without_a_cache_key_are_computed_separately() -> None:
    cost_model = Counting(has_keys=False)
    costs = KernelCostCache(cost_model)
    one, other = costs.contexts([network(2, 2, 2), network(2, 3)])
    assert one.tolist() == [0, 1, 2] and other.tolist() == [3, 4]
    row = costs.row([4.0, 0.0], (1.0, 1.0, 1.0))
    ms = costs.of([(context, row) for context in (*other, *one)])
    assert ms[:, 1].tolist() == [16, 24, 16, 16, 16]
