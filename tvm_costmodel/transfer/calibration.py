"""Calibrates a trained predictor to a new device with measurements of few networks.

The log of measured over predicted latency is a Gaussian process over what a network is made of:

    k(a, b) = shift^2 + slope^2 p_a p_b + size^2 s_a . s_b + tilt^2 w_a . w_b
              + similarity^2 exp(-d(a, b) / reach)

``p`` is the log of the predicted latency and ``s`` the logs of FLOPs, bytes and operators, both
centred on the measured networks' mean; ``w`` are the shares of the work of groups of operators, so
that the tilt term covers a device on which, say, depthwise convolutions are expensive; ``d`` is the
distance of sqrt(w) and of a fifth of ``p``, so that the similarity term correlates networks of one
family. The widths are fixed, because 5 measurements cannot determine them; they were set on
networks of nn-Meter's bench.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.gaussian_process import Factored
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.conformal import Interval
from tvm_costmodel.predictors.latency_correction import (
    Calibration,
    correction_covariance,
    work_profile,
)
from tvm_costmodel.tokenizer.network_features import GROUPS
from tvm_costmodel.training.dataset import check_labels
from tvm_costmodel.transfer.active_learning import candidate_order, evenly_ranked, most_informative

if TYPE_CHECKING:
    from tvm_costmodel.predictors.base import Regressor

_NOISE = 0.05
_COVERAGE = 0.9
_CANDIDATES = 1000  # candidates whose covariance matrix is computed
_OF_THE_SOURCE = ("device", "validation", "test", "pipeline_key")  # card entries not copied


def calibrate(
    regressor: Regressor,
    graphs: Sequence[OpGraph],
    latency_s: np.ndarray,
    device: str,
    learned: Collection[str] = (),
) -> Regressor:
    """Returns a copy of a trained predictor that is corrected for another device.

    Its interval comes from the leave-one-out errors of measured networks that are not in
    ``learned``; it has none where those are fewer than two. A predictor that was calibrated before
    is calibrated from its uncalibrated predictions.

    Args:
        regressor: A fitted or loaded predictor, which is not changed.
        graphs: Networks that were measured on the new device.
        latency_s: Seconds, one per network.
        device: Name of the new device.
        learned: Content hashes of networks that the predictor was trained on; its errors on them
            are smaller than on new ones and would make the interval too narrow.

    Raises:
        ConfigError: A label is not positive and finite, the lengths differ, or ``device`` is the
            one that the predictor was trained for.
        CheckpointError: The predictor was not trained.
    """
    refuse_own_device(regressor, device)
    calibrated = uncalibrated(regressor)
    rows, weights, errors = _fitted(calibrated, graphs, check_labels(graphs, latency_s))
    source = trained_for(regressor)
    calibrated.calibration = Calibration(
        tuple(map(tuple, rows.tolist())), tuple(weights.tolist()), GROUPS, source
    )
    new = errors[[graph.hash not in learned for graph in graphs]]
    calibrated.interval = _interval(new) if len(new) > 1 else None
    entries = {key: value for key, value in regressor.card.items() if key not in _OF_THE_SOURCE}
    calibrated.card = {**entries, "device": device, "calibrated_from": source}
    return calibrated


def leave_one_out(
    regressor: Regressor, graphs: Sequence[OpGraph], latency_s: np.ndarray
) -> np.ndarray:
    """Predicts each network with a calibration to all the other measurements.

    Args:
        regressor: A fitted or loaded predictor.
        graphs: Networks that were measured on the new device.
        latency_s: Seconds, one per network.

    Returns:
        Seconds, float64 [G], in closed form (Rasmussen and Williams, 2006, section 5.4.2).

    Raises:
        ConfigError: A label is not positive and finite, or the lengths differ.
        CheckpointError: The predictor was not trained.
    """
    measured = check_labels(graphs, latency_s)
    _, _, errors = _fitted(uncalibrated(regressor), graphs, measured)
    return np.asarray(measured * np.exp(-errors))


def trained_for(regressor: Regressor) -> str:
    """Device whose labels a predictor was trained on, even if it was calibrated since."""
    before = regressor.calibration
    return before.source if before else str(regressor.card.get("device", ""))


def refuse_own_device(regressor: Regressor, device: str) -> None:
    """Refuses to calibrate a predictor to the device that it was trained for.

    Raises:
        ConfigError: ``device`` is that device.
    """
    if device == trained_for(regressor):
        raise ConfigError(
            f"the predictor was trained for {device}: calibrating is for another device; train it "
            "on these labels instead"
        )


def choose_networks(
    regressor: Regressor,
    graphs: Sequence[OpGraph],
    count: int,
    strategy: str = "informative",
    seed: int = 0,
) -> np.ndarray:
    """Selects the networks to measure on a new device for `calibrate`.

    Args:
        regressor: Predictor that will be calibrated.
        graphs: Candidates; of more than a thousand, ``informative`` considers a random thousand.
        count: Number of measurements.
        strategy: ``random``; ``spread``, at even distances in rank of the predicted latency; or
            ``informative``, those that reduce the variance of the correction the most.
        seed: Seed of ``random``, and of ties.

    Returns:
        int64 [count] indices of candidates, in the order to measure.

    Raises:
        ConfigError: An unknown strategy, or fewer candidates than measurements.
    """
    order = candidate_order(len(graphs), count, strategy, seed)
    if strategy == "random":
        return order[:count]
    if strategy == "informative":
        order = order[: max(count, _CANDIDATES)]
    candidates = [graphs[int(i)] for i in order]
    predicted = uncalibrated(regressor).predict(candidates)
    if strategy == "spread":
        return np.take(order, evenly_ranked(predicted, count))
    return np.take(order, _most_informative(candidates, predicted, count))


def choose_by_cost(regressor: Regressor, graphs: Sequence[OpGraph], cost: np.ndarray) -> np.ndarray:
    """Orders networks by what they tell `calibrate` per unit of what measuring them costs.

    Args:
        regressor: Predictor that will be calibrated.
        graphs: Candidates, at most a few hundred.
        cost: float64 [G], what it costs to build and measure each.

    Returns:
        int64 [G], the order to measure in until the time is spent.
    """
    predicted = uncalibrated(regressor).predict(graphs)
    return _most_informative(graphs, predicted, len(graphs), cost)


def _most_informative(
    graphs: Sequence[OpGraph], predicted_s: np.ndarray, count: int, cost: np.ndarray | None = None
) -> np.ndarray:
    rows = work_profile(graphs, predicted_s)
    eigenvalues, eigenvectors = np.linalg.eigh(correction_covariance(rows, rows, rows))
    factors = eigenvectors * np.sqrt(np.maximum(eigenvalues, 0.0))  # F F^T is the covariance
    return most_informative(factors, np.eye(len(rows)), _NOISE, count, cost)


def _fitted(
    plain: Regressor, graphs: Sequence[OpGraph], measured_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Work profiles, weights, and leave-one-out errors in log latency of each network."""
    predicted = plain.predict(graphs)
    rows, target = work_profile(graphs, predicted), np.log(measured_s / predicted)
    factored = Factored(correction_covariance(rows, rows, rows) + _NOISE**2 * np.eye(len(rows)))
    weights = factored.solve(target)
    return rows, weights, factored.leave_one_out(weights)


def uncalibrated(regressor: Regressor) -> Regressor:
    """A copy that predicts for the device that the predictor was trained for."""
    plain = copy.copy(regressor)
    plain.calibration = None
    return plain


def _interval(errors: np.ndarray) -> Interval:
    """The interval of the errors; few errors give their range, with the coverage of a range."""
    count = len(errors)
    return Interval.from_residuals(errors, min(_COVERAGE, (count - 1) / (count + 1)))
