"""NN-Former on whole networks: directed attention and feed-forward, summed over operators.

The blocks are those of NN-Former (Xu et al., CVPR 2025, arXiv 2507.00880, see `nn_former`). Tokens,
readout and head are NAR-Former V2's, with which NN-Former's authors compare, so that the two differ
in nothing but their blocks::

    tokens [B, N, 152] ──► linear D ──► blocks along directed edges ──► LN ──► sum over operators
                                                                                     │
    static [B, 40] ──► linear D, dropout, relu ──────────────────────── concatenate ─┘
                                                                            │
                                    2D-D-D-1, relu, dropout, softplus ──► latency [B]

Shape legend: ``B`` graphs, ``N`` operators of the largest, ``D`` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tvm_costmodel.models.layers import LatencyHead, PaddedNetwork
from tvm_costmodel.models.nn_former import NnFormerBlock, directed_masks


@dataclass(frozen=True)
class NnFormerNetworksConfig:
    """Shape of the network.

    Attributes:
        token_channels: Channels of one operator's token.
        static_channels: Channels of the encoded whole-graph numbers.
        channels: Width ``D`` of the blocks and of the head.
        blocks: Number of blocks.
        heads: Attention heads, a multiple of 4.
        ffn_ratio: Hidden width of the feed-forwards over ``channels``.
        dropout: Drop probability, everywhere.
        platforms: Devices that share everything but the last layer.
    """

    token_channels: int = 152
    static_channels: int = 40
    channels: int = 256
    blocks: int = 2
    heads: int = 4
    ffn_ratio: int = 4
    dropout: float = 0.05
    platforms: int = 1

    def __post_init__(self) -> None:
        if min(self.blocks, self.platforms) < 1 or not 0.0 <= self.dropout < 1.0:
            raise ValueError(
                f"blocks {self.blocks} and platforms {self.platforms} must be >= 1, "
                f"dropout {self.dropout} in [0, 1)"
            )


class NnFormerNetworks(PaddedNetwork, LatencyHead):
    """Latency of whole networks from their operators' tokens and directed edges.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NnFormerNetworksConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NnFormerNetworksConfig()
        width = config.channels
        self.embed = nn.Linear(config.token_channels, width)
        self.blocks = nn.ModuleList(
            NnFormerBlock(width, config.heads, config.ffn_ratio, config.dropout)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.add_head(config.static_channels, width, config.platforms, config.dropout)
        with torch.no_grad():  # sums over hundreds of operators start as small as V2's
            self.norm.weight.mul_(width**-0.5)

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch, [B], or [B, platforms] with several.

        Arguments as of `PaddedNetwork.forward`.
        """
        masks = directed_masks(adjacency)
        x = self.embed(tokens)  # [B, N, D]
        for block in self.blocks:
            x = block(x, adjacency, masks)
        x = (self.norm(x) * mask.unsqueeze(-1)).sum(dim=1)  # [B, D]
        return self.answer(x, static)
