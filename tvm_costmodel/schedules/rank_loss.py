"""The loss of the schedule model: the order of a task's candidates, the fastest ones first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tvm_costmodel.schedules.numpy_layers import Array


def ranking_loss(
    predicted: Array, log_seconds: Array, weight: Array, regression: float
) -> tuple[NDArray[np.float32], Array]:
    """Pairwise logistic loss within one task, with a share of squared error.

    ``sum_ij w_ij log(1 + exp(p_i - p_j))`` over pairs with i faster than j, where ``w_ij`` is the
    difference of their speeds relative to the fastest: a pair counts for the cost of mistaking it,
    as in LambdaRank (Burges, MSR-TR-2010-82). The squared error is that of log seconds, both sides
    centred, so that what all candidates of a task have in common need not be learned.

    Args:
        predicted: Log seconds by every member, [M, B].
        log_seconds: Measured log seconds, [B].
        weight: Weight of each candidate for each member, [M, B].
        regression: Factor of the squared error.

    Returns:
        Loss of every member [M], and its gradient by ``predicted`` [M, B].
    """
    speed = np.exp(log_seconds.min() - log_seconds)
    gap = np.maximum(speed[:, None] - speed[None, :], 0)
    pairs = gap[None] * weight[:, :, None] * weight[:, None, :]
    pairs /= np.maximum(pairs.sum((1, 2), keepdims=True), 1e-12)
    difference = predicted[:, :, None] - predicted[:, None, :]
    loss = (pairs * np.logaddexp(0, difference)).sum((1, 2))
    slope = pairs / (1 + np.exp(-difference))
    gradient = slope.sum(2) - slope.sum(1)

    share = weight / weight.sum(1, keepdims=True)
    error = predicted - log_seconds
    error = error - (share * error).sum(1, keepdims=True)
    loss = loss + regression * (share * error**2).sum(1)
    return loss, (gradient + 2 * regression * share * error).astype(np.float32)
