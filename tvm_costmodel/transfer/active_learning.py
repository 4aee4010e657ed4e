"""Selects the networks or cells to measure on a new device."""

from __future__ import annotations

import numpy as np

from tvm_costmodel.errors import ConfigError

STRATEGIES = ("random", "spread", "informative")
"""Strategies of selection, see `DevicePrior.choose`."""


def candidate_order(total: int, count: int, strategy: str, seed: int) -> np.ndarray:
    """Indices of the candidates in random order, int64 [total], after checking the request.

    Raises:
        ConfigError: An unknown strategy, or fewer candidates than measurements.
    """
    if strategy not in STRATEGIES or not 1 <= count <= total:
        raise ConfigError(
            f"cannot choose {count} of {total} candidates by strategy {strategy!r}: give 1 "
            f"to {total} and one of {', '.join(STRATEGIES)}"
        )
    return np.random.default_rng(seed).permutation(total)


def evenly_ranked(expected: np.ndarray, count: int) -> np.ndarray:
    """Indices of ``count`` numbers at even distances in rank, int64 [count]."""
    at = ((np.arange(count) + 0.5) * len(expected) / count).astype(int)
    chosen: np.ndarray = np.argsort(expected, kind="stable")[at]
    return chosen


def most_informative(
    rows: np.ndarray,
    covariance: np.ndarray,
    noise: float,
    count: int,
    cost: np.ndarray | None = None,
) -> np.ndarray:
    """Rows to measure, in order, for a linear model with Gaussian weights.

    Greedy: each row reduces the mean posterior variance over all rows the most, per unit of its
    cost where costs are given.

    Args:
        rows: float64 [G, F].
        covariance: float64 [F, F] of the weights.
        noise: Standard deviation of a measurement.
        count: Number of rows, at most G.
        cost: float64 [G], what each measurement costs; all the same when not given.

    Returns:
        int64 [count].
    """
    covariance = covariance.copy()
    second_moment = rows.T @ rows / len(rows)
    selected: list[int] = []
    for _ in range(count):
        spread = rows @ covariance  # [G, F]
        reduction = ((spread @ second_moment) * spread).sum(axis=1)
        gain = reduction / (noise**2 + (spread * rows).sum(axis=1))
        if cost is not None:
            gain /= cost
        gain[selected] = -1.0
        best = int(np.argmax(gain))
        selected.append(best)
        along = covariance @ rows[best]
        covariance -= np.outer(along, along) / (noise**2 + rows[best] @ along)
    return np.array(selected)
