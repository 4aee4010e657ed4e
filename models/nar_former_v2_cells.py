"""NAR-Former V2 on cells: six blocks, each block's mean over the nodes weighted by a small network.

Yi et al., NeurIPS 2023, arXiv 2306.10792; the blocks are those of `nar_former_v2`::

    tokens [B, N, 128] ──► block 1 ──► block 2 ──► ... ──► block 6
                              │           │                   │      mean over nodes, [B, 512] each
                              └───────────┴── concatenate ────┤
                                                  │           │
                                3072-768-6, relu, sigmoid     │
                                                  │           │
                                       weighted sum over blocks [B, 512]
                                                  │
                              512-512-512-1, relu, dropout, softplus ──► accuracy [B]

The published configuration has 8,582,535 parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_costmodel.models.layers import Dropout, uniform_fan_in_
from tvm_costmodel.models.nar_former_v2 import Block, NarFormerV2Config


@dataclass(frozen=True)
class NarFormerV2CellsConfig(NarFormerV2Config):
    """Shape of the network. The defaults are the published configuration for cells.

    ``static_channels`` plays no part: a cell has no whole-graph numbers.
    """

    token_channels: int = 128
    static_channels: int = 0
    blocks: int = 6


class NarFormerV2Cells(nn.Module):
    """Accuracy of cells from their nodes' tokens.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerV2CellsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NarFormerV2CellsConfig()
        width, total = config.channels, config.channels * config.blocks
        self.blocks = nn.ModuleList(
            Block(config.token_channels if i == 0 else width, config) for i in range(config.blocks)
        )
        self.weigh = nn.Sequential(
            nn.Linear(total, total // 4), nn.ReLU(), nn.Linear(total // 4, config.blocks)
        )
        self.head = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            Dropout(config.dropout),
            nn.Linear(width, 1),
        )
        for layer in (*self.weigh, *self.head):
            if isinstance(layer, nn.Linear):
                uniform_fan_in_(layer)

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        """Accuracy of a padded batch, in the labels' unit.

        Args:
            tokens: [B, N, token_channels].
            adjacency: 0/1 without self loops, [B, N, N]; directed or symmetric, the edges count
                in both directions.
            mask: Bool [B, N], true on nodes, false on padding.

        Returns:
            [B], above 0.
        """
        adjacency = torch.maximum(adjacency, adjacency.transpose(-2, -1))
        here = mask.unsqueeze(-1).to(tokens.dtype)  # [B, N, 1]
        nodes = here.sum(dim=1)  # [B, 1]
        x, means = tokens, []
        for block in self.blocks:
            x = block(x, adjacency)
            means.append((x * here).sum(dim=1) / nodes)
        weights = torch.sigmoid(self.weigh(torch.cat(means, dim=-1)))  # [B, blocks]
        mixed = (torch.stack(means, dim=1) * weights.unsqueeze(-1)).sum(dim=1)  # [B, D]
        return F.softplus(self.head(mixed)).squeeze(-1)
