"""NN-Former's layers: attention and feed-forward that keep the direction of a network's edges.

Xu et al., "NN-Former: Rethinking Graph Structure in Neural Architecture Representation", CVPR
2025, arXiv 2507.00880. With ``A[i, j] = 1`` where operator i feeds operator j, four groups of heads
see the operators that operator i

    I + A       feeds                     I + A A^T   shares a consumer with
    I + A^T     reads                     I + A^T A   shares a producer with

and the feed-forward looks one step forward and one step back::

    FFN(x) = W_2 relu(x W_1 + [A (x W_g)_1 | A^T (x W_g)_2])     channels in two equal parts

Shape legend: ``B`` graphs, ``N`` operators of the largest, ``D`` channels, ``H`` heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tvm_costmodel.models.layers import Dropout


def directed_masks(adjacency: Tensor) -> Tensor:
    """Which operators each of the four groups of heads sees.

    Args:
        adjacency: Directed 0/1, [B, N, N], row = producer, column = consumer.

    Returns:
        Bool [B, 4, N, N], in the order I + A, I + A^T, I + A A^T, I + A^T A. Every row holds its
        own operator, padding included, so a softmax over it is defined.
    """
    transposed = adjacency.transpose(-2, -1)
    masks = torch.stack(
        [adjacency, transposed, adjacency @ transposed, transposed @ adjacency], dim=1
    )
    itself = torch.eye(adjacency.shape[-1], dtype=torch.bool, device=adjacency.device)
    return (masks > 0) | itself


class DirectedAttention(nn.Module):
    """Multi-head attention, a quarter of the heads under each of the four masks.

    Args:
        channels: Channels ``D`` in and out.
        heads: Heads ``H``, a multiple of 4; neighbouring heads share a mask.
        dropout: Drop probability of the attention weights and of the result.
    """

    def __init__(self, channels: int, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__()
        if heads % 4 or channels % heads:
            raise ValueError(
                f"heads {heads} must be a multiple of 4 and divide the channels {channels}"
            )
        self.heads = heads
        self.project = nn.Linear(channels, 3 * channels, bias=False)
        self.out = nn.Linear(channels, channels, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, masks: Tensor) -> Tensor:
        """Maps ``x [B, N, D]`` to ``[B, N, D]`` under `directed_masks` ``[B, 4, N, N]``."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, N, D / H]
            for part in self.project(x).chunk(3, dim=-1)
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, N, N]
        seen = masks.repeat_interleave(self.heads // 4, dim=1)
        weights = torch.softmax(scores.masked_fill(~seen, -math.inf), dim=-1)
        mixed = self.dropout(weights) @ v  # [B, H, N, D / H]
        answer: Tensor = self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return answer


class DirectedFeedForward(nn.Module):
    """Feed-forward with a graph convolution along the edges and one against them.

    Args:
        channels: Channels ``D`` in and out.
        hidden: Hidden channels, an even number: half of them see consumers, half producers.
        dropout: Drop probability after each linear map.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        if hidden % 2:
            raise ValueError(f"hidden {hidden} must be even, half for each direction")
        self.up = nn.Linear(channels, hidden, bias=False)
        self.convolve = nn.Linear(channels, hidden, bias=False)
        self.down = nn.Linear(hidden, channels, bias=False)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Maps ``x [B, N, D]`` under directed ``adjacency [B, N, N]`` to ``[B, N, D]``."""
        ahead, back = self.convolve(x).chunk(2, dim=-1)  # [B, N, hidden / 2]
        along = torch.cat([adjacency @ ahead, adjacency.transpose(-2, -1) @ back], dim=-1)
        hidden = self.dropout(torch.relu(self.up(x) + along))
        answer: Tensor = self.dropout(self.down(hidden))
        return answer


class NnFormerBlock(nn.Module):
    """``x + attention(LN(x))``, then ``x + FFN(LN(x))``, both along directed edges.

    Args:
        channels: Channels ``D``.
        heads: Attention heads, a multiple of 4.
        ffn_ratio: Hidden channels of the feed-forward over ``channels``.
        dropout: Drop probability.
    """

    def __init__(
        self, channels: int = 192, heads: int = 4, ffn_ratio: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = DirectedAttention(channels, heads, dropout)
        self.norm_feed_forward = nn.LayerNorm(channels)
        self.feed_forward = DirectedFeedForward(channels, channels * ffn_ratio, dropout)

    def forward(self, x: Tensor, adjacency: Tensor, masks: Tensor | None = None) -> Tensor:
        """Maps ``x [B, N, D]`` under directed ``adjacency [B, N, N]`` to ``[B, N, D]``.

        ``masks`` are `directed_masks` of the adjacency, which several blocks can share.
        """
        masks = directed_masks(adjacency) if masks is None else masks
        x = x + self.attention(self.norm_attention(x), masks)
        x = x + self.feed_forward(self.norm_feed_forward(x), adjacency)
        return x
