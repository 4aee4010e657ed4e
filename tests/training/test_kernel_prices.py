"""A kernel among equal neighbours is priced once, whatever network and company it is met in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.tokenizer.physical import PhysicalTokens
from tvm_costmodel.training.kernel_prices import KernelPrices, Place


class Counting:
    """Prices a kernel at its first number times its context, and notes what it was asked."""

    sees_decisions = False

    def __init__(self, tells: bool = True) -> None:
        self._tells = tells
        self.rows: list[int] = []
        self.networks = 0

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[np.ndarray]:
        self.networks += len(tokens)
        return [network.numbers[:, 0] for network in tokens]

    def likeness(self, context: np.ndarray) -> list[float] | None:
        return context.tolist() if self._tells else None

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


def test_equal_kernels_of_two_networks_are_priced_once() -> None:
    former = Counting()
    prices = KernelPrices(former)
    one, other = prices.contexts([network(2, 3, 5, 7, 2), network(3, 11)])
    assert one.tolist() == [0, 1, 2, 3, 0] and other.tolist() == [1, 4]
    rows = [prices.row([number, 0.0], (1.0, 1.0, 1.0)) for number in (4.0, 6.0, 4.0)]
    assert rows == [0, 1, 0]
    asked = [(context, rows[0]) for context in one]
    assert prices.of(asked)[:, 0].tolist() == [8, 12, 20, 28, 8]
    assert prices.of([(other[1], 1), (other[0], 0), (one[2], 1)]).tolist() == [
        [66, 132],
        [12, 24],
        [30, 60],
    ]
    assert former.rows == [4, 4]  # two new ones were asked together with the last of them again
    assert prices.contexts([network(3, 11)])[0].tolist() == [1, 4] and former.networks == 2


def test_kernels_of_unknown_likeness_are_priced_apart() -> None:
    former = Counting(tells=False)
    prices = KernelPrices(former)
    one, other = prices.contexts([network(2, 2, 2), network(2, 3)])
    assert one.tolist() == [0, 1, 2] and other.tolist() == [3, 4]
    row = prices.row([4.0, 0.0], (1.0, 1.0, 1.0))
    found = prices.of([(context, row) for context in (*other, *one)])
    assert found[:, 1].tolist() == [16, 24, 16, 16, 16]
