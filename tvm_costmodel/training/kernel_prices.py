"""What decided kernels cost one by one, whatever runs the kernel former."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from tvm_costmodel.tokenizer.physical import PhysicalTokens

Place = tuple[Any, np.ndarray]
"""The context of a network's kernels, and the kernels that rows are of, int64 [R]."""


class KernelPricer(Protocol):
    """A fitted kernel former."""

    @property
    def sees_decisions(self) -> bool:
        """Whether what is decided for a kernel changes what its neighbours cost."""

    def context_of(self, tokens: PhysicalTokens) -> Any:
        """What `costs` needs to know of a network's kernels."""

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
    """Latency of a network's kernels under decisions that change no neighbour, each on its own.

    Args:
        former: Fitted.
        tokens: The network's kernels, undecided.

    Attributes:
        undecided: Milliseconds of each kernel by each member, float64 [N, M].
    """

    def __init__(self, former: KernelPricer, tokens: PhysicalTokens) -> None:
        self._former = former
        self._context = former.context_of(tokens)
        at = np.arange(len(tokens))
        (self.undecided,) = KernelPrices.of([(self, at, tokens.numbers, tokens.work)])

    @staticmethod
    def of(
        asked: Sequence[tuple[KernelPrices, np.ndarray, np.ndarray, np.ndarray]],
    ) -> list[np.ndarray]:
        """Milliseconds of decided kernels of several networks of one former, priced together.

        Args:
            asked: For each network: its prices, which kernel each row is of, int64 [R], their
                tokens [R, F], and their work [R, 3].

        Returns:
            For each network float64 [R, M].
        """
        numbers, work = (
            np.concatenate([part[i] for part in asked]).astype(np.float32) for i in (2, 3)
        )
        places = [(prices._context, np.asarray(at)) for prices, at, *_ in asked]
        found = asked[0][0]._former.costs(places, numbers, work)
        ends = np.cumsum([len(at) for _, at in places])
        return np.split(found, ends[:-1])
