"""Features of an annotated network: totals over its kernels, as fusion and decisions form them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.kernel_features import DECISION_FEATURES, KERNEL_FEATURES
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.operator_features import CATEGORY_OF_SLOT
from tvm_costmodel.tokenizer.relay_kernel_features import RELAY_MARKS, RelayKernelTokenizer

_ALGORITHMS = ("direct", *(name for name in DECISION_FEATURES if name.startswith("algorithm ")))
_SUMMED = ("products", "tiles", "transformed", "stored weights")
_AMOUNT = 4.0  # tokens hold amounts as log1p / 4
_WEIGHTED = ("accumulators", "vectors", "outer loop channels", "outer loop pixels", "half weights")
_CATEGORIES = sorted(set(CATEGORY_OF_SLOT))

KERNEL_FEATURE_NAMES: tuple[str, ...] = (
    "decided gmacs",
    "gbytes of kernels",
    "kernels",
    *(f"{name}: {what}" for name in _ALGORITHMS for what in ("kernels", "gmacs", "gbytes")),
    *(f"share of products, {name}" for name in _ALGORITHMS),
    *(f"log {what}" for what in _SUMMED),
    *(f"products by {name}" for name in _WEIGHTED),
    *(f"category {c}: {what}" for c in _CATEGORIES for what in ("kernels", "gbytes")),
    "operators a kernel",
)
"""Names of the columns of `kernel_features`. Checkpoints may hold them; ``products`` are
multiply-accumulates, and ``decided`` ones those of the chosen algorithms."""


def kernel_features(graphs: Sequence[OpGraph]) -> np.ndarray:
    """Features of annotated networks, float64 [G, len(KERNEL_FEATURE_NAMES)]."""
    return np.array([_features(graph) for graph in graphs]).reshape(-1, len(KERNEL_FEATURE_NAMES))


def _features(graph: OpGraph) -> list[float]:
    tokens = KernelTokenizer().encode(graph)
    work = tokens.work.astype(np.float64)
    column = {name: tokens.numbers[:, i].astype(float) for i, name in enumerate(KERNEL_FEATURES)}
    chosen = np.stack([column[name] for name in _ALGORITHMS[1:]], axis=1)
    shares = np.concatenate([1 - chosen.sum(axis=1, keepdims=True), chosen], axis=1)  # [N, 4]
    sums = shares.T @ np.stack([np.ones(len(work)), work[:, 0], work[:, 1]], axis=1)
    gmacs = max(work[:, 0].sum(), 1e-12)
    amounts = [np.expm1(_AMOUNT * column[name]).sum() for name in _SUMMED]
    category = np.array(CATEGORY_OF_SLOT)[tokens.slot]
    by_category = [
        value
        for c in _CATEGORIES
        for value in ((category == c).sum(), work[category == c, 1].sum())
    ]
    return [
        *work.sum(axis=0),
        *sums.reshape(-1),
        *(sums[:, 1] / gmacs),
        *np.log1p(amounts),
        *((column[name] * work[:, 0]).sum() / gmacs for name in _WEIGHTED),
        *by_category,
        len(graph) / len(work),
    ]


_PARTS = ("kernels", "gmacs", "gbytes")


RELAY_FEATURE_NAMES: tuple[str, ...] = tuple(
    f"{mark}: share of {what}" for what in _PARTS for mark in RELAY_MARKS
)
"""Names of the columns of `relay_features`."""


def relay_features(graphs: Sequence[OpGraph]) -> np.ndarray:
    """Share of each network's kernels that has each mark, float64 [G, len(RELAY_FEATURE_NAMES)]."""
    return np.array([_relay_features(graph) for graph in graphs]).reshape(
        -1, len(RELAY_FEATURE_NAMES)
    )


def _relay_features(graph: OpGraph) -> np.ndarray:
    tokens = RelayKernelTokenizer().encode(graph)
    marks = tokens.numbers[:, len(KERNEL_FEATURES) :].astype(np.float64)  # [N, marks]
    amounts = np.stack([np.ones(len(marks)), *tokens.work[:, :2].T.astype(np.float64)])  # [3, N]
    shares = amounts @ marks / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(shares.reshape(-1))
