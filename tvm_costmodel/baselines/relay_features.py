"""Features of the kernels of networks that Relay compiles: what its options concern."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.graph import OpGraph
from tvm_costmodel.tokenizer.kernels import KERNEL_FEATURES
from tvm_costmodel.tokenizer.relay_kernels import RELAY_MARKS, RelayKernelTokenizer

_PARTS = ("kernels", "gmacs", "gbytes")

RELAY_FEATURE_NAMES: tuple[str, ...] = tuple(
    f"{mark}: share of {what}" for what in _PARTS for mark in RELAY_MARKS
)
"""Names of the columns of `relay_features`."""


def relay_features(graphs: Sequence[OpGraph]) -> np.ndarray:
    """Shares of annotated networks that each mark is on, float64 [G, len(RELAY_FEATURE_NAMES)]."""
    return np.array([_features(graph) for graph in graphs]).reshape(-1, len(RELAY_FEATURE_NAMES))


def _features(graph: OpGraph) -> np.ndarray:
    tokens = RelayKernelTokenizer().encode(graph)
    marks = tokens.numbers[:, len(KERNEL_FEATURES) :].astype(np.float64)  # [N, marks]
    amounts = np.stack([np.ones(len(marks)), *tokens.work[:, :2].T.astype(np.float64)])  # [3, N]
    shares = amounts @ marks / np.maximum(amounts.sum(axis=1, keepdims=True), 1e-12)
    return np.asarray(shares.reshape(-1))
