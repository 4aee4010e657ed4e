"""Which epoch's weights an ensemble keeps: validation errors, and the best epoch of each member.

Shape legend: ``M`` members, ``G`` graphs, ``P`` devices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.training.losses import within_networks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Progress:
    """Best epoch of each member so far, and the history of the training.

    Attributes:
        best_epoch: int [M], epoch whose weights are kept.
        best_error: float [M], validation error of that epoch, percent: the MAPE, mean over devices,
            plus with variants the error of how they differ, weighted as in the loss.
        history: One row per epoch: mean loss and each member's validation error.
    """

    best_epoch: np.ndarray
    best_error: np.ndarray
    history: list[tuple[float, np.ndarray]] = field(default_factory=list)

    def record(
        self,
        epoch: int,
        loss: float,
        errors: np.ndarray,
        weights: Mapping[str, Tensor],
        best: Mapping[str, Tensor],
    ) -> None:
        """Records an epoch and keeps the weights of the members that improved in it.

        Args:
            epoch: Number of the epoch, from 1.
            loss: Mean loss of the epoch.
            errors: Validation error of each member, percent, [M].
            weights: Stacked weights after the epoch, [M, ...] each.
            best: Stacked weights of the best epochs, updated in place.
        """
        logger.info("epoch %d: loss %.5f, validation %s", epoch, loss, np.round(errors, 2))
        self.history.append((loss, errors))
        better = errors < self.best_error
        self.best_error[better] = errors[better]
        self.best_epoch[better] = epoch
        for name, value in weights.items():
            best[name][better] = value.detach()[better]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "best_epoch": self.best_epoch.tolist(),
            "best_error": self.best_error.tolist(),
            "history": [(loss, errors.tolist()) for loss, errors in self.history],
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Progress:
        """The progress that `to_dict` wrote."""
        return cls(
            np.array(record["best_epoch"]),
            np.array(record["best_error"]),
            [(loss, np.array(errors)) for loss, errors in record["history"]],
        )


def validation_errors(
    predicted: np.ndarray, measured: np.ndarray, counted: np.ndarray
) -> np.ndarray:
    """Validation MAPE of each member, percent, [M].

    Args:
        predicted: [M, G, P].
        measured: The same shape or one that broadcasts to it, NaN where not measured.
        counted: bool [M, G], the graphs that choose each member's epoch.
    """
    error = np.abs(predicted / measured - 1.0) * 100
    has_label = counted[..., None] & np.isfinite(measured)
    return np.array([error[m][has_label[m]].mean() for m in range(len(error))])


def variant_errors(
    predicted: np.ndarray, measured: np.ndarray, counted: np.ndarray, variants: np.ndarray
) -> np.ndarray:
    """Error of each member in how variants of a network differ, percent, [M].

    This is `losses.within_networks` in percent; it is 0 where no network has two variants that
    count.

    Args:
        predicted: [M, G, P].
        measured: [G, P], NaN where not measured.
        counted: bool [M, G], the graphs that choose each member's epoch.
        variants: int [G], which network each graph is a variant of.
    """
    names, network = np.unique(variants, return_inverse=True)
    error = torch.from_numpy(np.log(predicted / np.nan_to_num(measured, nan=1.0)))
    has_label = torch.from_numpy(counted[..., None] & np.isfinite(measured))
    zero, at = torch.zeros_like(error), torch.from_numpy(network)
    return 100 * within_networks(error, zero, has_label, at, len(names)).numpy()
