"""Intervals around predictions, from errors on networks held out of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_costmodel.bounded_reading import require_types

OTHER_PROCESSOR = (0.9, 5.0)
"""Ends of the interval on a processor that nothing was measured on, as factors on the ends at home.

Measured latencies were 1.4 to 4.5 times the predicted ones (the outermost 5 % and 95 % quantiles)
on the two processors tried, an Intel Emerald Rapids and an AMD Zen 3 without AVX-512, with
predictors that learned on an AMD Zen 5. The range includes an equally fast processor. Two
processors are too few for a promise of coverage; ``benchmarks/new_device/other_processors.py``
prints the quantiles.
"""

SCALED = (0.8, 2.3)
"""The same where answers are scaled by how fast the reference kernel runs there.

What is left was 0.9 to 1.4 on the Emerald Rapids and 1.1 to 2.1 on the Zen 3, which has half the
vectors: the reference kernel has none.
"""


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
    def from_card(cls, record: Mapping[str, Any]) -> Interval:
        """The interval that a checkpoint's card holds.

        Raises:
            ValueError: A field is missing or of another type, or the ends are inverted.
        """
        if sorted(record) != ["coverage", "high", "low", "n"]:
            raise ValueError(f"interval has {', '.join(sorted(map(str, record)))[:80]}")
        require_types(
            record, {**dict.fromkeys(("low", "high", "coverage"), (int, float)), "n": int}
        )
        interval = cls(record["low"], record["high"], record["coverage"], record["n"])
        if not (0 < interval.low <= interval.high < math.inf):
            raise ValueError(
                f"interval from {interval.low} to {interval.high} is no interval of factors"
            )
        if not (0 < interval.coverage < 1 and interval.n >= 1):
            raise ValueError(f"interval covers {interval.coverage} of {interval.n} networks")
        return interval

    @classmethod
    def from_residuals(cls, log_ratio: np.ndarray, coverage: float = 0.9) -> Interval:
        """Quantiles of ``log(measured / predicted)`` with the finite-sample correction."""
        ordered = np.sort(np.asarray(log_ratio, float))
        count = len(ordered)
        tail = (1.0 - coverage) / 2.0
        low = max(0, math.floor(tail * (count + 1)) - 1)
        high = min(count - 1, math.ceil((1.0 - tail) * (count + 1)) - 1)
        return cls(math.exp(ordered[low]), math.exp(ordered[high]), coverage, count)
