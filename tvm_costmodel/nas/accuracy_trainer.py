"""Trains networks that predict the accuracy of cells, several of them as one.

Seeds, folds and training sizes all train the same network on other cells of one benchmark; every
member draws its batches from its own cells. All cells lie on the device, and no step touches a cell
by itself.

Shape legend: ``M`` ensemble members, ``B`` cells of a batch, ``N`` nodes of the largest cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.layers import seed_dropout
from tvm_costmodel.nas.cell_batch import CellArrays, Structures
from tvm_costmodel.training.losses import with_ranking_and_consistency
from tvm_costmodel.training.training_loop import Recipe, TrainingLoop

Inputs = tuple[Tensor, ...]
BaseLoss = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 2048  # cells of one forward pass over all members


@dataclass(frozen=True)
class AccuracyTraining(Recipe):
    """Recipe of one published network; ``steps`` cuts its published ``epochs``.

    Attributes:
        ranking: Weight of `losses.sequence_ranking`.
        consistency: Weight of `losses.architecture_consistency`; 0 makes no copies.
        ema: Decay of the moving average of weights that predicts; 0 takes the last weights.
        copies: Orders of nodes drawn for each training cell.
        steps: Steps to take instead of ``epochs``; None for all epochs.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    bfloat16: bool = True
    ranking: float = 0.1
    consistency: float = 0.5
    ema: float = 0.0
    copies: int = 16
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.copies, self.steps or 1) < 1:
            raise ConfigError(f"copies {self.copies} and steps {self.steps} must be at least 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema {self.ema} must be in [0, 1)")

    def total_steps(self, cells: int) -> int:
        """Steps of a training on this many cells."""
        return self.steps or self.epochs * math.ceil(cells / self.batch_size)


class AccuracyEnsemble(TrainingLoop):
    """An ensemble of one network, each member trained on cells of its own.

    All steps are one pass without validation: the recipes are published with their length.

    Args:
        networks: The members, of one configuration; trained in place.
        encode: Turns structures into the network's inputs, any leading axes.
        base_loss: Loss of predictions and labels.
        config: The training recipe.
        cells: All cells.
        labels: float [G], accuracy as a share; only training cells' are read.
        train: For each member its training cells, int64.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        encode: Callable[[Structures], Inputs],
        base_loss: BaseLoss,
        config: AccuracyTraining,
        cells: CellArrays,
        labels: np.ndarray,
        train: Sequence[np.ndarray],
    ) -> None:
        self.encode, self.base_loss = encode, base_loss
        self.cells, self.train = cells, [np.asarray(t) for t in train]
        self._labels = torch.from_numpy(np.asarray(labels, np.float32)).to(cells.device)
        total = max(config.total_steps(len(chosen)) for chosen in self.train)
        super().__init__([n.to(cells.device) for n in networks], replace(config, epochs=1), total)
        self._cells_of = self._padded([torch.from_numpy(t) for t in self.train])  # [M, most]
        if config.consistency:
            orders = [
                cells.consistent_orders(chosen, config.copies, config.seed + 1 + m)
                for m, chosen in enumerate(self.train)
            ]
            self._orders = self._padded(orders)  # [M, most, copies, N]

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True).to(self.cells.device)

    def _seed(self, epoch: int) -> None:
        seed_dropout(self.stack.skeleton, self.config.seed)
        torch.manual_seed(self.config.seed)  # of copies and of pairs

    def _batches(self, epoch: int) -> Iterable[np.ndarray]:
        """Positions within each member's training cells, int64 [M, B]."""
        rng = np.random.default_rng([self.config.seed, len(self.train)])
        size = min(self.config.batch_size, *(len(chosen) for chosen in self.train))
        needed = self.steps_per_epoch * size
        parts = []
        for chosen in self.train:
            rounds = [rng.permutation(len(chosen)) for _ in range(math.ceil(needed / len(chosen)))]
            parts.append(np.concatenate(rounds)[:needed].reshape(-1, size))
        return np.stack(parts, axis=1)

    def _step(self, batch: np.ndarray, step: int) -> Tensor:
        loss = super()._step(batch, step)
        if self.config.ema:
            decay = min(self.config.ema, (1 + step) / (10 + step))
            averages = list(self._best.values())
            with torch.no_grad():
                torch._foreach_mul_(averages, decay)
                torch._foreach_add_(averages, list(self.parameters.values()), alpha=1 - decay)
        return loss

    def _losses(self, batch: np.ndarray) -> Tensor:
        config, device = self.config, self.device
        places = torch.from_numpy(batch).to(device, non_blocking=True)
        chosen = self._cells_of.gather(1, places)
        inputs = self.encode(self.cells.batch(chosen))
        if config.consistency:
            drawn = torch.randint(config.copies, places.shape, device=device)
            member = torch.arange(len(places), device=device)[:, None]
            orders = self._orders[member, places, drawn]  # [M, B, N]
            copies = self.encode(self.cells.batch(chosen, orders))
            inputs = tuple(torch.cat(pair, 1) for pair in zip(inputs, copies, strict=True))
        order = torch.randperm(places.shape[1], device=device)
        with self._autocast():
            predicted = self.stack.forward(inputs, shared=False, together=device.type != "cpu")
        one_member = vmap(self._loss, (0, 0, None))
        losses: Tensor = one_member(predicted.float(), self._labels[chosen], order)
        return losses

    def _loss(self, predicted: Tensor, measured: Tensor, order: Tensor) -> Tensor:
        """Loss of one member's predictions, [B] or, with copies, [2 B]."""
        config = self.config
        own, copies = predicted.chunk(2) if config.consistency else (predicted, None)
        base = self.base_loss(own, measured)
        return with_ranking_and_consistency(
            base, own, measured, order, copies, config.ranking, config.consistency
        )

    def _errors(self) -> np.ndarray:
        return np.full(len(self.train), np.nan)  # nothing is chosen by an error

    def _validate(self, epoch: int, loss: float) -> None:
        """Keeps the last weights, or their average, which `_step` keeps."""
        if not self.config.ema:
            self._best = self.parameters
        self.progress.history.append((loss, self._errors()))

    @torch.no_grad()
    def predict(self, chosen: np.ndarray) -> np.ndarray:
        """Accuracy of cells of the set as a share, float64 [M, len(chosen)]."""
        parts = []
        for network in self.networks:
            network.eval()
        for start in range(0, len(chosen), _CHUNK):
            at = torch.from_numpy(np.asarray(chosen[start : start + _CHUNK])).to(self.cells.device)
            inputs = self.encode(self.cells.batch(at))
            shares = [network(*inputs).double() for network in self.networks]
            parts.append(torch.stack(shares).cpu().numpy())
        return np.concatenate(parts, axis=1)
