"""Layers that several predictors share.

Shape legend: ``B`` graphs in a batch, ``N`` operators of the largest graph, ``D`` channels,
``G`` groups, ``S`` whole-graph numbers, ``...`` any leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


class _Mask(torch.autograd.Function):
    """``x * mask * scale`` without keeping a scaled mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return (x * mask).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (mask,) = ctx.saved_tensors
        return (grads[0] * mask).mul_(ctx.scale), None, None


class Dropout(nn.Module):
    """Dropout whose masks come from a generator of its own, so that a seed repeats them.

    On the CPU it draws 16 random bits per element, several times faster than torch's dropout
    (a fifth of a training step); the drop probability is rounded to a multiple of 2^-16.

    Args:
        probability: Share of elements set to zero in training.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.threshold = round(probability * 65536)
        self.seed(0)

    def seed(self, *entropy: int) -> None:
        """Starts the sequence of masks that ``entropy`` names."""
        self._generator = np.random.Generator(np.random.SFC64(list(entropy)))

    def forward(self, x: Tensor) -> Tensor:
        """Masks and rescales ``x [...]`` in training; returns it as it is otherwise."""
        if not self.training or not self.threshold:
            return x
        if x.device.type != "cpu":
            return F.dropout(x, self.threshold / 65536)
        words = self._generator.integers(0, 2**64, size=-(-x.numel() // 4), dtype=np.uint64)
        bits = torch.from_numpy(words.view(np.int16)[: x.numel()])
        mask = (bits >= self.threshold - 32768).view(x.shape)
        kept: Tensor = _Mask.apply(x, mask, 65536 / (65536 - self.threshold))
        return kept


def seed_dropout(network: nn.Module, *entropy: int) -> None:
    """Starts every `Dropout` of a network on a sequence of its own that ``entropy`` names."""
    for position, layer in enumerate(m for m in network.modules() if isinstance(m, Dropout)):
        layer.seed(*entropy, position)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(int(np.random.SeedSequence(list(entropy)).generate_state(1)[0]))


class GroupedLinear(nn.Module):
    """Block-diagonal linear map, optionally followed by a LayerNorm that the groups share.

    ``y_g = LN(x_g W_g + b_g)`` for each of the ``G`` equal slices of the channels, the grouped
    linear transform of Mehta et al. (DeLighT, arXiv 2008.00623) as NAR-Former V2 uses it.

    Args:
        in_channels: Channels in, divisible by ``groups``.
        out_channels: Channels out, divisible by ``groups``.
        groups: Number of blocks ``G``.
        norm: Whether each group's output is normalised over its own channels.

    Raises:
        ValueError: If a channel count is not divisible by ``groups``.
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int, norm: bool = True) -> None:
        super().__init__()
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"channels {in_channels} and {out_channels} must be divisible by groups {groups}"
            )
        self.groups = groups
        self.weight = nn.Parameter(
            torch.empty(groups, in_channels // groups, out_channels // groups)
        )
        self.bias = nn.Parameter(torch.zeros(groups, 1, out_channels // groups))
        self.norm = nn.LayerNorm(out_channels // groups) if norm else None
        nn.init.xavier_uniform_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``x [G, R, D_in / G]``, groups first, to ``[G, R, D_out / G]``."""
        x = torch.baddbmm(self.bias, x, self.weight)
        return x if self.norm is None else self.norm(x)


class GroupedFeedForward(nn.Module):
    """Pre-norm feed-forward ``x -> G(relu(G(LN(x))))`` of two grouped linear maps.

    Between the two maps the groups stay the leading axis, so that the wide hidden activations are
    never copied.

    Args:
        channels: Channels ``D`` in and out.
        hidden: Channels between the two maps.
        groups: Groups of both maps.
        dropout: Drop probability after the ReLU and after the second map.
    """

    def __init__(self, channels: int, hidden: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.groups = groups
        self.norm = nn.LayerNorm(channels)
        self.up = GroupedLinear(channels, hidden, groups)
        self.down = GroupedLinear(hidden, channels, groups)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``x [..., D]`` to ``[..., D]`` (without the residual)."""
        split = self.norm(x).reshape(-1, self.groups, x.shape[-1] // self.groups)  # [R, G, D / G]
        hidden = self.up(split.transpose(0, 1).contiguous())  # [G, R, hidden / G]
        hidden = self.down(self.dropout(torch.relu(hidden)))  # [G, R, D / G]
        answer: Tensor = self.dropout(hidden.transpose(0, 1).reshape(x.shape))
        return answer


def uniform_fan_in_(linear: nn.Linear) -> None:
    """Initialises a linear map as GraphSAGE code does: U(-s, s) with s = 1 / sqrt(last axis).

    The weight's bound is ``1 / sqrt(in)`` and the bias's ``1 / sqrt(out)``, which the published
    heads of NNLP and NAR-Former V2 start from.
    """
    with torch.no_grad():
        for tensor in (linear.weight, linear.bias):
            if tensor is not None:
                bound = 1.0 / math.sqrt(tensor.shape[-1])
                tensor.uniform_(-bound, bound)


def softplus_bias(latency_ms: float) -> float:
    """The bias whose softplus is ``latency_ms``, in the form that does not overflow."""
    return latency_ms + math.log(-math.expm1(-latency_ms))


class Hop(NamedTuple):
    """One step along the edges between two sets of merged operators, ``R_in`` rows to ``R_out``.

    Attributes:
        own: int64 [R_out], input row of the operator itself.
        source: int64 [E], input rows of the neighbours, grouped by output row.
        target: int64 [E], output row of each entry of ``source``, ascending.
        offsets: int64 [R_out], where each output row's neighbours start in ``source``.
        degree: float32 [R_in, 1], number of neighbours of each input row.
    """

    own: Tensor
    source: Tensor
    target: Tensor
    offsets: Tensor
    degree: Tensor


class EdgeBlock(nn.Module):
    """A block that looks along a network's edges, on a padded or a merged batch."""

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Maps ``x [B, N, D_in]`` under symmetric 0/1 ``adjacency [B, N, N]`` to ``[B, N, D]``."""
        raise NotImplementedError

    def forward_merged(self, x: Tensor, hop: Hop) -> Tensor:
        """Maps ``x [R_in, D_in]`` along a hop's edges to ``[R_out, D]``."""
        raise NotImplementedError


class PaddedNetwork(nn.Module):
    """A network on whole graphs that reads padded batches with directed edges."""

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch.

        Args:
            tokens: [B, N, token_channels].
            adjacency: Directed 0/1, [B, N, N], row = producer, column = consumer.
            mask: Bool [B, N], true on operators, false on padding.
            static: Encoded whole-graph numbers, [B, static_channels].

        Returns:
            [B], in the unit that the network is trained in.
        """
        raise NotImplementedError


class WithStatic(nn.Module):
    """Adds whole-graph numbers to pooled states. A subclass sets ``static`` and ``dropout``."""

    static: nn.Linear
    dropout: Dropout

    def with_static(self, pooled: Tensor, static: Tensor) -> Tensor:
        """Concatenates ``pooled [B, D]`` and embedded whole-graph numbers ``[B, S]``: [B, 2 D]."""
        static = torch.relu(self.dropout(self.static(static)))
        return torch.cat([pooled, static], dim=-1)


class LatencyHead(WithStatic):
    """NAR-Former V2's head: whole-graph numbers, two hidden layers, softplus."""

    head: nn.ModuleList

    def add_head(self, static_channels: int, width: int, platforms: int, dropout: float) -> None:
        """Adds the head's layers.

        Args:
            static_channels: Channels of the encoded whole-graph numbers.
            width: Channels ``D`` of the pooled state.
            platforms: Number of devices, each with an output.
            dropout: Drop probability.
        """
        self.static = nn.Linear(static_channels, width)
        sizes = ((2 * width, width), (width, width), (width, platforms))
        self.head = nn.ModuleList(nn.Linear(*size) for size in sizes)
        self.dropout = Dropout(dropout)
        for linear in (self.static, *self.head):
            uniform_fan_in_(linear)

    def set_output_level(self, latency: float) -> None:
        """Sets the last bias so that an untrained network predicts about ``latency``.

        NAR-Former V2's published code starts at softplus(0) = 0.7 ms whatever the labels are; with
        labels of hundreds of milliseconds that costs the first epochs.
        """
        nn.init.constant_(self.head[2].get_parameter("bias"), softplus_bias(latency))

    def answer(self, pooled: Tensor, static: Tensor) -> Tensor:
        """Latency from ``pooled [B, D]`` and ``static [B, S]``: [B], or [B, platforms]."""
        x = self.with_static(pooled, static)  # [B, 2 D]
        x = self.dropout(torch.relu(self.head[0](x)))
        x = self.dropout(torch.relu(self.head[1](x)))
        answers = F.softplus(self.head[2](x))  # [B, platforms]
        return answers.squeeze(-1) if answers.shape[-1] == 1 else answers


class WholeGraphNetwork(WithStatic):
    """Blocks along the edges, their sum over operators, and the whole-graph numbers.

    A subclass sets ``blocks`` (each an `EdgeBlock`), ``static`` and ``dropout``.
    """

    blocks: nn.ModuleList

    def pooled(self, tokens: Tensor, adjacency: Tensor, mask: Tensor) -> Tensor:
        """Sum over the operators of each graph of a padded batch.

        Args:
            tokens: [B, N, token_channels].
            adjacency: Symmetric 0/1 without self loops, [B, N, N].
            mask: Bool [B, N], true on operators, false on padding.

        Returns:
            [B, D].
        """
        x = tokens
        for block in self.blocks:
            x = block(x, adjacency)
        return (x * mask.unsqueeze(-1)).sum(dim=1)

    def pooled_merged(
        self, tokens: Tensor, hops: list[Hop], pool: tuple[Tensor, Tensor, Tensor]
    ) -> Tensor:
        """Sum over the operators of each graph of a merged batch, the same numbers as `pooled`.

        In training, operators that were merged share their dropout masks.

        Args:
            tokens: Distinct tokens, [R_0, token_channels].
            hops: One per block.
            pool: ``(rows, offsets, counts)``: int64 [P] rows of the last block's result that each
                graph sums, grouped by graph; int64 [B] where each graph starts; float32 [P] how
                many operators each row stands for.

        Returns:
            [B, D].
        """
        x = tokens
        for block, hop in zip(self.blocks, hops, strict=True):
            assert isinstance(block, EdgeBlock)
            x = block.forward_merged(x, hop)
        rows, offsets, counts = pool
        return F.embedding_bag(rows, x, offsets, mode="sum", per_sample_weights=counts)


def with_weights(make: Callable[[], Network], weights: Mapping[str, Tensor]) -> Network:
    """A network with given weights, whose shapes are compared before memory is taken.

    Args:
        make: Makes the network.
        weights: Its state by name.

    Raises:
        ValueError: The network has other weights, or weights of other shapes.
    """
    with torch.device("meta"):
        wanted = {name: tuple(value.shape) for name, value in make().state_dict().items()}
    found = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise ValueError(f"{name} is {found.get(name)}, and the network's {wanted.get(name)}")
    with torch.random.fork_rng(devices=[]):
        network = make()
    network.load_state_dict(dict(weights))
    return network.eval()
