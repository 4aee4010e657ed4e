"""Trains networks that predict the accuracy of cells, several of them as one.

Seeds, folds and training sizes all train the same network on other cells of one benchmark. One
such network leaves a GPU idle between its kernels, so the members of an ensemble run as one (see
`training.vmap_ensemble`), and every member draws its batches from its own cells. All cells lie on
the device, and no step touches a cell by itself.

Shape legend: ``M`` ensemble members, ``B`` cells of a batch, ``N`` nodes of the largest cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from tqdm import tqdm

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.layers import seed_dropout
from tvm_costmodel.nas.cell_batch import CellArrays, Structures
from tvm_costmodel.training.losses import with_ranking_and_consistency
from tvm_costmodel.training.vmap_ensemble import VmapEnsemble

Inputs = tuple[Tensor, ...]
BaseLoss = Callable[[Tensor, Tensor], Tensor]

_CHUNK = 2048  # cells of one forward pass over all members


@dataclass(frozen=True)
class AccuracyTraining:
    """Recipe of one published network.

    Attributes:
        epochs: Passes over the training cells as published; ``steps`` cuts them.
        batch_size: Cells of a step.
        learning_rate: Peak learning rate of Adam.
        weight_decay: Decoupled weight decay of matrices; vectors have none.
        warmup: Share of all steps over which the rate rises; it then falls linearly to 0.
        ranking: Weight of `losses.sequence_ranking`.
        consistency: Weight of `losses.architecture_consistency`; 0 makes no copies.
        ema: Decay of the moving average of weights that predicts; 0 takes the last weights.
        copies: Orders of nodes drawn for each training cell.
        steps: Steps to take instead of ``epochs``; None for all epochs.
        bfloat16: Whether matmuls on a GPU run in bfloat16.
    """

    epochs: int
    batch_size: int
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    ranking: float = 0.1
    consistency: float = 0.5
    ema: float = 0.0
    copies: int = 16
    steps: int | None = None
    bfloat16: bool = True

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.copies, self.steps or 1) < 1:
            raise ConfigError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, copies {self.copies} and "
                f"steps {self.steps} must be at least 1"
            )
        if self.learning_rate <= 0 or not 0 <= self.warmup < 1 or not 0 <= self.ema < 1:
            raise ConfigError(
                f"learning_rate {self.learning_rate} must be above 0, warmup {self.warmup} and "
                f"ema {self.ema} in [0, 1)"
            )

    def total_steps(self, cells: int) -> int:
        """Steps of a training on this many cells."""
        return self.steps or self.epochs * math.ceil(cells / self.batch_size)


class AccuracyEnsemble:
    """An ensemble of one network, each member trained on cells of its own.

    Args:
        networks: The members, of one configuration; trained in place.
        encode: Turns structures into the network's inputs, any leading axes.
        base_loss: Loss of predictions and labels.
        config: The training recipe.
        cells: All cells.
        labels: float [G], accuracy as a share; only training cells' are read.
        train: For each member its training cells, int64.
        seed: Seed of batches and copies.
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
        seed: int = 0,
    ) -> None:
        self.encode, self.base_loss, self.config = encode, base_loss, config
        self.cells, self.train, self.seed = cells, [np.asarray(t) for t in train], seed
        self._labels = torch.from_numpy(np.asarray(labels, np.float32)).to(cells.device)
        self.stack = VmapEnsemble([network.to(cells.device) for network in networks])
        self.networks, self.parameters = self.stack.networks, self.stack.parameters
        self.averages = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = self.stack.adamw(config.learning_rate, config.weight_decay)
        self.total = max(config.total_steps(len(chosen)) for chosen in self.train)
        self._cells_of = self._padded([torch.from_numpy(t) for t in self.train])  # [M, most]
        if config.consistency:
            orders = [
                cells.consistent_orders(chosen, config.copies, seed + 1 + m)
                for m, chosen in enumerate(self.train)
            ]
            self._orders = self._padded(orders)  # [M, most, copies, N]

    def _padded(self, parts: Sequence[Tensor]) -> Tensor:
        return nn.utils.rnn.pad_sequence(list(parts), batch_first=True).to(self.cells.device)

    def run(self) -> AccuracyEnsemble:
        """Trains to the end and loads the weights that predict.

        Raises:
            ConfigError: The loss is no longer a number.
        """
        rng = np.random.default_rng([self.seed, len(self.train)])
        batches = [self._batches(rng, chosen) for chosen in self.train]
        self.stack.skeleton.train()
        seed_dropout(self.stack.skeleton, self.seed)
        torch.manual_seed(self.seed)
        loss = torch.zeros(())
        for step in tqdm(range(self.total), unit="step", disable=None):
            at = torch.from_numpy(np.stack([part[step] for part in batches]))  # [M, B]
            loss = self._step(at.to(self.cells.device, non_blocking=True), step)
        if not math.isfinite(float(loss)):
            raise ConfigError(f"the loss is {float(loss)}: lower learning_rate")
        self.stack.unstack(self.averages if self.config.ema else self.parameters)
        return self

    def _batches(self, rng: np.random.Generator, chosen: np.ndarray) -> np.ndarray:
        """Positions within a member's training cells, int64 [steps, B], epoch after epoch."""
        needed = self.total * self._batch_size()
        rounds = [rng.permutation(len(chosen)) for _ in range(math.ceil(needed / len(chosen)))]
        return np.concatenate(rounds)[:needed].reshape(self.total, -1)

    def _batch_size(self) -> int:
        return min(self.config.batch_size, *(len(chosen) for chosen in self.train))

    def _step(self, places: Tensor, step: int) -> Tensor:
        config, device = self.config, self.cells.device
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self._rate(step)
        chosen = self._cells_of.gather(1, places)
        inputs = self.encode(self.cells.batch(chosen))
        if config.consistency:
            drawn = torch.randint(config.copies, places.shape, device=device)
            member = torch.arange(len(places), device=device)[:, None]
            orders = self._orders[member, places, drawn]  # [M, B, N]
            copies = self.encode(self.cells.batch(chosen, orders))
            inputs = tuple(torch.cat(pair, 1) for pair in zip(inputs, copies, strict=True))
        order = torch.randperm(places.shape[1], device=device)
        predicted = self._forward(inputs)
        losses = self._losses(predicted, self._labels[chosen], order)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self.optimizer.step()
        self._average(step)
        return losses.detach().mean()

    def _losses(self, predicted: Tensor, measured: Tensor, order: Tensor) -> Tensor:
        """Loss of each member, [M], of predictions [M, B] or, with copies, [M, 2 B]."""
        config = self.config

        def one(predictions: Tensor, labels: Tensor) -> Tensor:
            own, copies = predictions, None
            if config.consistency:
                own, copies = predictions.chunk(2)
            base = self.base_loss(own, labels)
            return with_ranking_and_consistency(
                base, own, labels, order, copies, config.ranking, config.consistency
            )

        losses: Tensor = vmap(one)(predicted.float(), measured)
        return losses

    def _forward(self, inputs: Inputs) -> Tensor:
        """Predictions [M, B] of inputs that have a leading axis of members."""
        kind = self.cells.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.bfloat16 and kind == "cuda"):
            if kind == "cpu" or len(self.stack) == 1:  # one member keeps a CPU busy
                return self._one_by_one(inputs)
            return self._together(inputs)

    def _one_by_one(self, inputs: Inputs) -> Tensor:
        each = enumerate(zip(*inputs, strict=True))
        return torch.stack([self.stack.call(*self.stack.member(m), given) for m, given in each])

    def _together(self, inputs: Inputs) -> Tensor:
        run = vmap(self.stack.call, randomness="different")
        out: Tensor = run(self.parameters, self.stack.buffers, inputs)
        return out

    @torch.no_grad()
    def _average(self, step: int) -> None:
        if not self.config.ema:
            return
        decay = min(self.config.ema, (1 + step) / (10 + step))
        averages = list(self.averages.values())
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, list(self.parameters.values()), alpha=1 - decay)

    def _rate(self, step: int) -> float:
        """Share of the peak rate at a step: linear rise, then linear fall to 0."""
        rise = max(1.0, self.config.warmup * self.total)
        if step < rise:
            return (step + 1) / rise
        return (self.total - step) / max(1.0, self.total - rise)

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
