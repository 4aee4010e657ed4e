"""Losses on latencies in one unit; predictions and labels are positive, shape [B]."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]


def relative_squared(predicted: Tensor, measured: Tensor) -> Tensor:
    """``mean((p / y - 1)^2)``, the loss of NNLP and NAR-Former V2."""
    return torch.mean((predicted / measured - 1.0) ** 2)


def log_squared(predicted: Tensor, measured: Tensor) -> Tensor:
    """``mean(log(p / y)^2)``, which punishes half and double alike."""
    return torch.mean(torch.log(predicted / measured) ** 2)


LOSSES: Mapping[str, Loss] = {"relative": relative_squared, "log": log_squared}
"""Losses by the name that a training configuration gives."""
