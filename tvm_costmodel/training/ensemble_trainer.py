"""Trains an ensemble of `RooflineFormer` networks at once, each member on networks of its own.

Cross-validation, leave-one-family-out tables, ensembles and seeds all train the same architecture
many times on almost the same networks. One small network leaves a GPU idle between its kernels, so
the members run together: their weights are stacked along a leading axis, every step makes one
batch, and each member's loss counts only its own training networks. The results equal those of
separate trainings that share the order of their batches.

Shape legend: ``M`` members, ``G`` graphs of the set, ``B`` of a batch, ``P`` devices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.func import vmap
from tqdm import tqdm

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.roofline_former import GraphBatch, RooflineFormer
from tvm_costmodel.training.early_stopping import (
    EnsembleProgress,
    validation_errors,
    variant_errors,
)
from tvm_costmodel.training.losses import pairwise_ranking, require_finite, within_networks
from tvm_costmodel.training.matmul_precision import fast_matmul
from tvm_costmodel.training.ragged_dataset import GraphSet
from tvm_costmodel.training.resume import STATE_FILE, load_state, save_state
from tvm_costmodel.training.vmap_ensemble import VmapEnsemble


@dataclass(frozen=True)
class EnsembleConfig:
    """Recipe for training `RooflineFormer` networks.

    Attributes:
        epochs: Passes over the training networks.
        batch_size: Networks per step.
        learning_rate: Peak rate of AdamW; it rises linearly, then falls as a cosine to 0.
        warmup: Share of all steps over which the rate rises.
        weight_decay: Weight decay of matrices; vectors have none.
        ranking: Weight of the pairwise ranking loss, which is added to the mean absolute error of
            the log; pairs are variants of one network where the set has variants.
        within: Weight of the error of how variants of one network differ, see
            `losses.within_networks`.
        kernels: Weight of the error of kernels, where a set has their times: the absolute error of
            the log of each group of kernels, weighted by the group's share of the network.
        prior: Weight of the mean squared correction, which keeps predictions physical where the
            networks give no evidence.
        clip: Largest norm of each member's gradient in a step.
        patience: Epochs without a better validation error after which training stops.
        seed: Seed of the weights and of the shuffles.
        bfloat16: Whether matmuls on a GPU run in bfloat16.
    """

    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    ranking: float = 0.0
    within: float = 0.0
    kernels: float = 0.0
    prior: float = 0.0
    clip: float = 1.0
    patience: int = 50
    seed: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.patience) < 1:
            raise ConfigError(
                f"epochs {self.epochs}, batch_size {self.batch_size} and patience "
                f"{self.patience} must be at least 1"
            )
        if min(self.learning_rate, self.clip) <= 0 or not 0 <= self.warmup < 1:
            raise ConfigError(
                f"learning_rate {self.learning_rate} and clip {self.clip} must be above 0, "
                f"warmup {self.warmup} in [0, 1)"
            )


def _kernel_error(
    parts: Tensor, kernels: tuple[Tensor, Tensor, Tensor], log_latency: Tensor, counted: Tensor
) -> Tensor:
    """Mean error of kernels over graphs, [M].

    Args:
        parts: Predicted ms of every token, [M, R].
        kernels: From `GraphSet.kernels`.
        log_latency: Log of the measured ms of every graph, [B].
        counted: Bool [M, B], the training graphs of each member.
    """
    group, measured_ms, owner = kernels
    sums = parts.new_zeros(len(parts), len(measured_ms) + 1).index_add(1, group, parts)[:, :-1]
    share = (measured_ms / torch.exp(log_latency)[owner]).clamp(max=1.0)
    error = torch.abs(torch.log(sums) - torch.log(measured_ms)) * share * counted[:, owner]
    return error.sum(1) / counted.sum(1).clamp(min=1)


def roofline_level(work: np.ndarray, latency_ms: np.ndarray) -> np.ndarray:
    """Logarithms of ms per unit of work with the least relative error, float [3].

    Non-negative least squares of ``latency ~ work @ e^level`` with every row divided by its
    latency. A kind of work that explains nothing gets a thousandth of the rate at which it alone
    would explain the latency.

    Args:
        work: [G, 3], see `tvm_costmodel.tokenizer.operator_features.WORK`.
        latency_ms: [G].
    """
    from scipy.optimize import nnls

    scaled = work / latency_ms[:, None]
    rate = nnls(scaled, np.ones(len(scaled)))[0]
    floor = 1e-3 / np.maximum(scaled.mean(axis=0), 1e-12)
    return np.log(np.maximum(rate, floor))


class EnsembleTrainer:
    """Trains an ensemble and keeps the weights of each member's best epoch.

    Args:
        networks: The members, of one configuration; trained in place.
        config: The recipe.
        graphs: All graphs.
        latency_ms: [G, P], NaN where a device did not measure a graph.
        train: bool [M, G], the graphs that each member learns from.
        validation: bool [M, G], the graphs that choose each member's epoch.
        state_dir: Directory for the state after each epoch; not kept when not given.
        resume: Resume from the state in ``state_dir`` when there is one.
        variants: int [G], which network each graph is a variant of; those of one network share
            their batches. Every graph is a network of its own when not given.

    Raises:
        ConfigError: A member has no label of a device to learn from, or none to choose its epoch
            by.
        CheckpointError: ``resume``, and the state belongs to another training.
    """

    def __init__(
        self,
        networks: Sequence[RooflineFormer],
        config: EnsembleConfig,
        graphs: GraphSet,
        latency_ms: np.ndarray,
        train: np.ndarray,
        validation: np.ndarray,
        state_dir: Path | None = None,
        resume: bool = False,
        variants: np.ndarray | None = None,
    ) -> None:
        self.variants = variants
        self.networks, self.config, self.graphs = list(networks), config, graphs
        self.train, self.validation = train, validation
        self.latency_ms = latency_ms
        self._check_labels()
        self._log = torch.from_numpy(np.log(latency_ms)).float().to(graphs.device)
        self._train = torch.from_numpy(train).to(graphs.device)
        for m, network in enumerate(self.networks):
            network.set_level(torch.from_numpy(self._levels(train[m])).float())
            network.to(graphs.device)
            network.set_scaling(graphs.batch(np.flatnonzero(train[m])).numbers)
        self._stack = VmapEnsemble(self.networks)
        self.parameters = self._stack.parameters
        self.optimizer = self._stack.adamw(config.learning_rate, config.weight_decay)
        self._used = np.flatnonzero(train.any(axis=0))
        self.steps_per_epoch = math.ceil(len(self._used) / config.batch_size)
        if variants is not None:
            self._used = self._used[np.argsort(variants[self._used], kind="stable")]
        count = len(self.networks)
        self.progress = EnsembleProgress(np.zeros(count, int), np.full(count, math.inf))
        self._best = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._state_path = state_dir / STATE_FILE if state_dir else None
        if resume and self._state_path and self._state_path.exists():
            self._load_state(self._state_path)

    def _check_labels(self) -> None:
        has_label = np.isfinite(self.latency_ms)
        for m, (train, validation) in enumerate(zip(self.train, self.validation, strict=True)):
            devices = np.flatnonzero(~has_label[train].any(axis=0))
            if len(devices) or not has_label[validation].any():
                purpose = (
                    f"learn device {devices[0]} from" if len(devices) else "choose its epoch by"
                )
                raise ConfigError(
                    f"member {m} has no label to {purpose}: give it a measured network"
                )

    def _levels(self, train: np.ndarray) -> np.ndarray:
        """Initial levels of every device, [P, 3], from the training networks."""
        levels = []
        for column in self.latency_ms.T:
            at = np.flatnonzero(train & np.isfinite(column))
            levels.append(roofline_level(self.graphs.totals[at], column[at]))
        return np.array(levels)

    def run(self) -> EnsembleProgress:
        """Trains to the last epoch or until patience ends, then restores the best weights.

        Raises:
            ConfigError: The loss is no longer a number.
        """
        start = len(self.progress.history)
        bar = tqdm(total=self.config.epochs, initial=start, unit="epoch", disable=None)
        with fast_matmul(), bar:
            for epoch in range(start, self.config.epochs):
                if epoch - self.progress.best_epoch.max() >= self.config.patience:
                    break
                loss = self._run_epoch(epoch)
                require_finite(loss, epoch + 1, self.config.learning_rate)
                self._validate(epoch + 1, loss)
                bar.set_postfix_str(f"best {self.progress.best_error.mean():.2f} %")
                bar.update()
                if self._state_path:
                    self._save_state(self._state_path)
        self._stack.restore(self._best)
        return self.progress

    def _run_epoch(self, epoch: int) -> float:
        order = self._order(np.random.default_rng([self.config.seed, epoch]))
        size, losses = self.config.batch_size, []
        device = self.graphs.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.config.seed * 100_003 + epoch)  # of dropout and of pairs
            for step in range(self.steps_per_epoch):
                indices = order[step * size : (step + 1) * size]
                losses.append(self._step(indices, epoch * self.steps_per_epoch + step))
        return float(torch.stack(losses).mean())

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """The training graphs in the order of an epoch, variants of one network together."""
        if self.variants is None:
            return rng.permutation(self._used)
        _, first = np.unique(self.variants[self._used], return_index=True)
        networks = np.split(self._used, np.sort(first)[1:])
        return np.concatenate([networks[i] for i in rng.permutation(len(networks))])

    def _pairs(self, indices: np.ndarray) -> Tensor:
        """For each graph of a batch, the graph that it is ranked against."""
        device = self.graphs.device
        if self.variants is None:
            return torch.randperm(len(indices), device=device)
        partner = np.arange(len(indices))
        for network in np.unique(self.variants[indices]):
            at = np.flatnonzero(self.variants[indices] == network)
            shift = int(torch.randint(1, len(at), ())) if len(at) > 1 else 0
            partner[at] = np.roll(at, shift)
        return torch.from_numpy(partner).to(device)

    def _step(self, indices: np.ndarray, step: int) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(step)
        at = torch.from_numpy(indices).to(self.graphs.device)
        measured, counted = self._log[at], self._train[:, at]
        weight = counted.unsqueeze(-1) & torch.isfinite(measured)  # [M, B, P]
        latency, parts, corrections = self._forward(self.graphs.batch(indices))
        predicted = torch.log(latency)
        target = torch.nan_to_num(measured)
        error = torch.abs(predicted - target) * weight
        losses = error.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
        losses = losses + self.config.prior * corrections
        kernels = self.graphs.kernels(indices) if self.config.kernels else None
        if kernels is not None:
            losses = losses + self.config.kernels * _kernel_error(
                parts[..., 0], kernels, target[:, 0], weight[..., 0]
            )
        if self.config.ranking:
            losses = losses + self.config.ranking * pairwise_ranking(
                predicted, target.expand_as(predicted), weight, self._pairs(indices)
            )
        if self.config.within and self.variants is not None:
            names, network = np.unique(self.variants[indices], return_inverse=True)
            losses = losses + self.config.within * within_networks(
                predicted, target, weight, torch.from_numpy(network).to(at.device), len(names)
            )
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        self._stack.clip_gradients(self.config.clip)
        self.optimizer.step()
        return losses.detach().mean()

    def _forward(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Latency [M, B, P] and its parts [M, R, P] in ms, and mean squared corrections [M]."""
        kind = self.graphs.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.config.bfloat16 and kind == "cuda"):
            if len(self._stack) == 1:
                latency, parts, correction = self._stack.call(*self._stack.member(0), (batch,))
                return latency[None], parts[None], correction[None]
            run = vmap(self._stack.call, in_dims=(0, 0, None), randomness="different")
            out: tuple[Tensor, Tensor, Tensor] = run(self.parameters, self._stack.buffers, (batch,))
            return out

    def _rate(self, step: int) -> float:
        """Share of the peak rate at a step."""
        total = self.config.epochs * self.steps_per_epoch
        rise = max(1.0, self.config.warmup * total)
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1.0, total - rise)))

    def _validate(self, epoch: int, loss: float) -> None:
        """Validates an epoch and keeps the weights of the members that improved."""
        at = np.flatnonzero(self.validation.any(axis=0))
        predicted, measured, counted = self.predict(at), self.latency_ms[at], self.validation[:, at]
        errors = validation_errors(predicted, measured, counted)
        if self.config.within and self.variants is not None:
            between = variant_errors(predicted, measured, counted, self.variants[at])
            errors = errors + self.config.within * between
        self.progress.record(epoch, loss, errors, self.parameters, self._best)

    def predict(self, graphs: np.ndarray, chunk: int = 256) -> np.ndarray:
        """Latency in ms with the present weights, float64 [M, len(graphs), P]."""
        parts = []
        self._stack.skeleton.eval()
        with torch.no_grad():
            for start in range(0, len(graphs), chunk):
                batch = self.graphs.batch(graphs[start : start + chunk])
                parts.append(self._forward(batch)[0].double().cpu().numpy())
        self._stack.skeleton.train()
        return np.concatenate(parts, axis=1)

    @cached_property
    def _fingerprint(self) -> str:
        """Hash of everything that a resumed training must share with the interrupted one."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.config, self.networks[0].config):
            digest.update(repr(part).encode())
        kernels = self.graphs.target_ms or ()
        variants = () if self.variants is None else (self.variants,)
        inputs = (self.latency_ms, self.train, self.validation, self.graphs.totals)
        arrays = (*inputs, *kernels, *variants)
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _save_state(self, path: Path) -> None:
        moments = {
            f"{key}.{name}": value
            for name, parameter in self.parameters.items()
            for key, value in self.optimizer.state[parameter].items()
        }
        progress = {
            "best_epoch": self.progress.best_epoch.tolist(),
            "best_error": self.progress.best_error.tolist(),
            "history": [(loss, errors.tolist()) for loss, errors in self.progress.history],
        }
        groups = {"weights": self.parameters, "best": self._best, "adam": moments}
        save_state(path, groups, progress, self._fingerprint)

    def _load_state(self, path: Path) -> None:
        groups, progress = load_state(path, self._fingerprint)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(groups["weights"][name])
                self.optimizer.state[parameter] = {
                    key: groups["adam"][f"{key}.{name}"].to(parameter.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
        self._best = {name: best.to(self.graphs.device) for name, best in groups["best"].items()}
        self.progress = EnsembleProgress(
            np.array(progress["best_epoch"]),
            np.array(progress["best_error"]),
            [(loss, np.array(errors)) for loss, errors in progress["history"]],
        )
