from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.training.metrics import evaluate, kendall_tau, mape, spearman, within

PREDICTED = np.array([1.0, 2.1, 2.7, 4.4, 4.0])
MEASURED = np.array([1.0, 2.0, 3.0, 4.0, 5.0])


def test_values_by_hand() -> None:
    # errors 0, 5, 10, 10, 20 percent
    assert mape(PREDICTED, MEASURED) == pytest.approx(9.0)
    assert within(PREDICTED, MEASURED, 5.001) == pytest.approx(40.0)
    assert within(PREDICTED, MEASURED, 10.001) == pytest.approx(80.0)
    # of ten pairs one (the last two) is the wrong way round
    assert kendall_tau(PREDICTED, MEASURED) == pytest.approx(0.8)
    # rank differences 0 0 0 1 1
    assert spearman(PREDICTED, MEASURED) == pytest.approx(1 - 6 * 2 / (5 * 24))


def test_against_scipy_with_ties() -> None:
    rng = np.random.default_rng(0)
    measured = rng.integers(1, 20, 200).astype(float)
    predicted = measured + rng.integers(0, 10, 200)
    metrics = evaluate(predicted, measured)
    assert metrics.kendall_tau == stats.kendalltau(predicted, measured).statistic
    assert metrics.spearman == stats.spearmanr(predicted, measured).statistic
    assert metrics.n == 200


def test_a_constant_side_has_no_rank_correlation() -> None:
    metrics = evaluate(np.ones(3), np.array([1.0, 2.0, 3.0]))
    assert math.isnan(metrics.kendall_tau) and math.isnan(metrics.spearman)


@pytest.mark.parametrize(
    ("predicted", "measured"), [([1.0], [1.0, 2.0]), ([], []), ([1.0], [0.0]), ([1.0], [-1.0])]
)
def test_what_cannot_be_compared_is_refused(predicted: list, measured: list) -> None:
    with pytest.raises(ConfigError):
        mape(np.array(predicted), np.array(measured))
