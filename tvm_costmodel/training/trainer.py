"""Trains one latency network, with warm-up, early stopping and resumption.

Labels here are in the network's output unit (see `TrainingConfig.unit`), not in seconds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.layers import PaddedNetwork, seed_dropout
from tvm_costmodel.models.nar_former_v2 import Hop, NarFormerV2
from tvm_costmodel.tokenizer import TokenArrays, collate, merge
from tvm_costmodel.training.losses import LOSSES, require_finite
from tvm_costmodel.training.matmul_precision import fast_matmul
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.training.resume import STATE_FILE, load_state, save_state

logger = logging.getLogger(__name__)

UNITS = ("power_law", "ms")
_PREDICT_OPERATORS = 3000  # operators per forward pass: enough to fill the cores, fits the cache
_ROWS = 128  # batches are padded to a multiple of this many rows, single networks to an eighth


@dataclass(frozen=True)
class TrainingConfig:
    """Recipe for training a network: NAR-Former V2's, except for `unit` and `clip`.

    Attributes:
        epochs: Passes over the training networks.
        batch_size: Networks per step.
        learning_rate: Peak rate of Adam.
        warmup: Share of all steps over which the rate rises linearly; it then falls linearly to 0.
        unit: Unit of the network's output: ``power_law``, multiples of a power law in FLOPs and
            bytes that is fitted to the training labels first, or ``ms``, milliseconds as published.
        loss: ``relative``, mean((p / y - 1)^2) as published, or ``log``.
        patience: Epochs without a better validation error after which training stops.
        seed: Seed of weights, shuffles and dropout.
        clip: Largest norm of a step's gradient. Not in the published recipe: with latencies that
            span four decades, one early overestimate of a tiny network outweighs all else and
            drives the softplus to 0, where it has no gradient to come back with.
        share: Whether equal operators are computed once (and share their dropout masks).
    """

    epochs: int = 50
    batch_size: int = 16
    learning_rate: float = 1e-3
    warmup: float = 0.1
    unit: str = "power_law"
    loss: str = "relative"
    patience: int = 50
    seed: int = 0
    clip: float = 1.0
    share: bool = True

    def __post_init__(self) -> None:
        for name, known in (("loss", tuple(LOSSES)), ("unit", UNITS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        if self.epochs < 1 or self.batch_size < 1 or self.patience < 1:
            raise ConfigError(
                f"epochs {self.epochs}, batch_size {self.batch_size} and patience {self.patience} "
                "must be at least 1"
            )
        if not 0.0 <= self.warmup < 1.0 or min(self.learning_rate, self.clip) <= 0.0:
            raise ConfigError(
                f"warmup {self.warmup} must be in [0, 1), learning_rate {self.learning_rate} and "
                f"clip {self.clip} above 0"
            )


@dataclass
class Progress:
    """Progress of a training after whole epochs."""

    epoch: int = 0
    best_epoch: int = 0
    best_mape: float = math.inf
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """Tokens and labels of one side of a split.

    Attributes:
        tokens: One per network.
        labels: float64 [G], measured latencies in the network's output unit.
    """

    tokens: Sequence[TokenArrays]
    labels: np.ndarray


def forward(
    network: NarFormerV2 | PaddedNetwork, tokens: Sequence[TokenArrays], share: bool = True
) -> torch.Tensor:
    """The network's answers for one batch, [B], with gradients where they are on.

    A `PaddedNetwork` gets a padded batch; others get a batch in which equal operators share a row.
    """
    device = next(network.parameters()).device

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(device)

    if isinstance(network, PaddedNetwork):
        padded = collate(tokens, directed=True)
        arrays = (padded.features, padded.adjacency, padded.mask, padded.static)
        answers: torch.Tensor = network(*map(tensor, arrays))
        return answers
    multiple = _ROWS if len(tokens) > 1 else _ROWS // 8
    batch = merge(tokens, len(network.blocks), share, multiple)
    hops = [
        Hop(*map(tensor, (hop.own, hop.source, hop.target, hop.offsets, hop.degree)))
        for hop in batch.hops
    ]
    pool = (tensor(batch.pool_rows), tensor(batch.pool_offsets), tensor(batch.pool_counts))
    return network.forward_merged(tensor(batch.features), hops, pool, tensor(batch.static))


def answers(network: NarFormerV2, tokens: Sequence[TokenArrays]) -> np.ndarray:
    """The network's answers for any number of graphs, float64 [G]."""
    network.eval()
    with torch.inference_mode(), fast_matmul():
        parts = [forward(network, part).cpu().numpy() for part in _parts(tokens)]
    return np.concatenate(parts).astype(np.float64)


def _parts(tokens: Sequence[TokenArrays]) -> Iterator[Sequence[TokenArrays]]:
    start = total = 0
    for i, graph in enumerate(tokens):
        if total and total + len(graph) > _PREDICT_OPERATORS:
            yield tokens[start:i]
            start, total = i, 0
        total += len(graph)
    yield tokens[start:]


