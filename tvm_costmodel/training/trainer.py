"""Trains one published latency network on operator tokens, with its published schedule.

Labels here are in the network's output unit (see `TrainingConfig.unit`), not in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.layers import PaddedNetwork
from tvm_costmodel.models.nar_former_v2 import Hop, NarFormerV2
from tvm_costmodel.tokenizer import TokenArrays, collate, merge
from tvm_costmodel.training.losses import LOSSES
from tvm_costmodel.training.matmul_precision import fast_matmul
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.training.training_loop import Recipe, TrainingLoop, in_batches

UNITS = ("power_law", "ms")
_PREDICT_OPERATORS = 3000  # operators per forward pass: enough to fill the cores, fits the cache
_ROWS = 128  # batches are padded to a multiple of this many rows, single networks to an eighth


@dataclass(frozen=True)
class TrainingConfig(Recipe):
    """Recipe for training a network: NAR-Former V2's, except for `unit` and `clip`.

    Not in the published recipe is ``clip``: with latencies that span four decades, one early
    overestimate of a tiny network outweighs all else and drives the softplus to 0, where it has no
    gradient to come back with.

    Attributes:
        unit: Unit of the network's output: ``power_law``, multiples of a power law in FLOPs and
            bytes that is fitted to the training labels first, or ``ms``, milliseconds as published.
        loss: ``relative``, mean((p / y - 1)^2) as published, or ``log``.
        share: Whether equal operators are computed once (and share their dropout masks).
    """

    batch_size: int = 16
    clip: float = 1.0
    patience: int = 50
    unit: str = "power_law"
    loss: str = "relative"
    share: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (("loss", tuple(LOSSES)), ("unit", UNITS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"unknown {name} {value!r}; known: {', '.join(known)}")


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


class Trainer(TrainingLoop):
    """Trains one network and keeps the weights of its best epoch.

    Args:
        network: The network, trained in place.
        config: The recipe.
        train: Training networks.
        validation: Networks that choose the epoch.
        state_dir: Directory for the state after each epoch; not kept when not given.
        resume: Resume from the state in ``state_dir`` when there is one.
    """

    from_zero = True

    def __init__(
        self,
        network: NarFormerV2,
        config: TrainingConfig,
        train: EncodedSet,
        validation: EncodedSet,
        state_dir: Path | None = None,
        resume: bool = False,
    ) -> None:
        self.network, self.train, self.validation = network, train, validation
        steps = math.ceil(len(train.tokens) / config.batch_size)
        super().__init__([network], config, steps, state_dir, resume, forward)

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.config.seed, epoch]).permutation(len(self.train.tokens))
        return in_batches(order, self.config.batch_size)

    def _losses(self, batch: np.ndarray) -> torch.Tensor:
        with self._autocast():
            inputs = [self.train.tokens[i] for i in batch], self.config.share
            predicted = self.stack.forward(inputs)[0].float()
        measured = torch.from_numpy(self.train.labels[batch]).float().to(self.device)
        return LOSSES[self.config.loss](predicted, measured)[None]

    def _errors(self) -> np.ndarray:
        self.stack.unstack(self.parameters)
        predicted = answers(self.network, self.validation.tokens)
        return np.array([mape(predicted, self.validation.labels)])

    def _learned_from(self) -> Iterator[np.ndarray]:
        for side in (self.train, self.validation):
            yield side.labels
            for graph in side.tokens:
                yield from (graph.op_id, graph.values, graph.edges, graph.static)
