"""How a training of replicas goes: errors by which epochs are chosen, and the best so far.

Shape legend: ``M`` replicas, ``G`` graphs, ``P`` devices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.training.losses import within_networks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ReplicaProgress:
    """What a training of replicas left behind.

    Attributes:
        best_epoch: int [M], epoch whose weights were kept.
        best_error: float [M], validation error of that epoch, percent: the MAPE, mean over devices,
            and with variants the error of how they differ beside it, weighted as in the loss.
        history: One row per epoch: mean loss and each replica's validation error.
    """

    best_epoch: np.ndarray
    best_error: np.ndarray
    history: list[tuple[float, np.ndarray]] = field(default_factory=list)

    def judge(
        self,
        epoch: int,
        loss: float,
        errors: np.ndarray,
        weights: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
    ) -> None:
        """Notes an epoch and keeps the weights of the replicas that it made better.

        Args:
            epoch: Its number, from 1.
            loss: Its mean loss.
            errors: Validation error of each replica, percent, [M].
            weights: Stacked weights, [M, ...] each.
            best: Where those of the best epochs are kept.
        """
        logger.info("epoch %d: loss %.5f, validation %s", epoch, loss, np.round(errors, 2))
        self.history.append((loss, errors))
        better = errors < self.best_error
        self.best_error[better] = errors[better]
        self.best_epoch[better] = epoch
        for name, value in weights.items():
            best[name][better] = value.detach()[better]


def validation_errors(
    predicted: np.ndarray, measured: np.ndarray, counted: np.ndarray
) -> np.ndarray:
    """Validation MAPE of each replica, percent, [M].

    Args:
        predicted: [M, G, P].
        measured: The same shape or one that stretches to it, NaN where not measured.
        counted: bool [M, G], the graphs that each replica's epoch is chosen by.
    """
    error = np.abs(predicted / measured - 1.0) * 100
    known = counted[..., None] & np.isfinite(measured)
    return np.array([error[m][known[m]].mean() for m in range(len(error))])


def variant_errors(
    predicted: np.ndarray, measured: np.ndarray, counted: np.ndarray, variants: np.ndarray
) -> np.ndarray:
    """How far off each replica is in how variants of a network differ, percent, [M].

    `losses.within_networks` in percent; 0 where no network has two variants that count.

    Args:
        predicted: [M, G, P].
        measured: [G, P], NaN where not measured.
        counted: bool [M, G], the graphs that each replica's epoch is chosen by.
        variants: int [G], which network each graph is a variant of.
    """
    names, network = np.unique(variants, return_inverse=True)
    error = torch.from_numpy(np.log(predicted / np.nan_to_num(measured, nan=1.0)))
    known = torch.from_numpy(counted[..., None] & np.isfinite(measured))
    zero, at = torch.zeros_like(error), torch.from_numpy(network)
    return 100 * within_networks(error, zero, known, at, len(names)).numpy()
