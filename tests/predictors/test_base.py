from __future__ import annotations

import numpy as np

from tvm_costmodel.predictors.conformal import Interval


def test_interval_covers_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(300):
        interval = Interval.from_residuals(rng.normal(0.1, 0.2, 99), coverage=0.9)
        fresh = np.exp(rng.normal(0.1, 0.2, 50))
        inside.append(np.mean((interval.low <= fresh) & (fresh <= interval.high)))
    assert 0.89 < np.mean(inside) < 0.92


def test_interval_of_few_residuals_is_their_range() -> None:
    interval = Interval.from_residuals(np.log([0.8, 1.0, 1.3]))
    assert np.allclose([interval.low, interval.high], [0.8, 1.3]) and interval.n == 3
