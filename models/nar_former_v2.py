"""NAR-Former V2: a Transformer whose attention looks along a network's edges.

Yi et al., "NAR-Former V2: Rethinking Transformer for Universal Neural Network Representation
Learning", NeurIPS 2023, arXiv 2306.10792; whole-network (latency) variant::

    tokens [B, N, 152]                          static [B, 40]
        │                                           │
    ┌───┴──────────────────────────────┐        linear 512
    │ x = x * sigmoid(deg w + b)       │        dropout, relu
    │ z = sigmoid(x W_qk + b)          │            │
    │ S = (z z^T / sqrt(d)) * A        │            │
    │ A' = S / (rowsum(S) + 1e-6)      │            │
    │ x = (A' x) W_l + b + x W_r       │            │
    │ x = dropout(relu(l2norm(x)))     │            │
    │ x = x + gamma * FFN(LN(x))       │            │
    └───┬──────────────────────────────┘  2 blocks  │
        │                                           │
    sum over operators [B, 512] ── concatenate ─────┘
                                       │
                     1024-512-512-1, relu, dropout, softplus ──► latency [B], ms

``A`` is the undirected adjacency without self loops, ``deg`` its row sums, and ``FFN`` two linear
maps d -> 4d -> d in 8 groups with a LayerNorm per group. The published configuration has 2,310,921
parameters, and latencies in milliseconds.

Two ways to run the same weights: `NarFormerV2.forward` on a padded batch with dense adjacency
(the formulas as printed; accelerators), and `NarFormerV2.forward_merged` on a batch in which
operators that must come out equal are computed once (CPU; see `tokenizer.batching.MergedBatch`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_costmodel.models.layers import (
    Dropout,
    EdgeBlock,
    GroupedFeedForward,
    Hop,
    LatencyHead,
    WholeGraphNetwork,
)

_EPSILON = 1e-6  # added to the row sums of the scores, as published


@dataclass(frozen=True)
class NarFormerV2Config:
    """Shape of the network. The defaults are the published whole-network configuration.

    Attributes:
        token_channels: Channels of one operator's token.
        static_channels: Channels of the encoded whole-graph numbers.
        channels: Width ``d`` of the blocks and of the head.
        blocks: Number of attention blocks.
        ffn_ratio: Hidden width of the feed-forward over ``channels``.
        groups: Groups of the feed-forward's linear maps.
        dropout: Drop probability, everywhere.
        layer_scale: Start of gamma, the feed-forward's gain.
        platforms: Devices that share everything but the last layer.
    """

    token_channels: int = 152
    static_channels: int = 40
    channels: int = 512
    blocks: int = 2
    ffn_ratio: int = 4
    groups: int = 8
    dropout: float = 0.05
    layer_scale: float = 1e-4
    platforms: int = 1

    def __post_init__(self) -> None:
        if self.channels % self.groups:
            raise ValueError(f"channels {self.channels} not divisible by groups {self.groups}")
        if min(self.blocks, self.platforms) < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                f"blocks {self.blocks} and platforms {self.platforms} must be >= 1, "
                f"dropout {self.dropout} in [0, 1)"
            )


class EdgeAttention(nn.Module):
    """Degree-modulated attention over neighbours with one shared query-key projection.

    Args:
        in_channels: Channels of the incoming tokens.
        out_channels: Channels of the result.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.degree = nn.Linear(1, in_channels)
        self.project = nn.Linear(in_channels, in_channels)
        self.neighbours = nn.Linear(in_channels, out_channels)
        self.root = nn.Linear(in_channels, out_channels, bias=False)
        self.scale = 1.0 / math.sqrt(in_channels)

    def _modulate(self, x: Tensor, degree: Tensor) -> tuple[Tensor, Tensor]:
        x = x * torch.sigmoid(self.degree(degree))
        return x, torch.sigmoid(self.project(x))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Attends over a padded batch.

        Args:
            x: Tokens [B, N, D_in].
            adjacency: Symmetric 0/1 without self loops, padding all 0, [B, N, N].

        Returns:
            L2-normalised tokens [B, N, D_out].
        """
        x, z = self._modulate(x, adjacency.sum(dim=-1, keepdim=True))
        scores = z @ z.transpose(-2, -1) * self.scale * adjacency  # [B, N, N]
        attention = scores / (scores.sum(dim=-1, keepdim=True) + _EPSILON)
        return F.normalize(self.neighbours(attention @ x) + self.root(x), dim=-1)

    def forward_merged(self, x: Tensor, hop: Hop) -> Tensor:
        """Attends from ``x [R_in, D_in]`` to ``[R_out, D_out]`` along a hop's edges."""
        x, z = self._modulate(x, hop.degree)
        target, source = hop.target, hop.source
        scores = (z[hop.own[target]] * z[source]).sum(dim=-1) * self.scale  # [E]
        total = scores.new_zeros(hop.own.shape[0]).index_add(0, target, scores) + _EPSILON
        # A sparse matmul: embedding_bag sums the weighted rows of x for each target.
        attended = F.embedding_bag(
            source, x, hop.offsets, mode="sum", per_sample_weights=scores / total[target]
        )  # [R_out, D_in]
        return F.normalize(self.neighbours(attended) + self.root(x)[hop.own], dim=-1)


