"""Conditioning on Cholesky factors equals the formulas with an explicit inverse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from tvm_costmodel.gaussian_process import Factored, ridge

RNG = np.random.default_rng(0)
ROOT = RNG.standard_normal((9, 9))
PRIOR = ROOT @ ROOT.T  # of nine numbers; the first six are measured
NOISY = PRIOR[:6, :6] + 0.1 * np.eye(6)
SURPRISE = RNG.standard_normal(6)


def test_a_posterior_is_that_of_the_inverse() -> None:
    gain, loss = Factored(NOISY).update(PRIOR[:6], SURPRISE)
    inverse = np.linalg.inv(NOISY)
    np.testing.assert_allclose(gain, PRIOR[:, :6] @ inverse @ SURPRISE, rtol=1e-9)
    np.testing.assert_allclose(loss, PRIOR[:, :6] @ inverse @ PRIOR[:6], rtol=1e-9)
    np.testing.assert_allclose(Factored(NOISY).solve(SURPRISE), inverse @ SURPRISE, rtol=1e-9)


def test_leave_one_out_is_what_leaving_one_out_gives() -> None:
    factored = Factored(NOISY)
    errors = factored.leave_one_out(factored.solve(SURPRISE))
    for i in range(6):
        rest = np.arange(6) != i
        mean = NOISY[i, rest] @ np.linalg.solve(NOISY[np.ix_(rest, rest)], SURPRISE[rest])
        assert errors[i] == pytest.approx(SURPRISE[i] - mean)


def test_the_misfit_is_the_likelihood_but_for_a_constant() -> None:
    constant = 6 * np.log(2 * np.pi)
    expected = -2 * multivariate_normal(np.zeros(6), NOISY).logpdf(SURPRISE)
    assert Factored(NOISY).misfit(SURPRISE) + constant == pytest.approx(expected)


def test_ridge_is_least_squares_of_the_rows_and_of_the_weights() -> None:
    rows, target = RNG.standard_normal((20, 4)), RNG.standard_normal(20)
    above = np.concatenate([rows, np.sqrt(0.3) * np.eye(4)])
    expected = np.linalg.lstsq(above, np.append(target, np.zeros(4)), rcond=None)[0]
    np.testing.assert_allclose(ridge(rows, target, 0.3), expected, rtol=1e-9)
