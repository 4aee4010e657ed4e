"""A trained predictor on a new device: a correction of its answers, learned from few networks.

The log of measured over predicted latency is a Gaussian process over what a network is made of:

    k(a, b) = shift^2 + slope^2 p_a p_b + size^2 s_a . s_b + tilt^2 w_a . w_b
              + company^2 exp(-d(a, b) / reach)

``p`` is the log of the predicted latency and ``s`` the logs of FLOPs, bytes and operators, both
about the measured networks' mean; ``w`` are the parts of the work that groups of operators do, so
that a device on which depthwise convolutions are dear has a tilt of its own; ``d`` is the distance
of sqrt(w) and of a fifth of ``p``, so that networks of one family vouch for each other. The widths
are fixed: 5 measurements cannot choose them. They were set on networks of nn-Meter's bench.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.baselines.features import GROUPS, group_of
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.training.adaptation import (
    candidate_order,
    evenly_ranked,
    most_informative,
)
from tvm_costmodel.training.labels import check_labels

if TYPE_CHECKING:
    from typing_extensions import Self

    from tvm_costmodel.training.regressor import Regressor

_SHIFT, _SLOPE, _SIZE, _TILT, _COMPANY = 10.0, 0.1, 0.1, 0.3, 0.5  # in log latency
_REACH = 0.7
_NOISE = 0.05
_BALANCE = 16.0  # FLOPs that take as long as moving a byte, for the parts of the work alone
_SCALARS = 4  # log of predicted seconds, FLOPs, bytes, operators
_COVERAGE = 0.9
_CANDIDATES = 1000  # whose mutual covariance is written out to choose among them
_OF_THE_SOURCE = ("device", "validation", "test", "pipeline_key")  # no longer true of a copy


@dataclass(frozen=True)
class Calibration:
    """Correction of log latencies.

    Attributes:
        rows: What the measured networks are made of, one row each (see `make_up`).
        weights: Of the measured networks.
        groups: Names of the groups of operators in the rows.
        source: Device that the predictor was trained for.
    """

    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    groups: tuple[str, ...]
    source: str

    def apply(self, graphs: Sequence[OpGraph], latency_s: np.ndarray) -> np.ndarray:
        """Corrected seconds, float64 [G]."""
        measured = np.array(self.rows)
        covariance = _covariance(make_up(graphs, latency_s), measured, measured)
        return np.asarray(latency_s * np.exp(covariance @ np.array(self.weights)))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """What `to_dict` gave.

        Raises:
            ValueError: It is of a version with other groups of operators.
        """
        if tuple(stored["groups"]) != GROUPS:
            raise ValueError("calibrated with other groups of operators")
        rows = tuple(tuple(row) for row in stored["rows"])
        return cls(rows, tuple(stored["weights"]), GROUPS, stored["source"])


def calibrate(
    regressor: Regressor,
    graphs: Sequence[OpGraph],
    latency_s: np.ndarray,
    device: str,
    learned: Collection[str] = (),
) -> Regressor:
    """A copy of a trained predictor that answers for another device.

    Its interval is made of the leave-one-out errors of measured networks that are not in
    ``learned``; it has none where those are fewer than two. A predictor that was calibrated before
    starts from its uncalibrated answers.

    Args:
        regressor: Fitted or loaded; stays as it is.
        graphs: Networks that the new device measured.
        latency_s: Seconds, one per network.
        device: Name of the new device.
        learned: Content hashes of networks that the predictor was trained on: it knows them better
            than those to come, so that they would make the interval too narrow.

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
    kept = {key: value for key, value in regressor.card.items() if key not in _OF_THE_SOURCE}
    calibrated.card = {**kept, "device": device, "calibrated_from": source}
    return calibrated


