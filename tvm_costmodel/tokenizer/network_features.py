"""Physical features of a whole network, for regressors that read one fixed-length vector."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.ops import CATALOGUE, CATEGORIES

FEATURES_VERSION = 1
"""Raised whenever the same graph would give other features."""

GROUPS = ("dense conv", "depthwise conv", "grouped conv", "pointwise conv", "unknown", *CATEGORIES)
"""Groups of operators that `group_of` distinguishes."""

_SUMS = ("count", "macs", "flops", "moved", "weights", "written")
_KERNELS = (1, 3, 5, 7)
_INTENSITIES = (1.0, 4.0, 16.0, 64.0)
_BALANCES = (4.0, 16.0, 64.0)  # FLOPs per byte above which a machine is compute bound

FEATURE_NAMES: tuple[str, ...] = (
    *(f"{group}: {total}" for group in GROUPS for total in _SUMS),
    *(f"{group}: share of {total}" for group in GROUPS for total in _SUMS),
    "log flops",
    "log bytes",
    "log weight bytes",
    "log macs",
    "log operators",
    "depth",
    "operators",
    "edges",
    "branches",
    "largest tensor",
    "largest weight",
    "mean log moved",
    "mean log macs",
    *(f"conv macs, kernel {k}" for k in (*_KERNELS, "other")),
    *(f"conv count, kernel {k}" for k in (*_KERNELS, "other")),
    "conv macs, stride 2 and more",
    "conv count, stride 2 and more",
    *(f"conv macs, below {i} per output channel group" for i in _INTENSITIES),
    *(f"log roofline at {balance} FLOPs per byte" for balance in _BALANCES),
    "batch",
    "input elements",
    "conv macs, out channels not a multiple of 16",
    "conv macs, pixels below 64",
)


def features(graphs: Sequence[OpGraph]) -> np.ndarray:
    """Features of networks, float64 [G, len(FEATURE_NAMES)]."""
    return np.array([_features(graph) for graph in graphs]).reshape(-1, len(FEATURE_NAMES))


def group_of(graph: OpGraph, i: int) -> str:
    """Group whose sums an operator adds to: its category, convolutions by kind."""
    operator = graph.operators[i]
    spec = CATALOGUE.get(operator.op)
    if spec is None:
        return "unknown"
    if spec.category != "convolution":
        return spec.category
    groups, inputs = (
        _number(operator.attrs.get("groups")),
        _number(operator.attrs.get("in_channels")),
    )
    if groups > 1:
        return "depthwise conv" if groups == inputs else "grouped conv"
    return "pointwise conv" if _first(operator.attrs.get("kernel")) == 1 else "dense conv"


def _features(graph: OpGraph) -> list[float]:
    costs = graph.costs
    moved = np.array([cost.bytes for cost in costs], float)
    flops = np.array([cost.flops for cost in costs], float)
    macs = np.array([cost.macs for cost in costs], float)
    sums = np.zeros((len(GROUPS), len(_SUMS)))
    for i, cost in enumerate(costs):
        row = (1, cost.macs, cost.flops, cost.bytes, cost.weight_bytes, cost.written_bytes)
        sums[GROUPS.index(group_of(graph, i))] += row
    totals = [flops.sum(), moved.sum(), graph.weight_bytes, macs.sum(), len(graph)]
    extents = [t.elements for op in graph.operators for t in op.outputs]
    weights = [t.elements for op in graph.operators for t in op.weights]
    inputs = [graph.operators[i].outputs[0] for i in graph.inputs]
    readers = np.bincount(graph.edges[:, 0], minlength=len(graph))
    return [
        *sums.reshape(-1),
        *(sums / np.maximum(1.0, sums.sum(axis=0))).reshape(-1),
        *np.log1p(totals),
        _depth(graph),
        len(graph),
        len(graph.edges),
        float((readers > 1).sum()),
        max(extents, default=0),
        max(weights, default=0),
        np.log1p(moved).mean(),
        np.log1p(macs).mean(),
        *_convolutions(graph, macs),
        *(float(np.log1p(np.maximum(flops, b * moved).sum())) for b in _BALANCES),
        inputs[0].shape[0] if inputs and inputs[0].shape else 1,
        sum(t.elements for t in inputs),
        *_awkward(graph, macs),
    ]


def _depth(graph: OpGraph) -> int:
    """Operators on the longest path."""
    depth = [0] * len(graph)
    for i, operator in enumerate(graph.operators):
        depth[i] = 1 + max((depth[src] for src, _ in operator.inputs), default=0)
    return max(depth, default=0)


def _convolutions(graph: OpGraph, macs: np.ndarray) -> list[float]:
    by_kernel = np.zeros((2, len(_KERNELS) + 1))
    strided = np.zeros(2)
    by_intensity = np.zeros(len(_INTENSITIES))
    for i, operator in enumerate(graph.operators):
        if not operator.op.startswith("conv"):
            continue
        kernel = _first(operator.attrs.get("kernel"))
        column = _KERNELS.index(int(kernel)) if kernel in _KERNELS else len(_KERNELS)
        by_kernel[:, column] += macs[i], 1
        if _first(operator.attrs.get("strides")) > 1:
            strided += macs[i], 1
        per_group = _number(operator.attrs.get("out_channels")) / _number(
            operator.attrs.get("groups")
        )
        by_intensity += [macs[i] if per_group < bound else 0.0 for bound in _INTENSITIES]
    return [*by_kernel.reshape(-1), *strided, *by_intensity]


def _awkward(graph: OpGraph, macs: np.ndarray) -> list[float]:
    """MACs of convolutions whose output does not fill vectors or has few pixels."""
    ragged = few = 0.0
    for i, operator in enumerate(graph.operators):
        if operator.op.startswith("conv") and operator.outputs:
            channels = _number(operator.attrs.get("out_channels"))
            pixels = operator.outputs[0].elements / channels
            ragged += macs[i] if channels % 16 else 0.0
            few += macs[i] if pixels < 64 else 0.0
    return [ragged, few]


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and value else 1.0


def _first(value: object) -> float:
    return _number(value[0]) if isinstance(value, tuple) and value else _number(value)
