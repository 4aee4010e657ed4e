"""How a predictor errs on one network, learned from a few measured candidates.

The error of a predicted ratio is taken as a sum over the decisions of a candidate, each weighted
by its operators' share of the network's arithmetic: a Bayesian linear regression with a Gaussian
prior around no error (Bishop, Pattern Recognition and Machine Learning, section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.gaussian_process import Factored
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

_NOISE = 0.02  # of a measured log ratio
_PRIOR = 0.3  # of the error of a decision that covers the whole network


class ResidualModel:
    """Offsets to predicted log ratios, zero until `fit` is called.

    Args:
        space: The space whose candidates are measured and corrected.
    """

    def __init__(self, space: DecisionSpace) -> None:
        macs = np.array([cost.macs for cost in space.graph.costs], dtype=float)
        self._share = macs / max(1.0, macs.sum())
        self._column: dict[tuple[object, ...], int] = {}
        self._weights = np.zeros(0)
        self._class = {
            choice.place: number for number, part in enumerate(space.classes) for choice in part
        }
        self._seen: list[dict[tuple[object, ...], float]] = []
        self._errors: list[float] = []

    def fit(self, candidates: Sequence[Candidate], errors: np.ndarray) -> None:
        """Adds measured candidates.

        Args:
            candidates: The candidates.
            errors: Measured minus predicted log ratio of each.
        """
        self._seen += [self._features(candidate) for candidate in candidates]
        self._errors += [float(error) for error in errors]
        for row in self._seen:
            for name in row:
                self._column.setdefault(name, len(self._column))
        matrix = np.zeros((len(self._seen), len(self._column)))
        for i, row in enumerate(self._seen):
            for name, amount in row.items():
                matrix[i, self._column[name]] = amount
        # weights = prior X' (X prior X' + noise)^-1 errors
        gram = _PRIOR**2 * matrix @ matrix.T + _NOISE**2 * np.eye(len(matrix))
        self._weights = _PRIOR**2 * matrix.T @ Factored(gram).solve(np.array(self._errors))

    def offsets(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """What to add to predicted log ratios, float64 [N]."""
        if not self._errors:
            return np.zeros(len(candidates))
        return np.array([self._offset(candidate) for candidate in candidates])

    def _offset(self, candidate: Candidate) -> float:
        return sum(
            amount * float(self._weights[self._column[name]])
            for name, amount in self._features(candidate).items()
            if name in self._column
        )

    def _features(self, candidate: Candidate) -> dict[tuple[object, ...], float]:
        """Share of the arithmetic by decision and value, over all operators and by kernel class."""
        features: dict[tuple[object, ...], float] = {}

        def add(name: tuple[object, ...], amount: float) -> None:
            features[name] = features.get(name, 0.0) + amount

        for i, name, value in candidate.entries:
            share = 1.0 if i == NETWORK else float(self._share[i])
            add((name, value), share)
            add((name, value, self._place(i, name)), share)
        return features

    def _place(self, i: int, name: str) -> Value:
        return self._class.get((i, name), -2)
