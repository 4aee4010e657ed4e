"""NAR-Former on whole networks: every number of an operator as a position encoding.

Yi et al., "NAR-Former", CVPR 2023, arXiv 2211.08024. A token has 15 parts of 64 channels, 960 in
all: operation, 8 attributes, 4 output dimensions, own position, source position (the sum of the
encoded positions of what the operator reads; the input reads -1). The transformer is that of
`nar_former`, its depth token the encoded number of operators, and the head reads four whole-graph
numbers of 64 channels as well.

Two things are not the published ones. Frequencies are 10000^(-j / 32), the release's alternative,
because under its linear ones an extent that no training network had is encoded as a number unlike
any other; and the answer goes through a softplus, as a latency is positive.

Shape legend: ``B`` graphs, ``N`` operators of the largest, ``S`` numbers of an operator (12),
``P`` devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_costmodel.models.layers import PaddedNetwork, softplus_bias
from tvm_costmodel.models.nar_former import NarFormer, NarFormerConfig

_NO_SOURCE = -1.0  # position of what an input reads


@dataclass(frozen=True)
class NarFormerNetworksConfig:
    """Shape of the network.

    Attributes:
        operations: Slots of the one-hot operation that begins a token.
        numbers: Attributes and dimensions of an operator, ``S``.
        frequencies: Frequencies of every part; each gives a sine and a cosine.
        heads: Attention heads.
        hidden: Hidden width of the feed-forwards.
        blocks: Encoder blocks of the first stage; the other three have one each.
        dropout: Drop probability.
        platforms: Devices that share everything but the last layer.
    """

    operations: int = 32
    numbers: int = 12
    frequencies: int = 32
    heads: int = 6
    hidden: int = 3840
    blocks: int = 6
    dropout: float = 0.1
    platforms: int = 1

    @property
    def channels(self) -> int:
        """Channels of a token: operation, numbers, own and source position."""
        return (3 + self.numbers) * 2 * self.frequencies


def encode(values: Tensor, frequencies: int) -> Tensor:
    """Sine and cosine of each number at the frequencies ``10000^(-j / n)``.

    Args:
        values: Numbers, [...].
        frequencies: Number of frequencies ``n``.

    Returns:
        [..., 2 n], ordered sin f0, cos f0, sin f1, ...
    """
    exponents = torch.arange(frequencies, device=values.device) / frequencies
    angles = values.unsqueeze(-1) * torch.pow(10000.0, -exponents)
    return torch.stack([torch.sin(angles), torch.cos(angles)], dim=-1).flatten(-2)


class NarFormerNetworks(PaddedNetwork):
    """Latency of whole networks from their operators' tokens and what each operator reads.

    Args:
        config: Shape of the network.
    """

    def __init__(self, config: NarFormerNetworksConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or NarFormerNetworksConfig()
        self.former = NarFormer(
            NarFormerConfig(
                channels=config.channels,
                heads=config.heads,
                hidden=config.hidden,
                depths=(config.blocks, 1, 1, 1),
                dropout=config.dropout,
                static_channels=8 * config.frequencies,
                outputs=config.platforms,
            )
        )

    def set_output_level(self, latency: float) -> None:
        """Sets the last bias so that an untrained network predicts about ``latency``."""
        bias = self.former.head[-1].get_parameter("bias")
        nn.init.constant_(bias, softplus_bias(latency))

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch.

        Args:
            tokens: One-hot operation and encoded numbers, [B, N, operations + 2 S frequencies].
            adjacency: Directed 0/1, [B, N, N], row = producer, column = consumer.
            mask: Bool [B, N], true on operators, false on padding.
            static: Encoded whole-graph numbers, [B, 8 frequencies].

        Returns:
            [B], or [B, P] with several platforms.
        """
        config = self.config
        one_hot, numbers = tokens[..., : config.operations], tokens[..., config.operations :]
        slots = torch.arange(config.operations, device=tokens.device)
        operation = one_hot @ encode(slots, config.frequencies)
        places = encode(torch.arange(tokens.shape[1], device=tokens.device), config.frequencies)
        source = adjacency.transpose(-2, -1) @ places  # [B, N, 2 frequencies]
        reads_none = (adjacency.sum(dim=-2) == 0).unsqueeze(-1)
        nothing = encode(slots.new_full((), _NO_SOURCE), config.frequencies)
        source = torch.where(reads_none, nothing, source)
        own = places.expand_as(source)
        x = torch.cat([operation, numbers, source, own], dim=-1)  # [B, N, channels]
        depth = encode(mask.sum(dim=-1), config.channels // 2)
        return F.softplus(self.former(x, mask, depth, static))
