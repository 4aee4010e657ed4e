"""`RooflineFormer`: attention over a network's edges corrects a physical cost for each operator.

A network's latency is a sum over its operators, and each operator's latency is bounded by what it
computes and moves. What an operator is fused with, and which layout its neighbours leave behind,
decides how much of that it costs. So::

    tokens [R, F], slot [R]
        │
    c = E[slot] + E'[category] + W'' (what is folded in, consumers, bytes)       narrow: D_c
        │
    blocks: c += attention over {itself, producers} and {itself, consumers}   (half the heads each)
            c += FFN(LN(c))
        │
    x = W f + W' c;  twice x += FFN(LN(x))                                       wide: D
        │                          device d: scale_d, shift_d from its embedding
    h = gelu(W LN(x));  (a, b, c) = head(tanh(h * (1 + scale_d) + shift_d))
        │
    latency_i = gmacs_i e^(A_d + a) + gbytes_i e^(B_d + b) + e^(C_d + c)        [ms]
        │
    sum over operators  ──►  latency [B, P]

``a``, ``b`` and ``c`` are bounded by ``bound * tanh(. / bound)``: a correction of at most e^4 to
a physical estimate extrapolates to sizes that no training network had, which a free function does
not. Every term is positive, so the parts are the operators' shares of the latency. Attention
scores are bounded too (cosines times a temperature), which needs no maximum per operator.

Attention sees what an operator's neighbours are and what they move, at a quarter of the width: all
of their numbers at the full width cost more and predict no better. An operator that no training
network has is described by its category, because its own embedding starts at 0 and stays there.

Shape legend: ``R`` operators of all graphs of a batch, ``E`` edges of one direction with one more
for each operator itself, ``B`` graphs, ``D`` channels, ``H`` heads, ``P`` devices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tokenizer.operator_features import CATEGORY_OF_SLOT, FEATURES

_SEEN = ("consumers", "operands", "constants", "written bytes", "read bytes", "intensity")
CONTEXT = [i for i, name in enumerate(FEATURES) if name in _SEEN or name.startswith("folded ")]
"""Numbers of a token that its neighbours see."""

CONTEXTS = ("types", "full", "none")
"""Inputs of attention, see `RooflineFormerConfig`."""


@dataclass(frozen=True)
class RooflineFormerConfig:
    """Shape of the network.

    Attributes:
        features: Numbers of a token.
        slots: Size of the operator vocabulary.
        channels: Width ``D``.
        blocks: Attention blocks: how many operators away context reaches.
        heads: Attention heads, an even number; half of them read producers, half consumers.
        devices: Devices ``P`` that share the trunk.
        device_channels: Size of a device's embedding.
        bound: Largest correction, as a logarithm.
        dropout: Drop probability of the feed-forwards.
        context_channels: Width ``D_c`` of the attention.
        layers: Feed-forwards after the attention.
        context: What attention sees: ``types``, ``full`` (every number of a token, at the full
            width) or ``none`` (an operator sees itself alone).
        reach: Standard deviations beyond which a number of a token counts no further: outside of
            what training networks showed, corrections stay what they were at its edge.
        roofline: False gives each operator one free exponential instead of the three terms.

    Raises:
        ConfigError: A value is out of range.
    """

    features: int = len(FEATURES)
    slots: int = len(CATEGORY_OF_SLOT)
    channels: int = 128
    blocks: int = 2
    heads: int = 4
    devices: int = 1
    device_channels: int = 16
    bound: float = 4.0
    dropout: float = 0.0
    context_channels: int = 32
    layers: int = 2
    context: str = "types"
    roofline: bool = True
    reach: float = 10.0

    def __post_init__(self) -> None:
        width = self.channels if self.context == "full" else self.context_channels
        if self.context not in CONTEXTS:
            raise ConfigError(f"unknown context {self.context!r}; known: {', '.join(CONTEXTS)}")
        if self.heads < 2 or self.heads % 2 or width < 1 or width % self.heads:
            raise ConfigError(
                f"heads {self.heads} must be an even number that divides the attention's "
                f"{width} channels"
            )
        sizes = (self.features, self.slots, self.channels, self.devices, self.device_channels)
        if min(sizes) < 1 or min(self.blocks, self.layers) < 0:
            raise ConfigError(
                f"features, slots, channels, devices and device_channels {sizes} must be at least "
                f"1, blocks {self.blocks} and layers {self.layers} at least 0"
            )
        if min(self.bound, self.reach) <= 0 or not 0 <= self.dropout < 1:
            raise ConfigError(
                f"bound {self.bound} and reach {self.reach} must be above 0, dropout "
                f"{self.dropout} in [0, 1)"
            )


class GraphBatch(NamedTuple):
    """Graphs of a batch, one after the other.

    Attributes:
        slot: int64 [R].
        numbers: float [R, F].
        work: float [R, 3], see `tvm_costmodel.tokenizer.operator_features.WORK`.
        source: int64 [E], the operator that is read: every operator itself, then producers.
        target: int64 [E], the operator that reads. Swapped, they are the edges to consumers.
        graph: int64 [R], which graph each operator belongs to.
        graphs: Number of graphs ``B``.
    """

    slot: Tensor
    numbers: Tensor
    work: Tensor
    source: Tensor
    target: Tensor
    graph: Tensor
    graphs: int


class DirectedAttention(nn.Module):
    """Attention of each operator over itself and its neighbours, by direction.

    Args:
        width: Channels.
        heads: Heads, an even number.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.temperature = nn.Parameter(torch.full((heads,), 4.0))
        self.own = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Maps ``x [R, D]`` along edges ``[E]`` to ``[R, D]`` (without the residual)."""
        rows, half = x.shape[0], self.heads // 2  # a shape, which an exporter can follow
        projected = self.project(self.norm(x)).view(rows, 3, self.heads, -1)
        q, k, v = projected.unbind(1)  # [R, H, D / H]
        q, k = F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)
        parts = []
        for heads, reads, reader in (
            (slice(0, half), source, target),
            (slice(half, None), target, source),
        ):
            own = (reads == reader).unsqueeze(-1) * self.own[heads]
            scores = (q[reader, heads] * k[reads, heads]).sum(-1) * self.temperature[heads] + own
            weights = torch.exp(scores)  # [E, H / 2], bounded: cosines times the temperature
            total = torch.zeros_like(weights[:rows]).index_add(0, reader, weights)
            mixed = weights.unsqueeze(-1) * v[reads, heads]
            summed = torch.zeros_like(mixed[:rows]).index_add(0, reader, mixed)
            parts.append(summed / total.unsqueeze(-1))
        answer: Tensor = self.out(torch.cat(parts, dim=1).flatten(1).to(x.dtype))
        return answer


def _feed_forward(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 2 * width),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(2 * width, width),
    )


class RooflineFormer(nn.Module):
    """Latency of whole networks on one or several devices, operator by operator.

    Args:
        config: Shape of the network.
    """

    categories: Tensor
    center: Tensor
    spread: Tensor

    def __init__(self, config: RooflineFormerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.channels
        narrow = width if config.context == "full" else config.context_channels
        blocks = 0 if config.context == "none" else config.blocks
        self.embed = nn.Linear(config.features, width)
        self.slot = nn.Embedding(config.slots, narrow)
        self.category = nn.Embedding(len(set(CATEGORY_OF_SLOT)), narrow)
        seen = config.features if config.context == "full" else len(CONTEXT)
        self.see = nn.Linear(seen, narrow)
        self.attention = nn.ModuleList(
            DirectedAttention(narrow, config.heads) for _ in range(blocks)
        )
        self.mix = nn.ModuleList(_feed_forward(narrow, config.dropout) for _ in range(blocks))
        self.join = nn.Linear(narrow, width)
        self.layers = nn.ModuleList(
            _feed_forward(width, config.dropout) for _ in range(config.layers)
        )
        self.trunk = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.device = nn.Embedding(config.devices, config.device_channels)
        self.film = nn.Linear(config.device_channels, 2 * width, bias=False)
        self.head = nn.Linear(width, 3)
        self.level = nn.Parameter(torch.zeros(config.devices, 3))
        self.register_buffer("center", torch.zeros(config.features))
        self.register_buffer("spread", torch.ones(config.features))
        self.register_buffer("categories", torch.tensor(CATEGORY_OF_SLOT))
        nn.init.normal_(self.device.weight, std=0.5)
        nn.init.zeros_(self.slot.weight)
        nn.init.zeros_(self.head.bias)
        with torch.no_grad():
            self.head.weight.mul_(0.1)

    def set_level(self, level: Tensor) -> None:
        """Sets ``(A, B, C)`` of each device, [P, 3]: logarithms of ms per unit of work."""
        with torch.no_grad():
            self.level.copy_(level)

    def set_scaling(self, numbers: Tensor) -> None:
        """Centres and scales tokens by those of training networks, [R, F]."""
        self.center = numbers.mean(dim=0)
        self.spread = numbers.std(dim=0).clamp(min=1e-2)

    def operators(self, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Latency of every operator on every device.

        Returns:
            Milliseconds [R, P], and the corrections behind them, [R, P, 3].
        """
        return self.cost(batch.numbers, batch.work, self.context(batch))

    def context(self, batch: GraphBatch) -> Tensor:
        """State of every operator after attention over its neighbourhood, [R, D_c].

        Unless the configuration's context is ``full``, it follows from the slots, the edges and
        the numbers at `CONTEXT` alone.
        """
        numbers = self._scaled(batch.numbers)
        seen = numbers if self.config.context == "full" else numbers[:, CONTEXT]
        context: Tensor = self.slot(batch.slot) + self.category(self.categories[batch.slot])
        context = context + self.see(seen)
        for attend, mix in zip(self.attention, self.mix, strict=True):
            context = context + attend(context, batch.source, batch.target)
            context = context + mix(context)
        return context

    def _scaled(self, numbers: Tensor) -> Tensor:
        numbers = (numbers - self.center) / self.spread
        return numbers.clamp(-self.config.reach, self.config.reach)

    def cost(self, numbers: Tensor, work: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Latency of operators whose context is known, each on its own.

        Args:
            numbers: [R, F].
            work: [R, 3].
            context: [R, D_c], from `context`.

        Returns:
            Milliseconds [R, P], and the corrections behind them, [R, P, 3].
        """
        x = self.embed(self._scaled(numbers)) + self.join(context)
        for layer in self.layers:
            x = x + layer(x)
        h = self.trunk(x)  # [R, D]
        scale, shift = self.film(self.device.weight).chunk(2, dim=-1)  # [P, D]
        moved = h.unsqueeze(1) * (1.0 + scale) + shift  # [R, P, D]
        raw = self.head(torch.tanh(moved)).float()
        if not self.config.roofline:
            return torch.exp(raw[..., 0] + self.level[:, 2]) * work[:, 2:], raw
        bound = self.config.bound
        corrected = self.level + bound * torch.tanh(raw / bound)  # [R, P, 3]
        return (work.unsqueeze(1) * torch.exp(corrected)).sum(-1), raw

    def forward(self, batch: GraphBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Latency of every graph on every device.

        Returns:
            Milliseconds [B, P], those of every operator [R, P], and the mean squared correction.
        """
        parts, raw = self.operators(batch)
        whole = parts.new_zeros(batch.graphs, parts.shape[1]).index_add(0, batch.graph, parts)
        return whole, parts, raw.square().mean()
