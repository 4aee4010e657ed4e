"""Trains an ensemble of `RooflineFormer` networks at once, each member on networks of its own.

Every step makes one batch for all members, and each member's loss counts only its own training
networks. The results equal those of separate trainings that share the order of their batches.

Shape legend: ``M`` members, ``G`` graphs of the set, ``B`` of a batch, ``P`` devices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.roofline_former import GraphBatch, RooflineFormer
from tvm_costmodel.training.early_stopping import validation_errors, variant_errors
from tvm_costmodel.training.losses import pairwise_ranking, within_networks
from tvm_costmodel.training.ragged_dataset import GraphSet
from tvm_costmodel.training.training_loop import Recipe, TrainingLoop, in_batches


@dataclass(frozen=True)
class EnsembleConfig(Recipe):
    """Recipe for training `RooflineFormer` networks; its rate falls as a cosine.

    Attributes:
        ranking: Weight of the pairwise ranking loss, which is added to the mean absolute error of
            the log; pairs are variants of one network where the set has variants.
        within: Weight of the error of how variants of one network differ, see
            `losses.within_networks`.
        kernels: Weight of the error of kernels, where a set has their times: the absolute error of
            the log of each group of kernels, weighted by the group's share of the network.
        prior: Weight of the mean squared correction, which keeps predictions physical where the
            networks give no evidence.
    """

    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    clip: float = 1.0
    patience: int = 50
    ranking: float = 0.0
    within: float = 0.0
    kernels: float = 0.0
    prior: float = 0.0


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
    log_rate: np.ndarray = np.log(np.maximum(rate, floor))
    return log_rate


class EnsembleTrainer(TrainingLoop):
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

    cosine = True

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
        self.variants, self.graphs = variants, graphs
        self.train, self.validation, self.latency_ms = train, validation, latency_ms
        self._check_labels()
        self._log = torch.from_numpy(np.log(latency_ms)).float().to(graphs.device)
        self._train = torch.from_numpy(train).to(graphs.device)
        for m, network in enumerate(networks):
            network.set_level(torch.from_numpy(self._levels(train[m])).float())
            network.to(graphs.device)
            network.set_scaling(graphs.batch(np.flatnonzero(train[m])).numbers)
        self._used = np.flatnonzero(train.any(axis=0))
        steps = math.ceil(len(self._used) / config.batch_size)
        if variants is not None:
            self._used = self._used[np.argsort(variants[self._used], kind="stable")]
        super().__init__(networks, config, steps, state_dir, resume)

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

    def _seed(self, epoch: int) -> None:
        torch.manual_seed(self.config.seed * 100_003 + epoch)  # of dropout and of pairs

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        order = self._order(np.random.default_rng([self.config.seed, epoch]))
        return in_batches(order, self.config.batch_size)

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

    def _losses(self, indices: np.ndarray) -> Tensor:
        at = torch.from_numpy(indices).to(self.graphs.device)
        measured, counted = self._log[at], self._train[:, at]
        weight = counted.unsqueeze(-1) & torch.isfinite(measured)  # [M, B, P]
        latency, parts, corrections = self._forward(self.graphs.batch(indices))
        predicted = torch.log(latency)
        target = torch.nan_to_num(measured)
        error = torch.abs(predicted - target) * weight
        losses: Tensor = error.sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)
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
        return losses

    def _forward(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Latency [M, B, P] and its parts [M, R, P] in ms, and mean squared corrections [M]."""
        with self._autocast():
            out: tuple[Tensor, Tensor, Tensor] = self.stack.forward((batch,))
            return out

    def _errors(self) -> np.ndarray:
        at = np.flatnonzero(self.validation.any(axis=0))
        predicted, measured, counted = self.predict(at), self.latency_ms[at], self.validation[:, at]
        errors = validation_errors(predicted, measured, counted)
        if self.config.within and self.variants is not None:
            between = variant_errors(predicted, measured, counted, self.variants[at])
            errors = errors + self.config.within * between
        return errors

    def predict(self, graphs: np.ndarray, chunk: int = 256) -> np.ndarray:
        """Latency in ms with the present weights, float64 [M, len(graphs), P]."""
        parts = []
        self.stack.skeleton.eval()
        with torch.no_grad():
            for start in range(0, len(graphs), chunk):
                batch = self.graphs.batch(graphs[start : start + chunk])
                parts.append(self._forward(batch)[0].double().cpu().numpy())
        self.stack.skeleton.train()
        return np.concatenate(parts, axis=1)

    def _learned_from(self) -> tuple[np.ndarray, ...]:
        kernels = self.graphs.target_ms or ()
        variants = () if self.variants is None else (self.variants,)
        inputs = (self.latency_ms, self.train, self.validation, self.graphs.totals)
        return (*inputs, *kernels, *variants)
