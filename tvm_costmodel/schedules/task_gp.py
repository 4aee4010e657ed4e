"""A Gaussian process (GP) over one task's candidates, conditioned on those that were measured.

With a few dozen measurements it orders candidates better than a network or trees trained on as
many, takes milliseconds, and gives a standard deviation (Rasmussen and Williams, Gaussian Processes
for Machine Learning, chapter 2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_costmodel.gaussian_process import Factored
from tvm_costmodel.schedules.statement_features import Features

_NOISE = 0.05
"""Variance that the features do not explain, as a share of that of the measured log seconds."""

_CLIP = 4.0


class TaskGP:
    """Posterior of the log seconds of one task's candidates.

    The covariance of two candidates is ``exp(-distance)`` of their statements' features, in units
    of the median distance (the Matern kernel of order 1/2, for functions that jump where a tile no
    longer fits). The predictions of a prior model add a linear term, so that they are followed as
    far as they have been right on this task.

    Args:
        features: Measured candidates, one [S, 164] each; two or more.
        log_seconds: Measured log seconds of each, [N].
        prior: Log seconds that the prior model predicts for each, [N]; None without one.
        trust: Variance of the prior model's slope, in units of the kernel's.
    """

    def __init__(
        self,
        features: Sequence[Features],
        log_seconds: NDArray[np.float32],
        prior: NDArray[np.float32] | None = None,
        trust: float = 0.3,
    ) -> None:
        rows = np.concatenate(features)
        self._middle, self._scale = rows.mean(0), 1 / (rows.std(0) + 0.1)
        self._known = self._vectors(features)
        distances = _distances(self._known, self._known)
        self._length = (
            float(np.median(distances[distances > 1e-6])) if (distances > 1e-6).any() else 1.0
        )
        self._prior, self._trust = None, trust
        if prior is not None:
            self._prior_middle, self._prior_scale = prior.mean(), prior.std() + 1e-3
            self._prior = (prior - self._prior_middle) / self._prior_scale
        self._mean, self._spread = float(log_seconds.mean()), float(log_seconds.std()) + 1e-6
        covariance = self._covariance(distances, self._prior) + _NOISE * np.eye(len(distances))
        self._factored = Factored(covariance)
        self._weights = self._factored.solve((log_seconds - self._mean) / self._spread)

    def predict(
        self, features: Sequence[Features], prior: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Expected log seconds of candidates, and their standard deviations, both [B].

        Args:
            features: One [S, 164] for each candidate.
            prior: Log seconds that the prior model predicts for each; needed where the GP was
                built with one.
        """
        scaled = None if prior is None else (prior - self._prior_middle) / self._prior_scale
        covariance = self._covariance(_distances(self._vectors(features), self._known), scaled)
        prior_variance = 1.0 if scaled is None else 1.0 + self._trust * scaled**2
        variance = prior_variance - np.square(self._factored.whiten(covariance.T)).sum(0)
        mean = self._mean + self._spread * (covariance @ self._weights)
        return mean, self._spread * np.sqrt(np.maximum(variance, 0))

    def _covariance(
        self, distances: NDArray[np.float64], prior: NDArray[np.float64] | None
    ) -> NDArray[np.float64]:
        """Covariance with the measured candidates, [B, N]."""
        covariance = np.exp(-distances / self._length)
        if prior is not None and self._prior is not None:
            covariance = covariance + self._trust * np.outer(prior, self._prior)
        return covariance

    def _vectors(self, features: Sequence[Features]) -> NDArray[np.float64]:
        """Each candidate's statements as one vector: largest and mean of each feature."""
        vectors = []
        for one in features:
            level = np.clip((one - self._middle) * self._scale, -_CLIP, _CLIP)
            vectors.append(np.concatenate([level.max(0), level.mean(0)]))
        return np.asarray(vectors, np.float64)


def _distances(ones: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances, [B, N]."""
    squares = (ones**2).sum(1)[:, None] + (others**2).sum(1) - 2 * ones @ others.T
    return np.sqrt(np.asarray(np.maximum(squares, 0), np.float64))
