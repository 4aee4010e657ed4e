"""NAR-Former: a network as a sequence of tokens, fused in stages by learned queries.

Yi et al., "NAR-Former: Neural Architecture Representation Learning towards Holistic Attributes
Prediction", CVPR 2023, arXiv 2211.08024::

    tokens [B, L, D]     depth [B, D]
        │                    │  linear, relu
        └──── concatenate ───┘
                  │
        6 x pre-norm encoder block ─────────────► memory [B, L + 1, D]
                                                    │            │
    stage 2: 4 queries attend to LN(memory), FFN ◄──┘            │
                  │                                              │
        fuse: LN(stage) attends to LN(memory), FFN ◄─────────────┤
                  │                                              │
    stage 3: 2 queries attend to LN(fused), FFN                  │
                  │                                              │
        fuse: LN(stage) attends to LN(memory), FFN ◄─────────────┘
                  │
    stage 4: 1 query attends to LN(fused), FFN
                  │
                 LN ──► cells: linear, sigmoid; networks: d, d, d/2, d/4, d/8, 1

Learned queries are not projected, and no residual runs around the attention of a fuse unit or a
query. Attention knows nothing of the order of its keys, so it does not matter to the result where
the depth token stands (published: first on cells, last on networks). The published configuration
for cells has 4,822,081 parameters.

Shape legend: ``B`` cells in a batch, ``L`` tokens of the largest, ``D`` channels, ``H`` heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tvm_costmodel.models.layers import Dropout


@dataclass(frozen=True)
class NarFormerConfig:
    """Shape of the network. The defaults are the published configuration for cells.

    Attributes:
        channels: Width ``D`` of tokens and blocks.
        heads: Attention heads.
        hidden: Hidden width of the feed-forwards.
        depths: Blocks of each stage; stage ``s`` of ``n`` has ``2^(n - s)`` queries (s from 2).
        dropout: Drop probability of attention weights and inside feed-forwards.
        static_channels: Channels of whole-graph numbers that the head reads too; 0 is the head
            for cells (linear, sigmoid), anything else the head for whole networks.
        outputs: Outputs of the head for whole networks, such as one for each device.
    """

    channels: int = 192
    heads: int = 6
    hidden: int = 768
    depths: tuple[int, ...] = (6, 1, 1, 1)
    dropout: float = 0.1
    static_channels: int = 0
    outputs: int = 1

    def __post_init__(self) -> None:
        if self.channels % self.heads:
            raise ValueError(f"channels {self.channels} not divisible by heads {self.heads}")
        if len(self.depths) < 2 or min(self.depths) < 1:
            raise ValueError(f"depths {self.depths}: give two or more stages of at least 1 block")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout {self.dropout} must be in [0, 1)")


class Attention(nn.Module):
    """Multi-head attention.

    Args:
        config: Shape of the network.
        project_query: False for learned queries, which go in as they are.
    """

    def __init__(self, config: NarFormerConfig, project_query: bool = True) -> None:
        super().__init__()
        width = config.channels
        self.heads = config.heads
        self.query = nn.Linear(width, width) if project_query else nn.Identity()
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.dropout = Dropout(config.dropout)

    def forward(self, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends from ``query [B, Q, D]`` to ``memory [B, K, D]`` where ``mask [B, K]`` holds."""
        q = self._split(self.query(query))  # [B, H, Q, D / H]
        k, v = self._split(self.key(memory)), self._split(self.value(memory))  # [B, H, K, D / H]
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [B, H, Q, K]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -math.inf)
        mixed = self.dropout(torch.softmax(scores, dim=-1)) @ v  # [B, H, Q, D / H]
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # [B, Q, D]
        return answer

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads


class FeedForward(nn.Module):
    """``x + W_2 dropout(relu(W_1 LN(x)))``.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        self.up = nn.Linear(config.channels, config.hidden)
        self.down = nn.Linear(config.hidden, config.channels)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``x [..., D]`` to ``[..., D]``."""
        x = x + self.down(self.dropout(torch.relu(self.up(self.norm(x)))))
        return x