class Block(EdgeBlock):
    """Attention along the edges, then the grouped feed-forward.

    Args:
        in_channels: Channels of the incoming tokens.
        config: Shape of the network.
    """

    def __init__(self, in_channels: int, config: NarFormerV2Config) -> None:
        super().__init__()
        width = config.channels
        self.attention = EdgeAttention(in_channels, width)
        self.dropout = Dropout(config.dropout)
        self.feed_forward = GroupedFeedForward(
            width, width * config.ffn_ratio, config.groups, config.dropout
        )
        self.gamma = nn.Parameter(torch.full((width,), config.layer_scale))

    def _finish(self, x: Tensor) -> Tensor:
        x = self.dropout(torch.relu(x))
        x = x + self.gamma * self.feed_forward(x)
        return x

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Maps ``x [B, N, D_in]`` under ``adjacency [B, N, N]`` to ``[B, N, D]``."""
        return self._finish(self.attention(x, adjacency))

    def forward_merged(self, x: Tensor, hop: Hop) -> Tensor:
        """Maps ``x [R_in, D_in]`` along a hop to ``[R_out, D]``."""
        return self._finish(self.attention.forward_merged(x, hop))


class NarFormerV2(WholeGraphNetwork, LatencyHead):
    """Latency of whole networks from their operators' tokens.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerV2Config | None = None) -> None:
        super().__init__()
        self.config = config = config or NarFormerV2Config()
        width = config.channels
        self.blocks = nn.ModuleList(
            Block(config.token_channels if i == 0 else width, config) for i in range(config.blocks)
        )
        self.add_head(config.static_channels, width, config.platforms, config.dropout)

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch.

        Args:
            tokens: [B, N, token_channels].
            adjacency: Symmetric 0/1 without self loops, [B, N, N].
            mask: Bool [B, N], true on operators, false on padding.
            static: [B, static_channels].

        Returns:
            Latency in milliseconds, [B], or [B, platforms] with several.
        """
        return self.answer(self.pooled(tokens, adjacency, mask), static)

    def forward_merged(
        self, tokens: Tensor, hops: list[Hop], pool: tuple[Tensor, Tensor, Tensor], static: Tensor
    ) -> Tensor:
        """Latency of a merged batch in milliseconds, [B], the same numbers as `forward`.

        Arguments as of `WholeGraphNetwork.pooled_merged`, and ``static [B, static_channels]``.
        """
        return self.answer(self.pooled_merged(tokens, hops, pool), static)
