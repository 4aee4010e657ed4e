"""Predicts cells on a new device from few measurements, with known devices as a prior.

The latency of a cell is close to a sum over its operations, on every device with other weights:

    latency of cell x on device d  =  s_d (phi(x) . w_d) + noise,   w_d ~ Normal(mean, covariance)

``s_d`` is the device's scale, ``phi`` the cell's features. Mean and covariance come from devices
that measured many cells, so a new device is a Bayesian linear regression on its few measurements:
its weights can change in the directions in which devices differ and hardly in others. This is the
empirical-Bayes view of multi-task learning (Minka and Picard, 1999; Bonilla et al., NIPS 2007); the
value of the next measurement is its reduction of the variance of all predictions (Seo et al., IJCNN
2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.gaussian_process import Factored, ridge
from tvm_costmodel.transfer.active_learning import (
    candidate_order,
    evenly_ranked,
    most_informative,
)

_NOVELTIES = (0.003, 0.01, 0.03)  # prior deviation of a weight outside the known devices' span
_NOISES = (0.03, 0.06, 0.12)  # relative to the device's mean latency
_PROBES = 24  # cells on which two settings of the prior are compared
_SOURCE_RIDGE = 1.0


@dataclass(frozen=True, eq=False)
class AdaptedDevice:
    """A device whose weights were learned from few measurements.

    Attributes:
        scale_s: Seconds that an answer of 1 stands for.
        weights: float64 [F + 1] of the standardised features, then the constant.
        covariance: float64 [F + 1, F + 1], posterior covariance of the weights.
        noise: Standard deviation of one measurement, in units of ``scale_s``.
        prior: The prior that it was learned with.
    """

    scale_s: float
    weights: np.ndarray
    covariance: np.ndarray
    noise: float
    prior: DevicePrior

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Seconds of cells, float64 [G], each at least a thousandth of the scale."""
        answers = self.prior.standardised(features) @ self.weights
        seconds: np.ndarray = self.scale_s * np.maximum(answers, 1e-3)
        return seconds

    def uncertainty_s(self, features: np.ndarray) -> np.ndarray:
        """Standard deviation of each prediction in seconds, including measurement noise."""
        rows = self.prior.standardised(features)
        variance = np.einsum("gf,fh,gh->g", rows, self.covariance, rows) + self.noise**2
        deviation: np.ndarray = self.scale_s * np.sqrt(variance)
        return deviation


@dataclass(frozen=True, eq=False)
class DevicePrior:
    """Prior over the weights of a device, learned from known devices.

    Attributes:
        centre: float64 [F], means of the features over the sources' cells.
        spread: float64 [F], their standard deviations (1 where constant).
        mean: float64 [F + 1], mean weights of the sources, each in units of its mean latency.
        covariance: float64 [F + 1, F + 1].
        noise: Standard deviation of a measurement in units of a device's mean latency.
    """

    centre: np.ndarray
    spread: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    noise: float

    @classmethod
    def learn(
        cls, features: np.ndarray, latency_s: np.ndarray, boards: Sequence[str]
    ) -> DevicePrior:
        """Learns from devices that measured many cells.

        The deviation of a new device from the span of the sources and its measurement noise are
        chosen by the likelihood of each source given the sources of other boards.

        Args:
            features: float64 [G, F].
            latency_s: float64 [G, D], seconds; NaN where a device did not measure a cell.
            boards: Board of each source; settings of one board are not evidence for each other.

        Raises:
            ConfigError: Shapes that do not fit, fewer than two boards, a label that is not
                positive, or a source with fewer cells than features.
        """
        _check_sources(features, latency_s, boards)
        centre, spread = features.mean(axis=0), features.std(axis=0)
        base = cls(centre, np.where(spread > 0, spread, 1.0), np.zeros(0), np.zeros((0, 0)), 0.0)
        rows = base.standardised(features)
        relative = latency_s / np.nanmean(latency_s, axis=0)
        weights = np.array([_ridge(rows, column) for column in relative.T])
        novelty, noise = _settings(rows, relative, weights, boards)
        mean, covariance = _moments(weights, novelty)
        return cls(base.centre, base.spread, mean, covariance, noise)

    def standardised(self, features: np.ndarray) -> np.ndarray:
        """float64 [G, F + 1]: features with mean 0 and deviation 1 over the sources, and 1."""
        scaled = (np.asarray(features, dtype=np.float64) - self.centre) / self.spread
        return np.concatenate([scaled, np.ones((len(scaled), 1))], axis=1)

    def choose(
        self, features: np.ndarray, count: int, strategy: str = "informative", seed: int = 0
    ) -> np.ndarray:
        """Selects the cells to measure on a new device.

        * ``random``: at random.
        * ``spread``: at even distances in rank of the latency that the prior expects.
        * ``informative``: greedily, those that reduce the variance of the predictions for all
          candidates the most.

        Args:
            features: float64 [G, F] of the candidates.
            count: Number of measurements.
            strategy: One of `STRATEGIES`.
            seed: Seed of ``random``, and of ties between equal cells.

        Returns:
            int64 [count] indices of candidates, in the order to measure.

        Raises:
            ConfigError: An unknown strategy, or fewer candidates than measurements.
        """
        order = candidate_order(len(features), count, strategy, seed)
        if strategy == "random":
            return order[:count]
        rows = self.standardised(features)[order]
        if strategy == "spread":
            chosen = evenly_ranked(rows @ self.mean, count)
        else:
            chosen = most_informative(rows, self.covariance, self.noise, count)
        return np.take(order, chosen)

    def adapt(self, features: np.ndarray, latency_s: np.ndarray) -> AdaptedDevice:
        """Learns a device from a few measurements.

        Args:
            features: float64 [k, F] of the measured cells.
            latency_s: float64 [k], seconds.

        Raises:
            ConfigError: No measurement, another number of labels, or one not positive and finite.
        """
        latency = np.asarray(latency_s, dtype=np.float64)
        if latency.shape != (len(features),) or not len(latency):
            raise ConfigError(
                f"{len(features)} cells and labels of shape {latency.shape}: give one latency in "
                "seconds per measured cell, and at least one"
            )
        if not (np.isfinite(latency) & (latency > 0)).all():
            raise ConfigError(
                f"the measurements {latency.tolist()} are not all positive finite seconds: leave "
                "out those that failed"
            )
        rows = self.standardised(features)
        cross, expected = rows @ self.covariance, rows @ self.mean
        factored = Factored(cross @ rows.T + self.noise**2 * np.eye(len(rows)))
        scale = _scale(factored.whiten(latency), factored.whiten(expected))
        gain, loss = factored.update(cross, latency / scale - expected)
        weights, covariance = self.mean + gain, self.covariance - loss
        return AdaptedDevice(scale, weights, covariance, self.noise, self)


