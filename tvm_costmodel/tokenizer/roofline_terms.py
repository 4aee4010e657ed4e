"""Kernels of networks as a table: what each computes, moves and waits for.

Amounts are in the units of the terms of a cost (`TERMS`), and places are logarithms of extents,
the arguments of smooth functions of a cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_costmodel.tokenizer.operator_features import CATEGORY_OF_SLOT, FEATURES, PhysicalTokens
from tvm_costmodel.tokenizer.vocabulary import SLOT_OF_OPERATOR

TABLE_VERSION = 1
"""Raised whenever the same tokens would give another table."""

TERMS = ("arithmetic", "activations", "weights", "depth", "kernels")
"""1e9 multiply-accumulates of matmuls and 1e9 elements that pooling reads, 1e9 bytes of activations
and of weights, 1000 steps of the sum that each output is, and 1. Only in matmuls are bytes of
weights a term of their own; in dense layers and the rest all bytes count as activations, since one
of the two is nearly all."""

CLASSES = ("product", "depthwise", "dense", "window", "joined", "other")
"""Classes of kernels that share the cost of a unit, as checkpoints name them: matmuls (``product``;
convolutions among them), ``depthwise`` convolutions, ``dense`` layers, pooling and reductions of
whole maps (``window``), fused operators (``joined``) and all others. Fused are clamps and batch
normalisations that alone read what they follow, which most compilers make part of the kernel
before: they start none of their own."""
MATMUL, DEPTHWISE, DENSE, POOLING, FUSED, OTHER = range(len(CLASSES))

VARIANTS = 6
"""Kinds of kernel that an operator can be: plain, with a kernel larger than 1 or fused, and each of
them depthwise or not."""

FILLED = ("columns filled at 4", "columns filled at 8", "depth filled at 4", "rows filled at 4")
"""Features of how full vectors and tiles are."""

_PLACE = ("rows", "columns", "depth", "channels", "kernel", "stride", "read", "written", "weights")
_FUSED_OPS = ("relu", "clip", "batch_norm")
_POOLING = CATEGORY_OF_SLOT[SLOT_OF_OPERATOR["max_pool2d"]]


def describe_table() -> dict[str, Any]:
    """Version, terms and classes, as a checkpoint stores them."""
    return {"version": TABLE_VERSION, "terms": list(TERMS), "classes": list(CLASSES)}


@dataclass(frozen=True, eq=False)
class KernelTable:
    """Kernels of networks, one network after the other.

    Attributes:
        graph: int64 [K], the network of each kernel.
        kind: int64 [K], equal for kernels that share constants and functions.
        group: int64 [K], its class, an index into `CLASSES`.
        place: float64 [K, 9], natural logarithms of extents and amounts, arguments of functions.
        filled: float64 [K, 4], how full vectors and tiles are, less 1.
        amount: float64 [K, len(TERMS)].
        graphs: Number of networks ``G``.
    """

    graph: np.ndarray
    kind: np.ndarray
    group: np.ndarray
    place: np.ndarray
    filled: np.ndarray
    amount: np.ndarray
    graphs: int

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over each network's kernels, float64 [G]."""
        return np.bincount(self.graph, weights=values, minlength=self.graphs)

    def extents(self, kernels: np.ndarray, names: Sequence[str]) -> np.ndarray:
        """Named parts of the kernels' places, float64 [kernels, names]."""
        extents: np.ndarray = self.place[kernels][:, [_PLACE.index(name) for name in names]]
        return extents


def kernel_table(networks: Sequence[PhysicalTokens]) -> KernelTable:
    """Tabulates the kernels of networks."""
    numbers = np.concatenate([tokens.numbers for tokens in networks]).astype(np.float64)
    work = np.concatenate([tokens.work for tokens in networks]).astype(np.float64)
    slot = np.concatenate([tokens.slot for tokens in networks])
    counts = [len(tokens) for tokens in networks]

    def number(name: str) -> np.ndarray:
        return numbers[:, FEATURES.index(name)]

    def amount(name: str) -> np.ndarray:
        return np.rint(np.expm1(4.0 * number(name)))

    rows, columns, depth = (amount(f"product {name}") for name in ("rows", "columns", "depth"))
    kernel, channels = amount("kernel height"), amount("in channels")
    read, written, weights = (amount(f"{name} bytes") for name in ("read", "written", "weight"))
    matmul, depthwise = rows > 0, number("depthwise") > 0
    dense = slot == SLOT_OF_OPERATOR["dense"]
    group = np.where(~matmul, OTHER, MATMUL)
    group[matmul & depthwise], group[matmul & dense] = DEPTHWISE, DENSE
    pools = np.array(CATEGORY_OF_SLOT)[slot] == _POOLING
    fused = _fused(networks, slot)
    group[pools], group[fused] = POOLING, FUSED
    variant = np.where(matmul & (kernel > 1), 1, 2 * fused)
    convolves = group == MATMUL
    moved = read + written + np.where(convolves, 0.0, weights)
    # elements that each output of a pooling is the sum of, one after the other; a reduction has no
    # kernel, and its window is all that it reads
    window = np.maximum(kernel * amount("kernel width"), read / np.maximum(written, 1.0))
    amounts = [
        np.where(matmul, work[:, 0], np.where(pools, 2.0 * work[:, 0], 0.0)),
        1e-9 * moved,
        np.where(convolves, 1e-9 * weights, 0.0),
        1e-3 * np.where(matmul, depth, np.where(pools, window, 0.0)),
        np.where(fused, 0.0, work[:, 2]),
    ]
    place = [
        rows,
        np.where(depthwise, channels, columns),
        depth,
        channels,
        kernel,
        amount("stride height"),
        read / 4,
        written / 4,
        weights / 4,
    ]
    return KernelTable(
        graph=np.repeat(np.arange(len(networks)), counts),
        kind=slot * VARIANTS + 2 * variant + (group == DEPTHWISE),
        group=group,
        place=np.log(np.maximum(np.stack(place, axis=1), 1.0)),
        filled=np.stack([number(name) for name in FILLED], axis=1) - 1.0,
        amount=np.stack(amounts, axis=1),
        graphs=len(networks),
    )


def _fused(networks: Sequence[PhysicalTokens], slot: np.ndarray) -> np.ndarray:
    """Whether a kernel alone reads what it follows and is one that compilers then fuse with it."""
    first = np.cumsum([0, *(len(tokens) for tokens in networks)])
    edges = np.concatenate([t.edges + at for t, at in zip(networks, first, strict=False)])
    alone = np.bincount(edges[:, 0], minlength=len(slot))[edges[:, 0]] == 1
    reads = np.zeros(len(slot), bool)
    reads[edges[alone, 1]] = True
    return reads & np.isin(slot, [SLOT_OF_OPERATOR[name] for name in _FUSED_OPS])
