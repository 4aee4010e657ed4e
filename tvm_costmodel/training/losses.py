"""Losses on latencies in one unit; predictions and labels are positive, shape [B]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tvm_costmodel.errors import ConfigError

Loss = Callable[[Tensor, Tensor], Tensor]


def relative_squared(predicted: Tensor, measured: Tensor) -> Tensor:
    """``mean((p / y - 1)^2)``, the loss of NNLP and NAR-Former V2."""
    return torch.mean((predicted / measured - 1.0) ** 2)


def log_squared(predicted: Tensor, measured: Tensor) -> Tensor:
    """``mean(log(p / y)^2)``, the same for half and double the latency."""
    return torch.mean(torch.log(predicted / measured) ** 2)


LOSSES: Mapping[str, Loss] = {"relative": relative_squared, "log": log_squared}
"""Losses by their name in `TrainingConfig`."""


def require_finite(loss: float, epoch: int, learning_rate: float) -> None:
    """Ends a training whose loss is infinite or no number.

    Raises:
        ConfigError: The loss is not finite; the message names the epoch and the rate to lower.
    """
    if not math.isfinite(loss):
        raise ConfigError(
            f"the loss is {loss} in epoch {epoch}: lower learning_rate (it is {learning_rate})"
        )


def sequence_ranking(predicted: Tensor, measured: Tensor, order: Tensor) -> Tensor:
    """L1 loss on differences between shuffled pairs, which rewards the right gaps and order.

    ``mean_i |(p_i - p_o(i)) - (y_i - y_o(i))|``: NAR-Former (arXiv 2211.08024) and V2.

    Args:
        predicted: [B].
        measured: [B].
        order: int64 [B], a random permutation of the batch, such as ``torch.randperm(B)``.
    """
    gap = (predicted - predicted[order]) - (measured - measured[order])
    return torch.mean(torch.abs(gap))


def architecture_consistency(predicted: Tensor, copy: Tensor) -> Tensor:
    """``mean |p - p'|`` between networks and copies of them with their operators reordered.

    Args:
        predicted: Predictions of the networks, [B].
        copy: Predictions of their information-flow-consistent copies, [B].
    """
    return torch.mean(torch.abs(predicted - copy))


def with_ranking_and_consistency(
    base: Tensor,
    predicted: Tensor,
    measured: Tensor,
    order: Tensor,
    copy: Tensor | None = None,
    ranking_weight: float = 0.1,
    consistency_weight: float = 0.5,
) -> Tensor:
    """NAR-Former's loss on cells: a base loss, the ranking and, with copies, the consistency.

    Args:
        base: Mean squared error (NAR-Former) or `relative_squared` (V2), a scalar.
        predicted: [B].
        measured: [B].
        order: int64 [B], a random permutation of the batch.
        copy: Predictions of the copies, [B]; None where the batch has none.
        ranking_weight: Published: 0.1.
        consistency_weight: Published: 0.5.
    """
    loss = base + ranking_weight * sequence_ranking(predicted, measured, order)
    if copy is None:
        return loss
    return loss + consistency_weight * architecture_consistency(predicted, copy)


def pairwise_ranking(
    predicted: Tensor, measured: Tensor, weight: Tensor, order: Tensor, scale: float = 0.05
) -> Tensor:
    """Logistic loss on which of two networks is faster (RankNet, Burges et al., ICML 2005).

    ``mean softplus(-sign(y_i - y_j) (p_i - p_j) / scale) * scale`` over the pairs that a shuffle
    makes, on logarithms.

    Args:
        predicted: Logarithms of latencies, [..., B, P].
        measured: The same of the measured ones.
        weight: Bool, whether a label counts; a pair counts when both labels do.
        order: int64 [B], a random permutation of the batch.
        scale: Difference of logarithms from which two latencies count as different.

    Returns:
        One loss for each leading index, [...].
    """
    gap = predicted - predicted[..., order, :]
    sign = torch.sign(measured - measured[..., order, :])
    both = weight & weight[..., order, :] & (sign != 0)
    loss = torch.nn.functional.softplus(-sign * gap / scale) * scale * both
    return loss.sum((-2, -1)) / both.sum((-2, -1)).clamp(min=1)


def within_networks(
    predicted: Tensor, measured: Tensor, weight: Tensor, network: Tensor, networks: int
) -> Tensor:
    """Mean absolute error of how variants of a network differ, on logarithms.

    The error of a network as a whole, which moves all of its variants alike, does not count:
    ``mean_i |e_i - mean_{j of i's network} e_j|`` with ``e = p - y``.

    Args:
        predicted: Logarithms of latencies, [M, B, P].
        measured: The same of the measured ones.
        weight: Bool [M, B, P], whether a label counts.
        network: int64 [B], which network each is a variant of.
        networks: Number of networks.

    Returns:
        One loss for each leading index, [M]; a network with one counted variant adds nothing.
    """
    error = (predicted - measured) * weight
    shape = (len(predicted), networks, predicted.shape[-1])
    total = error.new_zeros(shape).index_add(1, network, error)
    count = error.new_zeros(shape).index_add(1, network, weight.to(error.dtype))
    mean = (total / count.clamp(min=1))[:, network]
    several = weight & (count[:, network] > 1)
    deviation = torch.abs(error - mean) * several
    return deviation.sum((1, 2)) / several.sum((1, 2)).clamp(min=1)
