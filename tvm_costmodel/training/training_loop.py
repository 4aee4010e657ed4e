"""The loop that trains every network: steps, learning rate, the best epoch, resuming.

Cross-validation, ensembles and seeds train the same architecture many times on almost the same
labels. One small network leaves a GPU idle between its kernels, so the members of an ensemble, one
or many, are trained as one (see `vmap_ensemble`). What a step learns is said by subclasses:
`Trainer` for networks on operator tokens, `EnsembleTrainer` for `RooflineFormer`, and
`nas.accuracy_trainer` for networks on cells.

Shape legend: ``M`` members.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.layers import seed_dropout
from tvm_costmodel.training.early_stopping import Progress
from tvm_costmodel.training.losses import require_finite
from tvm_costmodel.training.matmul_precision import fast_matmul
from tvm_costmodel.training.resume import STATE_FILE, load_state, save_state
from tvm_costmodel.training.vmap_ensemble import VmapEnsemble


@dataclass(frozen=True)
class Recipe:
    """What every training sets.

    Attributes:
        epochs: Passes over what is learned from.
        batch_size: Networks or cells of a step.
        learning_rate: Peak rate of AdamW.
        warmup: Share of all steps over which the rate rises; it then falls to 0.
        weight_decay: Decoupled weight decay of matrices; vectors have none.
        clip: Largest norm of each member's gradient in a step; None for no limit.
        patience: Epochs without a better validation error after which training stops; None trains
            to the last epoch.
        seed: Seed of weights, shuffles and dropout.
        bfloat16: Whether matmuls on a GPU run in bfloat16.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float | None = None
    patience: int | None = None
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.patience or 1) < 1 or self.patience == 0:
            raise ConfigError(
                f"epochs {self.epochs}, batch_size {self.batch_size} and patience "
                f"{self.patience} must be at least 1"
            )
        if min(self.learning_rate, 1.0 if self.clip is None else self.clip) <= 0:
            raise ConfigError(
                f"learning_rate {self.learning_rate} and clip {self.clip} must be above 0"
            )
        if not 0.0 <= self.warmup < 1.0:
            raise ConfigError(f"warmup {self.warmup} must be in [0, 1)")


