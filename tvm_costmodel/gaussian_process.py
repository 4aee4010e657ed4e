"""What Gaussian processes and Bayesian linear regressions compute, on Cholesky factors.

All of them condition normally distributed numbers on measurements. The measurements' covariance is
factored once, ``K = L L'``, and solved against; an inverse is never formed, which would lose digits
where measurements are nearly the same (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, algorithm 2.1).

Shape legend: ``N`` measurements, ``B`` numbers that are not measured.
"""

from __future__ import annotations

import numpy as np


class Factored:
    """The covariance of measurements, factored.

    Args:
        covariance: float64 [N, N], noise included; positive definite.

    Attributes:
        lower: The factor ``L``, float64 [N, N].
    """

    def __init__(self, covariance: np.ndarray) -> None:
        self.lower = np.linalg.cholesky(np.asarray(covariance, dtype=np.float64))

    def whiten(self, columns: np.ndarray) -> np.ndarray:
        """``L^-1 columns``, which has unit covariance where columns have this one; [N, ...]."""
        from scipy.linalg import solve_triangular

        return np.asarray(solve_triangular(self.lower, columns, lower=True))

    def solve(self, columns: np.ndarray) -> np.ndarray:
        """``K^-1 columns``, [N, ...]: weights of the measurements in a posterior mean."""
        from scipy.linalg import cho_solve

        return np.asarray(cho_solve((self.lower, True), columns))

    def update(self, cross: np.ndarray, surprise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the measurements say about other numbers.

        Args:
            cross: Their covariance with the measurements, [N, B].
            surprise: Measured minus expected, [N].

        Returns:
            What their means gain, [B], and what their covariance loses, [B, B].
        """
        white = self.whiten(cross)
        return white.T @ self.whiten(surprise), white.T @ white

    def leave_one_out(self, weights: np.ndarray) -> np.ndarray:
        """Error of each measurement's mean given all the others, [N] (section 5.4.2).

        Args:
            weights: `solve` of measured minus expected, [N].
        """
        precision = np.square(self.whiten(np.eye(len(self.lower)))).sum(axis=0)
        residuals: np.ndarray = weights / precision
        return residuals

    def misfit(self, surprise: np.ndarray) -> float:
        """Twice the negative log likelihood of a surprise, [N], up to a constant."""
        log_determinant = 2.0 * np.log(np.diag(self.lower)).sum()
        return float(np.square(self.whiten(surprise)).sum() + log_determinant)


def ridge(rows: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    """Weights with the least ``|rows w - target|^2 + strength |w|^2``, float64 [F].

    This is the mean of normal weights of variance 1 given targets with noise of that variance.

    Args:
        rows: [N, F].
        target: [N].
        strength: Above 0.
    """
    gram = rows.T @ rows + strength * np.eye(rows.shape[1])
    return Factored(gram).solve(rows.T @ target)