class Trainer:
    """Trains one network and keeps the weights of its best epoch.

    Every epoch's shuffle and dropout depend only on the seed and the epoch's number, so that an
    interrupted and resumed training gives the same weights as an uninterrupted one.

    Args:
        network: The network, trained in place.
        config: The recipe.
        train: Training networks.
        validation: Networks that choose the epoch.
        state_dir: Directory for the state after each epoch; not kept when not given.
        resume: Resume from the state in ``state_dir`` when there is one.
    """

    def __init__(
        self,
        network: NarFormerV2,
        config: TrainingConfig,
        train: EncodedSet,
        validation: EncodedSet,
        state_dir: Path | None = None,
        resume: bool = False,
    ) -> None:
        self.network, self.config = network, config
        self.train, self.validation = train, validation
        self.state_path = state_dir / STATE_FILE if state_dir else None
        self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        self.steps_per_epoch = math.ceil(len(train.tokens) / config.batch_size)
        self.progress = Progress()
        self.best = self._weights()
        if resume and self.state_path and self.state_path.exists():
            self._load_state(self.state_path)

    def run(self) -> Progress:
        """Trains to the last epoch or until patience ends, then restores the best weights.

        Raises:
            ConfigError: The loss is no longer a number.
        """
        bar = tqdm(
            total=self.config.epochs, initial=self.progress.epoch, unit="epoch", disable=None
        )
        with fast_matmul(), bar:
            while not self._finished():
                self._run_epoch()
                if self.state_path:
                    self._save_state(self.state_path)
                best = self.progress.best_mape
                bar.set_postfix_str(f"best {best:.2f} % at {self.progress.best_epoch}")
                bar.update()
        self.network.load_state_dict(self.best)
        self.network.eval()
        return self.progress

    def _finished(self) -> bool:
        waited = self.progress.epoch - self.progress.best_epoch
        return self.progress.epoch >= self.config.epochs or waited >= self.config.patience

    def _run_epoch(self) -> None:
        epoch, config = self.progress.epoch, self.config
        order = np.random.default_rng([config.seed, epoch]).permutation(len(self.train.tokens))
        seed_dropout(self.network, config.seed, epoch)
        self.network.train()
        losses = []
        for step in range(self.steps_per_epoch):
            indices = order[step * config.batch_size : (step + 1) * config.batch_size]
            losses.append(self._step(indices, epoch * self.steps_per_epoch + step))
        require_finite(losses[-1], epoch + 1, config.learning_rate)
        error = mape(answers(self.network, self.validation.tokens), self.validation.labels)
        self.progress.epoch = epoch + 1
        self.progress.history.append({"loss": float(np.mean(losses)), "validation_mape": error})
        logger.info("epoch %d: loss %.5f, validation %.2f %%", epoch + 1, np.mean(losses), error)
        if error < self.progress.best_mape:
            self.progress.best_mape, self.progress.best_epoch = error, epoch + 1
            self.best = self._weights()

    def _step(self, indices: np.ndarray, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(step)
        measured = torch.from_numpy(self.train.labels[indices]).float()
        predicted = forward(
            self.network, [self.train.tokens[i] for i in indices], self.config.share
        )
        loss = LOSSES[self.config.loss](predicted, measured.to(predicted.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip)
        self.optimizer.step()
        return float(loss.detach())

    def _rate(self, step: int) -> float:
        """Share of the peak rate at a step: linear rise, then linear fall to 0."""
        total = self.config.epochs * self.steps_per_epoch
        rise = self.config.warmup * total
        return step / rise if step < rise else (total - step) / max(1.0, total - rise)

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}

    @cached_property
    def _fingerprint(self) -> str:
        """Hash of everything that a resumed training must share with the interrupted one."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(asdict(self.config), sort_keys=True).encode())
        digest.update(repr(self.network.config).encode())
        for side in (self.train, self.validation):
            digest.update(side.labels.tobytes())
            for graph in side.tokens:
                for array in (graph.op_id, graph.values, graph.edges, graph.static):
                    digest.update(array.tobytes())
        return digest.hexdigest()

    def _save_state(self, path: Path) -> None:
        """Weights, best weights, optimiser moments and progress."""
        moments = {
            f"{key}.{name}": value
            for name, parameter in self.network.named_parameters()
            for key, value in self.optimizer.state[parameter].items()
        }
        groups = {"weights": self._weights(), "best": self.best, "adam": moments}
        save_state(path, groups, asdict(self.progress), self._fingerprint)

    def _load_state(self, path: Path) -> None:
        groups, progress = load_state(path, self._fingerprint)
        self.network.load_state_dict(groups["weights"])
        self.best, self.progress = groups["best"], Progress(**progress)
        for name, parameter in self.network.named_parameters():
            self.optimizer.state[parameter] = {
                key: groups["adam"][f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