class TrainingLoop(ABC):
    """Trains networks and keeps the weights of each member's best epoch.

    What is random in an epoch depends only on the seed and the epoch's number, so that an
    interrupted and resumed training gives the same weights as an uninterrupted one; the caller's
    random numbers stay as they are.

    Args:
        networks: The members, of one configuration, on their device; trained in place.
        config: The recipe.
        steps_per_epoch: Batches of an epoch.
        state_dir: Directory for the state after each epoch; not kept when not given.
        resume: Resume from the state in ``state_dir`` when there is one.
        function: Calls a network with the inputs of `VmapEnsemble.forward`; the network's own
            ``forward`` when not given.

    Attributes:
        cosine: Whether the learning rate falls as a cosine instead of linearly.
        from_zero: Whether the first step's learning rate is 0, as in NAR-Former V2's recipe,
            instead of the first step of the rise.

    Raises:
        CheckpointError: ``resume``, and the state belongs to another training.
    """

    cosine: ClassVar[bool] = False
    from_zero: ClassVar[bool] = False

    def __init__(
        self,
        networks: Sequence[nn.Module],
        config: Recipe,
        steps_per_epoch: int,
        state_dir: Path | None = None,
        resume: bool = False,
        function: Callable[..., Any] | None = None,
    ) -> None:
        self.config: Any = config  # of the subclass's kind
        self.steps_per_epoch = steps_per_epoch
        self.device = next(networks[0].parameters()).device
        self.stack = VmapEnsemble(networks, function)
        self.networks, self.parameters = self.stack.networks, self.stack.parameters
        self.optimizer = self.stack.adamw(config.learning_rate, config.weight_decay)
        count = len(networks)
        self.progress = Progress(np.zeros(count, int), np.full(count, math.inf))
        self._best = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._state_path = state_dir / STATE_FILE if state_dir else None
        if resume and self._state_path and self._state_path.exists():
            self._load_state(self._state_path)

    @abstractmethod
    def _batches(self, epoch: int) -> Iterable[np.ndarray]:
        """What each step of an epoch learns from."""

    @abstractmethod
    def _losses(self, batch: np.ndarray) -> Tensor:
        """Loss of each member on a batch, [M]."""

    @abstractmethod
    def _errors(self) -> np.ndarray:
        """Validation error of each member with the present weights, percent, [M]."""

    def _learned_from(self) -> Iterable[np.ndarray]:
        """Arrays that a resumed training must share with the interrupted one."""
        return ()

    def _seed(self, epoch: int) -> None:
        """Seeds what is random in an epoch besides its batches."""
        seed_dropout(self.stack.skeleton, self.config.seed, epoch)

    def run(self) -> Progress:
        """Trains to the last epoch or until patience ends, then restores the best weights.

        Raises:
            ConfigError: The loss is no longer a number.
        """
        start, epochs = len(self.progress.history), self.config.epochs
        steps = {"total": epochs * self.steps_per_epoch, "initial": start * self.steps_per_epoch}
        with fast_matmul(), tqdm(**steps, unit="step", disable=None) as bar:
            for epoch in range(start, epochs):
                waited = epoch - self.progress.best_epoch.max()
                if self.config.patience is not None and waited >= self.config.patience:
                    break
                loss = self._run_epoch(epoch, bar)
                require_finite(loss, epoch + 1, self.config.learning_rate)
                self._validate(epoch + 1, loss)
                bar.set_postfix_str(f"best {self.progress.best_error.mean():.2f} %")
                if self._state_path:
                    self._save_state(self._state_path)
        self.stack.restore(self._best)
        return self.progress

    def _run_epoch(self, epoch: int, bar: tqdm[Any]) -> float:
        losses = []
        self.stack.skeleton.train()
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            self._seed(epoch)
            for step, batch in enumerate(self._batches(epoch)):
                losses.append(self._step(batch, epoch * self.steps_per_epoch + step))
                bar.update()
        return float(torch.stack(losses).mean())

    def _step(self, batch: np.ndarray, step: int) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(step)
        losses = self._losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if self.config.clip is not None:
            self.stack.clip_gradients(self.config.clip)
        self.optimizer.step()
        return losses.detach().mean()

    def _rate(self, step: int) -> float:
        """Share of the peak rate at a step: a linear rise, then a fall to 0."""
        total = self.config.epochs * self.steps_per_epoch
        rise = max(0.0 if self.from_zero else 1.0, self.config.warmup * total)
        if step < rise:
            risen: float = (step + (not self.from_zero)) / rise
            return risen
        fallen = (step - rise) / max(1.0, total - rise)
        if self.cosine:
            return 0.5 * (1 + math.cos(math.pi * fallen))
        left: float = (total - step) / max(1.0, total - rise)
        return left

    def _autocast(self) -> torch.autocast:
        """Runs the forward pass of a step in the recipe's precision."""
        kind = self.device.type
        return torch.autocast(kind, torch.bfloat16, enabled=self.config.bfloat16 and kind == "cuda")

    def _validate(self, epoch: int, loss: float) -> None:
        """Validates an epoch and keeps the weights of the members that improved."""
        self.progress.record(epoch, loss, self._errors(), self.parameters, self._best)

    @cached_property
    def _fingerprint(self) -> str:
        """Hash of everything that a resumed training must share with the interrupted one."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.config, self.networks[0].config):
            digest.update(repr(part).encode())
        for array in self._learned_from():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _save_state(self, path: Path) -> None:
        """Weights, best weights, moments of the optimiser, and progress."""
        moments = {
            f"{key}.{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        groups = {"weights": self.parameters, "best": self._best, "adam": moments}
        save_state(path, groups, self.progress.to_dict(), self._fingerprint)

    def _load_state(self, path: Path) -> None:
        groups, progress = load_state(path, self._fingerprint)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(groups["weights"][name])
                self.optimizer.state[parameter] = {
                    key: groups["adam"][f"{key}.{name}"].to(parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self._best = {name: best.to(self.device) for name, best in groups["best"].items()}
        self.progress = Progress.from_dict(progress)


def in_batches(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts of ``size`` elements; the last one may be smaller."""
    return (order[start : start + size] for start in range(0, len(order), size))