def leave_one_out(
    regressor: Regressor, graphs: Sequence[OpGraph], latency_s: np.ndarray
) -> np.ndarray:
    """What a calibration to all the other measurements answers for each network.

    Args:
        regressor: Fitted or loaded.
        graphs: Networks that the new device measured.
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
    """Device whose labels a predictor was trained on, whatever it was calibrated to since."""
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
    rule: str = "informative",
    seed: int = 0,
) -> np.ndarray:
    """Which networks a new device should measure for `calibrate`.

    Args:
        regressor: Predictor that will be calibrated.
        graphs: Candidates; beyond a thousand, ``informative`` looks at a thousand random ones.
        count: Measurements.
        rule: ``random``; ``spread``, evenly over the ranks of the predicted latency; or
            ``informative``, those that take most off the variance of the correction.
        seed: Of ``random``, and of ties.

    Returns:
        int64 [count] places among the candidates, in the order to measure.

    Raises:
        ConfigError: An unknown rule, or fewer candidates than measurements.
    """
    order = candidate_order(len(graphs), count, rule, seed)
    if rule == "random":
        return order[:count]
    if rule == "informative":
        order = order[: max(count, _CANDIDATES)]
    candidates = [graphs[int(i)] for i in order]
    predicted = uncalibrated(regressor).predict(candidates)
    if rule == "spread":
        return order[evenly_ranked(predicted, count)]
    rows = make_up(candidates, predicted)
    strength, along = np.linalg.eigh(_covariance(rows, rows, rows))
    factors = along * np.sqrt(np.maximum(strength, 0.0))  # factors @ factors.T is the covariance
    return order[most_informative(factors, np.eye(len(rows)), _NOISE, count)]


def make_up(graphs: Sequence[OpGraph], latency_s: np.ndarray) -> np.ndarray:
    """What networks are made of, float64 [G, 4 + groups].

    Args:
        graphs: The networks.
        latency_s: Predicted seconds.

    Returns:
        Logs of the predicted seconds, of FLOPs, bytes and operators, then the part of the work that
        each group of operators does. Work is FLOPs or 16 per byte moved, whichever is more.
    """
    rows = np.zeros((len(graphs), _SCALARS + len(GROUPS)))
    for row, graph, seconds in zip(rows, graphs, latency_s, strict=True):
        row[:_SCALARS] = np.log([seconds, 1.0 + graph.flops, 1.0 + graph.bytes, len(graph)])
        for i, cost in enumerate(graph.costs):
            work = max(float(cost.flops), _BALANCE * cost.bytes)
            row[_SCALARS + GROUPS.index(group_of(graph, i))] += work
        row[_SCALARS:] /= max(row[_SCALARS:].sum(), 1.0)
    return rows


def _covariance(a: np.ndarray, b: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Prior covariance of the corrections of two sets of networks, float64 [A, B]."""
    centre = measured[:, :_SCALARS].mean(axis=0)
    pa, pb = a[:, :_SCALARS] - centre, b[:, :_SCALARS] - centre
    wa, wb = a[:, _SCALARS:], b[:, _SCALARS:]
    apart = (0.2 * (pa[:, :1] - pb[:, 0])) ** 2
    apart += wa.sum(axis=1)[:, None] + wb.sum(axis=1) - 2.0 * np.sqrt(wa) @ np.sqrt(wb).T
    distance = np.sqrt(np.maximum(apart, 0.0))
    return np.asarray(
        _SHIFT**2
        + _SLOPE**2 * np.outer(pa[:, 0], pb[:, 0])
        + _SIZE**2 * pa[:, 1:] @ pb[:, 1:].T
        + _TILT**2 * wa @ wb.T
        + _COMPANY**2 * np.exp(-distance / _REACH)
    )


def _fitted(
    plain: Regressor, graphs: Sequence[OpGraph], measured_s: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, weights and errors in log latency of each network by the others' measurements."""
    predicted = plain.predict(graphs)
    rows, wanted = make_up(graphs, predicted), np.log(measured_s / predicted)
    inverse = np.linalg.inv(_covariance(rows, rows, rows) + _NOISE**2 * np.eye(len(rows)))
    weights = inverse @ wanted
    return rows, weights, weights / np.diag(inverse)


def uncalibrated(regressor: Regressor) -> Regressor:
    """A copy that answers for the device that the predictor was trained for."""
    plain = copy.copy(regressor)
    plain.calibration = None
    return plain


def _interval(errors: np.ndarray) -> Any:
    """Of few errors it is their range, and its coverage what a range of so many can promise."""
    from tvm_costmodel.training.regressor import Interval

    count = len(errors)
    return Interval.from_residuals(errors, min(_COVERAGE, (count - 1) / (count + 1)))