class EncoderBlock(nn.Module):
    """``x + attention(LN(x))``, then the feed-forward.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps ``x [B, L, D]`` to ``[B, L, D]``; ``mask [B, L]`` is true on tokens."""
        y = self.norm(x)
        answer: Tensor = self.feed_forward(x + self.attention(y, y, mask))
        return answer


class FuseUnit(nn.Module):
    """A stage's result looks at stage 1's memory again: ``FFN(attention(LN(x), LN(memory)))``.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.channels)
        self.norm_memory = nn.LayerNorm(config.channels)
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Maps ``x [B, Q, D]`` and ``memory [B, L, D]`` under ``mask [B, L]`` to ``[B, Q, D]``."""
        mixed = self.attention(self.norm(x), self.norm_memory(memory), mask)
        answer: Tensor = self.feed_forward(mixed)
        return answer


class QueryStage(nn.Module):
    """Learned queries that attend to what came before, then blocks over the queries alone.

    Args:
        queries: Number of queries ``Q``.
        depth: Blocks; the first one is the queries' attention.
        config: Shape of the network.
    """

    def __init__(self, queries: int, depth: int, config: NarFormerConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, config.channels))
        self.norm = nn.LayerNorm(config.channels)
        self.attention = Attention(config, project_query=False)
        self.feed_forward = FeedForward(config)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(depth - 1))

    def forward(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps ``memory [B, K, D]`` under ``mask [B, K]`` to ``[B, Q, D]``."""
        queries = self.queries.expand(len(memory), -1, -1)
        x: Tensor = self.feed_forward(self.attention(queries, self.norm(memory), mask))
        for block in self.blocks:
            x = block(x)
        return x


class NarFormer(nn.Module):
    """An attribute (accuracy, latency) of cells or networks from their tokens.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NarFormerConfig()
        self.depth = nn.Linear(config.channels, config.channels)
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.depths[0]))
        later = config.depths[1:]
        self.stages = nn.ModuleList(
            QueryStage(2 ** (len(later) - 1 - i), depth, config) for i, depth in enumerate(later)
        )
        self.fuse_units = nn.ModuleList(FuseUnit(config) for _ in later[1:])
        self.norm = nn.LayerNorm(config.channels)
        self.head = _head(config)

    def forward(
        self, tokens: Tensor, mask: Tensor, depth: Tensor, static: Tensor | None = None
    ) -> Tensor:
        """Predicts a padded batch.

        Args:
            tokens: [B, L, D].
            mask: Bool [B, L], true on tokens, false on padding.
            depth: Encoded number of nodes, [B, D].
            static: Encoded whole-graph numbers [B, static_channels]; for whole networks only.

        Returns:
            [B]: in (0, 1) for cells, any number for whole networks; [B, outputs] with several.
        """
        first = torch.relu(self.depth(depth)).unsqueeze(1)  # [B, 1, D]
        memory = torch.cat([first, tokens], dim=1)  # [B, L + 1, D]
        mask = torch.cat([mask.new_ones(len(mask), 1), mask], dim=1)
        for block in self.blocks:
            memory = block(memory, mask)
        x = self.stages[0](memory, mask)
        for fuse, stage in zip(self.fuse_units, self.stages[1:], strict=True):
            x = stage(fuse(x, memory, mask))
        x = self.norm(x)[:, -1]  # [B, D]
        if self.config.static_channels:
            if static is None:
                raise ValueError("this network was built for whole networks: give static")
            answers: Tensor = self.head(torch.cat([x, static], dim=-1))
            return answers.squeeze(-1) if self.config.outputs == 1 else answers
        return torch.sigmoid(self.head(x)).squeeze(-1)


def _head(config: NarFormerConfig) -> nn.Sequential:
    """Linear for cells; for whole networks d, d, d/2, d/4, d/8, 1 with ReLU and dropout."""
    width = config.channels + config.static_channels
    if not config.static_channels:
        return nn.Sequential(nn.Linear(width, 1))
    sizes = [width, *(width // 2**i for i in range(4))]
    layers: list[nn.Module] = []
    for i, size in enumerate(sizes[1:]):
        layers += [nn.Linear(sizes[i], size), nn.ReLU(), Dropout(config.dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], config.outputs))
