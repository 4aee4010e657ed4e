"""NN-Former on cells: operations in, blocks that keep the direction of edges, accuracy out.

Xu et al., CVPR 2025, arXiv 2507.00880; the blocks are those of `nn_former`::

    operations [B, N] ──► embedding ──► 12 x (masked attention, directed feed-forward) ──► LN
                                                                                           │
                              sigmoid ◄── linear ◄── mean over the cell's operators ◄──────┘

Width 160, hidden width 640, 4 heads and dropout 0.1 are as in the authors' released scripts for 100
and 172 cells of NAS-Bench-101 and for 156 and 781 of NAS-Bench-201 (github.com/XuRuihan/NNFormer,
``scripts/accuracy_predict/tnasp``, ``config.py``); so is depth 12, but for 172 cells,
where it is 6. Inputs and readout are this package's own: one-hot operations here, encoded
operation numbers there; the mean over operators and a sigmoid here, a class token and a depth token
there. There are no position encodings, so the prediction is the same for every order of the
operators.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tvm_costmodel.models.nn_former import NnFormerBlock, directed_masks


@dataclass(frozen=True)
class NnFormerCellsConfig:
    """Shape of the network.

    Attributes:
        operations: Number of operations that a benchmark has; the next code is padding.
        channels: Width ``D``.
        heads: Attention heads, a multiple of 4.
        ffn_ratio: Hidden width of the feed-forwards over ``channels``.
        blocks: Number of blocks.
        dropout: Drop probability.
    """

    operations: int
    channels: int = 160
    heads: int = 4
    ffn_ratio: int = 4
    blocks: int = 12
    dropout: float = 0.1


class NnFormerCells(nn.Module):
    """Accuracy of cells from their operations and directed edges.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NnFormerCellsConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Linear(config.operations, config.channels)
        self.blocks = nn.ModuleList(
            NnFormerBlock(config.channels, config.heads, config.ffn_ratio, config.dropout)
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(config.channels)
        self.head = nn.Linear(config.channels, 1)

    def forward(self, operations: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        """Accuracy of a padded batch, in (0, 1).

        Args:
            operations: One-hot, [B, N, operations], padding all 0.
            adjacency: Directed 0/1, [B, N, N], row = producer, column = consumer.
            mask: Bool [B, N], true on operators, false on padding.

        Returns:
            [B].
        """
        masks = directed_masks(adjacency)
        x = self.embed(operations)  # [B, N, D]
        for block in self.blocks:
            x = block(x, adjacency, masks)
        here = mask.unsqueeze(-1).to(x.dtype)  # [B, N, 1]
        mean = (self.norm(x) * here).sum(dim=1) / here.sum(dim=1)  # [B, D]
        return torch.sigmoid(self.head(mean)).squeeze(-1)
