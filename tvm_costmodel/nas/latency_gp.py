"""Latency of cells of one form as a sum over places, pairs of places and triples of places.

Where every cell has the same places, each with one of a few operations, latency is nearly additive
over the places; what is fused with what adds terms for pairs and triples. A Gaussian process with
the kernel

    k(x, y) = m + a m (m - 1) / 2 + b m (m - 1) (m - 2) / 6,    m = places where x and y agree

is the ridge regression on all indicators of an operation at a place, of two and of three at once
(an ANOVA kernel: Stitson et al., 1999; Durrande et al., 2012), without writing their thousands of
columns down. Noise is relative to the latency, so that relative errors count alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.gaussian_process import Factored

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class EdgeKernel:
    """Variances of the terms that latency is the sum of.

    Attributes:
        pairs: Variance of a pair's term, where a place's is 1.
        triples: Variance of a triple's term.
        noise: Variance of a label of mean latency, in the same unit.
    """

    pairs: float
    triples: float
    noise: float


GRID: tuple[EdgeKernel, ...] = tuple(
    EdgeKernel(*values) for values in product((0.1, 0.3, 1.0), (0.0, 0.03, 0.1), (0.03, 0.1, 0.3))
)
"""Settings that `EdgeGP` chooses from."""


class EdgeGP:
    """Gaussian process on the operations of a cell's places.

    Args:
        kernels: Settings; the one with the least leave-one-out relative error is used.

    Attributes:
        kernel: The setting that was chosen; None before `fit`.
        leave_one_out_mape: Its leave-one-out error on the training cells, percent.
    """

    def __init__(self, kernels: Iterable[EdgeKernel] = GRID) -> None:
        self.kernels = tuple(kernels)
        self.kernel: EdgeKernel | None = None
        self.leave_one_out_mape = float("nan")
        self._places = np.zeros((0, 0), dtype=np.int64)
        self._weights = np.zeros(0)
        self._mean_s = 0.0

    def fit(self, places: np.ndarray, latency_s: np.ndarray) -> Self:
        """Learns from measured cells.

        Args:
            places: int64 [G, P], operation at each place (see `live_operations`).
            latency_s: float64 [G], seconds.

        Raises:
            ConfigError: Shapes that do not fit, fewer than two cells, or a label that is not
                positive and finite.
        """
        latency = np.asarray(latency_s, dtype=np.float64)
        if places.ndim != 2 or latency.shape != (len(places),) or len(places) < 2:
            raise ConfigError(
                f"places {places.shape} and labels {latency.shape}: give [cells, places], one "
                "latency per cell, and at least two cells"
            )
        if not (np.isfinite(latency) & (latency > 0)).all():
            raise ConfigError("a label is not a positive finite number of seconds: leave it out")
        self._places, self._mean_s = np.asarray(places), float(latency.mean())
        relative = latency / self._mean_s
        agree = _agreement(self._places, self._places)
        best = np.inf
        for kernel in self.kernels:
            noise = kernel.noise * np.diag(relative**2)
            factored = Factored(_table(kernel, places)[agree] + noise)
            weights = factored.solve(relative - 1.0)
            error = float(np.abs(factored.leave_one_out(weights) / relative).mean())
            if error < best:
                best, self.kernel, self._weights = error, kernel, weights
        self.leave_one_out_mape = 100.0 * best
        return self

    def predict(self, places: np.ndarray) -> np.ndarray:
        """Seconds of cells, float64 [G].

        Raises:
            ConfigError: Not fitted, or another number of places.
        """
        if self.kernel is None or places.shape[1:] != self._places.shape[1:]:
            raise ConfigError(
                f"places {places.shape} for a Gaussian process fitted to {self._places.shape}: "
                "call fit first, and give cells of the same form"
            )
        known = _table(self.kernel, places)[_agreement(places, self._places)]
        return np.asarray(self._mean_s * (1.0 + known @ self._weights))


def _agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """int64 [A, B]: places where two cells have the same operation."""
    total = np.zeros((len(a), len(b)), dtype=np.int64)
    for place in range(a.shape[1]):
        total += a[:, place][:, None] == b[:, place]
    return total


def _table(kernel: EdgeKernel, places: np.ndarray) -> np.ndarray:
    """Kernel by number of agreeing places."""
    m = np.arange(places.shape[1] + 1, dtype=np.float64)
    pairs, triples = m * (m - 1) / 2, m * (m - 1) * (m - 2) / 6
    table: np.ndarray = m + kernel.pairs * pairs + kernel.triples * triples
    return table
