"""Trains an ensemble of networks on padded operator tokens, all graphs on the accelerator.

A table of published predictors trains each of them once for every device, seed and split, on the
same measured networks. Here one step makes one batch for all of them: their weights are stacked
along a leading axis, and each member's loss counts only its own networks and labels. Within a step,
networks of similar length are padded together.

Shape legend: ``M`` members, ``G`` graphs of the set, ``B`` of a batch, ``N`` operators of the
largest, ``P`` answers of a network (devices).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.layers import PaddedNetwork
from tvm_costmodel.predictors.token_networks import best_constant
from tvm_costmodel.tokenizer import TokenArrays
from tvm_costmodel.tokenizer.batching import distinct_tokens
from tvm_costmodel.training.early_stopping import validation_errors
from tvm_costmodel.training.losses import LOSSES
from tvm_costmodel.training.trainer import TrainingConfig
from tvm_costmodel.training.training_loop import TrainingLoop, in_batches


class TokenSet:
    """Many graphs' tokens on a device, from which padded batches are gathered.

    Args:
        tokens: One per graph, all of one tokenizer configuration.
        device: Device of the tensors.
        directed: Whether batches keep the direction of edges.
    """

    def __init__(
        self, tokens: Sequence[TokenArrays], device: str = "cpu", directed: bool = False
    ) -> None:
        self.device, self.directed = torch.device(device), directed
        self.lengths = np.array([len(graph) for graph in tokens])
        """Operators of each graph, int64 [G]."""
        features, row = distinct_tokens(tokens)
        empty = np.zeros((1, features.shape[1]), features.dtype)
        self._features = self._tensor(np.concatenate([features, empty]))  # [U + 1, F]
        self._row = self._tensor(np.append(row, len(features)))
        self._start = self._tensor(np.cumsum(self.lengths) - self.lengths)
        self._length = self._tensor(self.lengths)
        self._edges = self._padded_edges(tokens)  # [G, E, 2]
        self._static = self._tensor(np.stack([graph.static for graph in tokens]))

    def __len__(self) -> int:
        return len(self.lengths)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _padded_edges(self, tokens: Sequence[TokenArrays]) -> Tensor:
        """Edges of each graph, filled up with edges beyond every operator."""
        most = max(1, *(len(graph.edges) for graph in tokens))
        edges = np.full((len(tokens), most, 2), np.iinfo(np.int32).max, np.int32)
        for i, graph in enumerate(tokens):
            edges[i, : len(graph.edges)] = graph.edges
        return self._tensor(edges)

    def batch(self, graphs: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """These graphs, int64 [B], padded to the longest.

        Returns:
            Tokens [B, N, F], adjacency [B, N, N], mask [B, N] and static numbers [B, S], as
            `PaddedNetwork.forward` takes them.
        """
        size = int(self.lengths[graphs].max())
        at = self._tensor(graphs)
        position = torch.arange(size, device=self.device)
        mask = position < self._length[at].unsqueeze(1)  # [B, N]
        row = torch.where(mask, self._start[at].unsqueeze(1) + position, len(self._row) - 1)
        tokens = self._features[self._row[row]]
        pairs = self._edges[at].long().clamp(max=size)  # [B, E, 2], edges beyond fall off
        flat = tokens.new_zeros(len(graphs), (size + 1) ** 2)
        flat.scatter_(1, pairs[..., 0] * (size + 1) + pairs[..., 1], 1.0)
        adjacency = flat.view(-1, size + 1, size + 1)[:, :size, :size]
        if not self.directed:
            adjacency = torch.maximum(adjacency, adjacency.transpose(1, 2))
        return tokens, adjacency.contiguous(), mask, self._static[at]


class PaddedEnsemble(TrainingLoop):
    """Trains an ensemble and keeps the weights of each member's best epoch.

    Args:
        networks: The members, of one configuration; trained in place.
        config: The recipe; ``unit`` and ``share`` are not read.
        graphs: All graphs.
        labels: [M, G, P] in the networks' output unit, NaN where not measured.
        train: bool [M, G], the graphs that each member learns from.
        validation: bool [M, G], the graphs that choose each member's epoch.
        parts: Number of parts of similar length that a step's graphs are padded in.

    Raises:
        ConfigError: A member has no label to learn from, or none to choose its epoch by.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        config: TrainingConfig,
        graphs: TokenSet,
        labels: np.ndarray,
        train: np.ndarray,
        validation: np.ndarray,
        parts: int = 1,
    ) -> None:
        self.graphs, self.labels, self.validation, self.parts = graphs, labels, validation, parts
        has_label = np.isfinite(labels)
        for m, sides in enumerate(zip(train, validation, strict=True)):
            if not all(has_label[m][side].any() for side in sides):
                raise ConfigError(
                    f"member {m} has no label to learn from or to choose its epoch by: "
                    "give it measured networks on both sides"
                )
        for m, network in enumerate(networks):
            level = best_constant(labels[m][has_label[m] & train[m][:, None]])
            cast(Any, network).set_output_level(level)
            network.to(graphs.device)
        self._labels = torch.from_numpy(labels).float().to(graphs.device)
        self._train = torch.from_numpy(train).to(graphs.device)
        self._used = np.flatnonzero(train.any(axis=0))
        super().__init__(networks, config, math.ceil(len(self._used) / config.batch_size))

    def _batches(self, epoch: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng([self.config.seed, epoch]).permutation(self._used)
        return in_batches(order, self.config.batch_size)

    def _losses(self, indices: np.ndarray) -> Tensor:
        indices = indices[np.argsort(self.graphs.lengths[indices], kind="stable")]
        at = torch.from_numpy(indices).to(self.graphs.device)
        measured = self._labels[:, at]  # [M, B, P]
        counted = self._train[:, at].unsqueeze(-1) & torch.isfinite(measured)
        with self._autocast():
            predicted = self._answers(indices, self.parts)
        target = torch.where(counted, measured, 1.0)
        predicted = torch.where(counted, predicted, target)  # others weigh nothing
        share = counted.sum((1, 2)).clamp(min=1) / counted[0].numel()
        losses: Tensor = vmap(LOSSES[self.config.loss])(predicted, target) / share
        return losses

    def _answers(self, graphs: np.ndarray, parts: int = 1) -> Tensor:
        """Answers for graphs sorted by length, float32 [M, B, P]."""
        together = self.device.type != "cpu"
        answers = [
            self.stack.forward(self.graphs.batch(part), together=together).float()
            for part in np.array_split(graphs, min(parts, len(graphs)))
        ]
        return torch.cat(answers, dim=1).view(len(self.stack), len(graphs), -1)

    def _errors(self) -> np.ndarray:
        at = np.flatnonzero(self.validation.any(axis=0))
        return validation_errors(self.predict(at), self.labels[:, at], self.validation[:, at])

    @torch.no_grad()
    def predict(self, graphs: np.ndarray, chunk: int = 64) -> np.ndarray:
        """Answers with the present weights, float64 [M, len(graphs), P]."""
        order = np.argsort(self.graphs.lengths[graphs], kind="stable")
        self.stack.skeleton.eval()
        parts = [
            self._answers(graphs[order[start : start + chunk]]).double().cpu().numpy()
            for start in range(0, len(graphs), chunk)
        ]
        self.stack.skeleton.train()
        sorted_answers = np.concatenate(parts, axis=1)
        answers = np.empty_like(sorted_answers)
        answers[:, order] = sorted_answers
        return answers


def is_directed(network: nn.Module) -> bool:
    """Whether a network's batches keep the direction of edges."""
    return isinstance(network, PaddedNetwork)
