"""Numbers of a kernel's token: names, version, and those that tuning decisions change.

An annotated graph marks with ``fused`` which activations an operator reads from within its own
kernel, so that a kernel's token holds what crosses its boundary: bytes that really move, not those
of every operator in it. Behind the physical quantities of the kernel in the default build follow
those that decisions change: the algorithm with its multiply-accumulates and tiles, the register
tile, the type of the weights. Neighbours see only the first part (`roofline_former.CONTEXT`), so a
decision about a kernel changes its own cost and nothing else, and a search estimates the cost of
each decision once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tvm_costmodel.graph.types import Operator
from tvm_costmodel.ops import OpCost
from tvm_costmodel.tokenizer.operator_features import (
    FEATURES,
    log_amount,
)

KERNEL_VERSION = 1
"""Raised whenever the same graph would give other tokens."""

_ALGORITHMS = ("im2col", "winograd2", "winograd4")
_ORDERS = ("channels", "pixels")

DECISION_FEATURES: tuple[str, ...] = (
    *("fused elementwise", "fused other", "operators", "reads", "channels last"),
    *(f"algorithm {name}" for name in _ALGORITHMS),
    *("products", "tiles", "tile share", "transformed", "stored weights"),
    *("accumulators", "vectors", *(f"outer loop {name}" for name in _ORDERS), "half weights"),
)
"""Numbers that follow `FEATURES` in a token: five of the fused kernel, then those of its decisions.
Checkpoints hold these names; ``products`` are the multiply-accumulates of the chosen algorithm, and
``half weights`` are weights in float16."""

KERNEL_FEATURES: tuple[str, ...] = (*FEATURES, *DECISION_FEATURES)
"""Names of the numbers of a kernel's token."""


def float16_savings(operator: Operator) -> int:
    """Bytes that the weights of a float32 operator save where they are stored in float16."""
    if not operator.outputs or operator.outputs[0].dtype != "float32":
        return 0
    return sum(t.bytes for t in operator.weights if t.dtype == "float16")


def decision_numbers(operator: Operator, cost: OpCost) -> tuple[list[float], float, float]:
    """Numbers that follow from the decisions about a kernel.

    Args:
        operator: The kernel's anchor, with its algorithm, tile and weights as decided.
        cost: What crosses the kernel's boundary in the default build.

    Returns:
        The last of `DECISION_FEATURES`, from the algorithm on, the kernel's multiply-accumulates,
        and the bytes of its stored weights.
    """
    attrs = operator.attrs
    algorithm = str(attrs.get("algorithm", "direct"))
    saved = float16_savings(operator)
    macs, weights = float(cost.macs), float(cost.weight_bytes - saved)
    tiles = share = transformed = 0.0
    if algorithm.startswith("winograd"):
        edge = int(algorithm.removeprefix("winograd"))
        kernel = int(_number(_first(attrs.get("kernel"))))
        layout = str(attrs.get("data_layout", "NCHW"))
        shape = operator.outputs[0].shape
        height, width = shape[layout.index("H")], shape[layout.index("W")]
        count = math.ceil(height / edge) * math.ceil(width / edge) * shape[0]
        square = (edge + kernel - 1) ** 2
        inside, channels = _count(attrs, "in_channels"), _count(attrs, "out_channels")
        tiles = count
        share = height * width * shape[0] / (count * edge**2)
        transformed = count * square * (inside + channels)
        macs = macs * (count * square) / (height * width * shape[0] * kernel**2)
        weights *= square / kernel**2
    elif algorithm == "im2col" and cost.macs:
        transformed = operator.outputs[0].elements / _count(attrs, "out_channels")
        transformed *= cost.macs / max(1, operator.outputs[0].elements)
    tile = attrs.get("tile", (0, 0, "auto"))
    accumulators, vectors, order = tile if isinstance(tile, tuple) else (0, 0, "auto")
    numbers = [
        *(float(algorithm == name) for name in _ALGORITHMS),
        log_amount(macs),
        log_amount(tiles),
        share,
        log_amount(transformed),
        log_amount(weights),
        _number(accumulators) / 28,
        _number(vectors) / 4,
        *(float(order == name) for name in _ORDERS),
        float(saved > 0),
    ]
    return numbers, macs, weights


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple) and value else 1


def _count(attrs: Mapping[str, Any], name: str) -> int:
    value = attrs.get(name, 1)
    return value if isinstance(value, int) else 1
