"""How well a predictor ranks the variants of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import kendall_tau


@dataclass(frozen=True)
class DecisionMetrics:
    """Errors within networks; means over networks with variants.

    Attributes:
        networks: Networks with at least two variants.
        ratio_error: Mean absolute error of the latency over the baseline's, per cent of the
            measured ratio.
        kendall_tau: Kendall's tau between predicted and measured order of a network's variants.
        best_of_1: Speed of the predicted best variant, per cent of the fastest measured one's.
        best_of_3: The same of the fastest among the predicted best three.
    """

    networks: int
    ratio_error: float
    kendall_tau: float
    best_of_1: float
    best_of_3: float


def decision_metrics(predicted: np.ndarray, labels: LabelledGraphs) -> DecisionMetrics:
    """Errors of predictions for labelled variants.

    Args:
        predicted: Seconds, [G].
        labels: Measured labels; a network's baseline comes before its variants.
    """
    members: dict[str, list[int]] = {}
    for i, network in enumerate(labels.networks):
        members.setdefault(network, []).append(i)
    rows = [
        _of_network(predicted[at], labels.latency_s[at])
        for at in (np.array(inside) for inside in members.values() if len(inside) > 2)
    ]
    if not rows:
        return DecisionMetrics(0, math.nan, math.nan, math.nan, math.nan)
    means = np.nanmean(np.array(rows), axis=0)
    return DecisionMetrics(len(rows), *(float(value) for value in means))


def _of_network(predicted: np.ndarray, measured: np.ndarray) -> tuple[float, float, float, float]:
    ratio, predicted_ratio = measured[1:] / measured[0], predicted[1:] / predicted[0]
    order = np.argsort(predicted, kind="stable")
    best = measured.min()
    return (
        float(np.abs(predicted_ratio / ratio - 1).mean() * 100),
        kendall_tau(predicted, measured),
        float(best / measured[order[0]] * 100),
        float(best / measured[order[:3]].min() * 100),
    )
