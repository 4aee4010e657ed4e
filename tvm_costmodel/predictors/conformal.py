"""Intervals around predictions, from errors on networks held out of training."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """Split-conformal interval of a latency, as factors on the prediction.

    When the ``n`` validation networks are exchangeable with new ones, the interval contains the
    measured latency of at least a share ``coverage`` of the new ones (Vovk et al.; Lei et al., JASA
    2018), and of slightly fewer when validation also chose the epoch.

    Attributes:
        low: Factor of the lower end.
        high: Factor of the upper end.
        coverage: Share of networks that the interval is meant to contain.
        n: Number of validation networks that it was computed from.
    """

    low: float
    high: float
    coverage: float
    n: int

    @classmethod
    def from_residuals(cls, log_ratio: np.ndarray, coverage: float = 0.9) -> Interval:
        """Quantiles of ``log(measured / predicted)`` with the finite-sample correction."""
        ordered = np.sort(np.asarray(log_ratio, float))
        count = len(ordered)
        tail = (1.0 - coverage) / 2.0
        low = max(0, math.floor(tail * (count + 1)) - 1)
        high = min(count - 1, math.ceil((1.0 - tail) * (count + 1)) - 1)
        return cls(math.exp(ordered[low]), math.exp(ordered[high]), coverage, count)
