"""How well predicted latencies match measured ones. Percentages are in percent, 0 to 100."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from tvm_costmodel.errors import ConfigError


@dataclass(frozen=True)
class Metrics:
    """Quality of a set of predictions.

    Attributes:
        n: Number of networks.
        mape: Mean of ``|predicted - measured| / measured``, percent.
        within_5: Share of networks whose relative error is at most 5 %, percent.
        within_10: The same at 10 %.
        kendall_tau: Kendall's tau-b between predicted and measured; NaN when either is constant.
        spearman: Spearman's rank correlation; NaN when either is constant.
    """

    n: int
    mape: float
    within_5: float
    within_10: float
    kendall_tau: float
    spearman: float

    def to_dict(self) -> dict[str, float]:
        """Field name to number."""
        return asdict(self)


def relative_errors(predicted: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """``|predicted - measured| / measured``, element by element.

    Raises:
        ConfigError: Different lengths, nothing to compare, or a measured value not positive.
    """
    predicted, measured = np.asarray(predicted, float), np.asarray(measured, float)
    if predicted.shape != measured.shape or predicted.ndim != 1 or not len(measured):
        raise ConfigError(
            f"cannot compare predictions {predicted.shape} with measurements {measured.shape}: "
            "give two equally long, non-empty lists"
        )
    if not np.all(measured > 0):
        raise ConfigError("a measured latency is not positive: relative errors need positive ones")
    errors: np.ndarray = np.abs(predicted - measured) / measured
    return errors


def mape(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Mean absolute percentage error, percent."""
    return float(100.0 * relative_errors(predicted, measured).mean())


def within(predicted: np.ndarray, measured: np.ndarray, percent: float) -> float:
    """Share of predictions off by at most ``percent``, percent."""
    return float(100.0 * (relative_errors(predicted, measured) <= percent / 100.0).mean())


def kendall_tau(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Kendall's tau-b; NaN for fewer than two networks or a constant side."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return float("nan")
    from scipy import stats

    return float(stats.kendalltau(predicted, measured).statistic)


def spearman(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's rank correlation; NaN for fewer than two networks or a constant side."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return float("nan")
    from scipy import stats

    return float(stats.spearmanr(predicted, measured).statistic)


def evaluate(predicted: np.ndarray, measured: np.ndarray) -> Metrics:
    """All metrics of one set of predictions, both in the same unit."""
    predicted, measured = np.asarray(predicted, float), np.asarray(measured, float)
    return Metrics(
        n=len(measured),
        mape=mape(predicted, measured),
        within_5=within(predicted, measured, 5.0),
        within_10=within(predicted, measured, 10.0),
        kendall_tau=kendall_tau(predicted, measured),
        spearman=spearman(predicted, measured),
    )