def _check_sources(features: np.ndarray, latency_s: np.ndarray, boards: Sequence[str]) -> None:
    if features.ndim != 2 or latency_s.shape != (len(features), len(boards)):
        raise ConfigError(
            f"features {features.shape}, latencies {latency_s.shape} and {len(boards)} boards: "
            "give [cells, features], [cells, devices] and one board per device"
        )
    if len(set(boards)) < 2:
        raise ConfigError(f"boards {sorted(set(boards))}: devices of at least two are needed")
    has_label = ~np.isnan(latency_s)
    if not (latency_s[has_label] > 0).all() or np.isinf(latency_s).any():
        raise ConfigError("a source's latency is not positive and finite: leave the cell out")
    fewest = int(has_label.sum(axis=0).min())
    if fewest <= features.shape[1]:
        raise ConfigError(
            f"a source measured {fewest} cells for {features.shape[1]} features: give more cells"
        )


def _ridge(rows: np.ndarray, latency: np.ndarray) -> np.ndarray:
    has_label = ~np.isnan(latency)
    return ridge(rows[has_label], latency[has_label], _SOURCE_RIDGE)


def _moments(weights: np.ndarray, novelty: float) -> tuple[np.ndarray, np.ndarray]:
    mean = weights.mean(axis=0)
    deviation = weights - mean
    return mean, deviation.T @ deviation / len(weights) + novelty**2 * np.eye(len(mean))


def _settings(
    rows: np.ndarray, relative: np.ndarray, weights: np.ndarray, boards: Sequence[str]
) -> tuple[float, float]:
    """Novelty and noise with the highest likelihood of each source given other boards."""
    probes = np.linspace(0, len(rows) - 1, min(_PROBES, len(rows))).astype(int)
    scores: dict[tuple[float, float], float] = {}
    for device, board in enumerate(boards):
        others = [i for i, name in enumerate(boards) if name != board]
        measured = probes[~np.isnan(relative[probes, device])]
        for novelty in _NOVELTIES:
            mean, covariance = _moments(weights[others], novelty)
            probe = rows[measured]
            error = relative[measured, device] - probe @ mean
            for noise in _NOISES:
                total = probe @ covariance @ probe.T + noise**2 * np.eye(len(probe))
                misfit = Factored(total).misfit(error)
                scores[novelty, noise] = scores.get((novelty, noise), 0.0) - misfit
    return max(scores, key=lambda key: scores[key])


def _scale(latency: np.ndarray, expected: np.ndarray) -> float:
    """The likeliest scale s of measurements with ``latency / s ~ Normal(expected, 1)``, whitened.

    The density of the measurements is s^-k exp(-|latency / s - expected|^2 / 2); its stationary
    point in 1 / s solves a quadratic.
    """
    quadratic, linear = latency @ latency, latency @ expected
    root = np.sqrt(linear**2 + 4.0 * quadratic * len(latency))
    return float(2.0 * quadratic / (linear + root))


def latency_components(latency_s: np.ndarray, count: int = 6) -> np.ndarray:
    """Features of cells from known devices' latencies: principal components.

    They need every known device's measurement of every cell to predict, which is another task than
    predicting from the cell alone; tables of results have to state which of the two it was.

    Args:
        latency_s: float64 [G, D], seconds, complete.
        count: Number of components, at most D.

    Returns:
        float64 [G, count], the strongest first.

    Raises:
        ConfigError: A latency is missing or not positive, or more components than devices.
    """
    if not 1 <= count <= latency_s.shape[1] or not (latency_s > 0).all():
        raise ConfigError(
            f"cannot take {count} components of latencies {latency_s.shape}: give a complete "
            "table of positive seconds, and at most as many components as devices"
        )
    relative = latency_s / latency_s.mean(axis=0) - 1.0
    left, singular_values, _ = np.linalg.svd(relative, full_matrices=False)
    return np.asarray(left[:, :count] * singular_values[:count])
