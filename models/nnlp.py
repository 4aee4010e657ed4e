"""NNLP: GraphSAGE over a network's operators, with one head per platform.

Liu et al., "NNLQP: A Multi-Platform Neural Network Latency Query and Prediction System", ICPP
2022::

    tokens [B, N, 44]                                   static [B, 4]
        │                                                   │
    x = dropout(relu(l2norm(mean(x_j) W_l + b + x W_r)))    │   2 layers, mean over neighbours j
        │                                                   │
    sum over operators [B, 512]                         linear 512, dropout, relu
        └──────────────── concatenate ──────────────────────┘
                               │
          per platform: 512, 512, 1, relu, dropout, softplus ──► latency [B, P], ms

Neighbours are those of the undirected graph; an operator without any has mean 0. The published
configuration for one platform has 1,360,897 parameters. For several platforms the trunk is shared;
`Nnlp.add_platform` gives a trained trunk a new head, to be fine-tuned from few measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_costmodel.models.layers import (
    Dropout,
    EdgeBlock,
    Hop,
    WholeGraphNetwork,
    softplus_bias,
    uniform_fan_in_,
)


@dataclass(frozen=True)
class NnlpConfig:
    """Shape of the network. The defaults are the published configuration for one platform.

    Attributes:
        token_channels: Channels of one operator's token.
        static_channels: Whole-graph numbers: batch, GFLOPs, Gparameters, GMACs.
        channels: Width of the layers and heads.
        layers: GraphSAGE layers.
        platforms: Heads.
        dropout: Drop probability, everywhere.
    """

    token_channels: int = 44
    static_channels: int = 4
    channels: int = 512
    layers: int = 2
    platforms: int = 1
    dropout: float = 0.05

    def __post_init__(self) -> None:
        if self.layers < 1 or self.platforms < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                f"layers {self.layers} and platforms {self.platforms} must be >= 1, "
                f"dropout {self.dropout} in [0, 1)"
            )


class SageLayer(EdgeBlock):
    """GraphSAGE with mean aggregation (Hamilton et al., NeurIPS 2017), normalised to length 1.

    Args:
        in_channels: Channels of the incoming tokens.
        config: Shape of the network.
    """

    def __init__(self, in_channels: int, config: NnlpConfig) -> None:
        super().__init__()
        self.neighbours = nn.Linear(in_channels, config.channels)
        self.root = nn.Linear(in_channels, config.channels, bias=False)
        self.dropout = Dropout(config.dropout)

    def _finish(self, mean: Tensor, root: Tensor) -> Tensor:
        x = F.normalize(self.neighbours(mean) + root, dim=-1)
        answer: Tensor = self.dropout(torch.relu(x))
        return answer

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Maps ``x [B, N, D_in]`` under symmetric 0/1 ``adjacency [B, N, N]`` to ``[B, N, D]``."""
        degree = adjacency.sum(dim=-1, keepdim=True).clamp(min=1.0)
        return self._finish(adjacency @ x / degree, self.root(x))

    def forward_merged(self, x: Tensor, hop: Hop) -> Tensor:
        """Maps ``x [R_in, D_in]`` along a hop's edges to ``[R_out, D]``."""
        mean = F.embedding_bag(hop.source, x, hop.offsets, mode="mean")  # [R_out, D_in]
        return self._finish(mean, self.root(x)[hop.own])


class Nnlp(WholeGraphNetwork):
    """Latency of whole networks on one or several platforms.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NnlpConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NnlpConfig()
        self.blocks = nn.ModuleList(
            SageLayer(config.token_channels if i == 0 else config.channels, config)
            for i in range(config.layers)
        )
        self.static = nn.Linear(config.static_channels, config.channels)
        uniform_fan_in_(self.static)
        self.heads = nn.ModuleList(_head(config) for _ in range(config.platforms))
        self.dropout = Dropout(config.dropout)

    def set_output_level(self, latency_ms: float) -> None:
        """Sets each head's last bias so that an untrained network predicts ``latency_ms``."""
        for head in self.heads:
            nn.init.constant_(list(head.parameters())[-1], softplus_bias(latency_ms))

    def add_platform(self) -> int:
        """Adds a fresh head and returns its number; the trunk and the other heads stay."""
        self.heads.append(_head(self.config).to(self.static.weight.device))
        return len(self.heads) - 1

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Parameters that all platforms share, to train slower than a new head or not at all."""
        return [*self.blocks.parameters(), *self.static.parameters()]

    def platforms(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch on every platform.

        Args:
            tokens: [B, N, token_channels].
            adjacency: Symmetric 0/1 without self loops, [B, N, N].
            mask: Bool [B, N], true on operators, false on padding.
            static: [B, static_channels].

        Returns:
            Latency in milliseconds, [B, P].
        """
        return self._answer(self.pooled(tokens, adjacency, mask), static)

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch on the first platform, [B]; arguments as `platforms`."""
        return self.platforms(tokens, adjacency, mask, static)[:, 0]

    def forward_merged(
        self, tokens: Tensor, hops: list[Hop], pool: tuple[Tensor, Tensor, Tensor], static: Tensor
    ) -> Tensor:
        """Latency of a merged batch on the first platform in milliseconds, [B], as `forward`.

        Arguments as of `WholeGraphNetwork.pooled_merged`, and ``static [B, static_channels]``.
        """
        return self._answer(self.pooled_merged(tokens, hops, pool), static)[:, 0]

    def _answer(self, pooled: Tensor, static: Tensor) -> Tensor:
        x = self.with_static(pooled, static)  # [B, 2 D]
        return F.softplus(torch.cat([head(x) for head in self.heads], dim=-1))  # [B, P]


def _head(config: NnlpConfig) -> nn.Sequential:
    width = config.channels
    linears = [nn.Linear(2 * width, width), nn.Linear(width, width), nn.Linear(width, 1)]
    for linear in linears:
        uniform_fan_in_(linear)
    first, second, last = linears
    return nn.Sequential(
        first, nn.ReLU(), Dropout(config.dropout), second, nn.ReLU(), Dropout(config.dropout), last
    )
