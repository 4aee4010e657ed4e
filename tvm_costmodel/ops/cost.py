"""Theoretical cost of one operator: arithmetic and bytes, from its attributes and types alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm_costmodel.ops.catalogue import CATALOGUE, OpSpec


class TensorLike(Protocol):
    """Properties of a tensor type that costs depend on (see `tvm_costmodel.graph.TensorType`)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents; negative where unknown until run time."""

    @property
    def elements(self) -> int:
        """Number of elements."""

    @property
    def bytes(self) -> int:
        """Bytes that it takes densely packed."""


class OperatorLike(Protocol):
    """Properties of an operator that its cost depends on (see `tvm_costmodel.graph.Operator`)."""

    @property
    def op(self) -> str:
        """Canonical name."""

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Canonical attributes."""

    @property
    def outputs(self) -> Sequence[TensorLike]:
        """Types of its results."""

    @property
    def weights(self) -> Sequence[TensorLike]:
        """Types of its constant operands."""


@dataclass(frozen=True, slots=True)
class OpCost:
    """Cost of one operator run alone.

    Attributes:
        flops: Floating-point operations; a multiply-accumulate counts as 2.
        macs: Multiply-accumulates of convolutions, matmuls and attention.
        read_bytes: Bytes of activations read; what a slice or a lookup does not touch is left out.
        weight_bytes: Bytes of constants read.
        written_bytes: Bytes of results.
    """

    flops: int = 0
    macs: int = 0
    read_bytes: int = 0
    weight_bytes: int = 0
    written_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All bytes moved."""
        return self.read_bytes + self.weight_bytes + self.written_bytes


def operator_cost(operator: OperatorLike, inputs: Sequence[TensorLike]) -> OpCost:
    """Cost of one operator.

    Args:
        operator: The operator.
        inputs: Types of the activations that it reads, in argument order.

    A dynamic dimension counts as 1. An operator unknown to the catalogue moves its bytes and does
    no arithmetic; inputs and views cost nothing.
    """
    spec = CATALOGUE.get(operator.op)
    if operator.op in ("input", "constant") or (spec is not None and spec.is_view):
        return OpCost()
    macs, flops = _arithmetic(spec, operator, inputs) if spec is not None else (0, 0)
    written = sum(t.bytes for t in operator.outputs)
    read = sum(t.bytes for t in inputs)
    weights = sum(t.bytes for t in operator.weights)
    if operator.op in _TOUCH_ONLY_RESULT:
        read, weights = _touched(operator, inputs, written)
    return OpCost(flops, macs, read, weights, written)


_TOUCH_ONLY_RESULT = frozenset(
    "take gather gather_nd index_tensor strided_slice dynamic_strided_slice split".split()
)


def _touched(operator: OperatorLike, inputs: Sequence[TensorLike], written: int) -> tuple[int, int]:
    """(activation, weight) bytes of a lookup: as much of its table as it returns, all indices."""
    positions = operator.attrs.get("weight_positions", ())
    table_is_weight = not inputs or (isinstance(positions, tuple) and 0 in positions)
    read, weights = list(inputs), list(operator.weights)
    operands = weights if table_is_weight else read
    if not operands:
        return 0, 0
    table = operands.pop(0)
    touched = min(table.bytes, written)
    read_bytes = sum(t.bytes for t in read) + (0 if table_is_weight else touched)
    return read_bytes, sum(t.bytes for t in weights) + (touched if table_is_weight else 0)


def _arithmetic(
    spec: OpSpec, operator: OperatorLike, inputs: Sequence[TensorLike]
) -> tuple[int, int]:
    """(macs, flops) of a catalogued operator."""
    out = operator.outputs[0].elements if operator.outputs else 0
    if spec.category in ("convolution", "matmul"):
        macs = _MACS.get(operator.op, _convolution_macs)(operator, inputs, out)
        return macs, 2 * macs
    if spec.category == "attention":
        return _attention(operator, inputs)
    if spec.category == "pooling":
        return 0, _pooling_flops(operator, inputs, out)
    if spec.category in ("reduction", "scan"):
        return 0, spec.flops_per_element * _largest(operator, inputs)
    if spec.category == "sorting":
        elements = _largest(operator, inputs)
        return 0, elements * max(1, math.ceil(math.log2(max(2, elements))))
    if operator.op == "all_class_non_max_suppression":
        return 0, _suppression_flops(operator, inputs)
    return 0, spec.flops_per_element * out


def _convolution_macs(operator: OperatorLike, inputs: Sequence[TensorLike], out: int) -> int:
    """Out elements x kernel x input channels per group; transposed, in x kernel x out."""
    attrs = operator.attrs
    window = math.prod(_ints(attrs.get("kernel", ())))
    groups = max(1, _int(attrs.get("groups", 1)))
    if operator.op.endswith("_transpose"):
        per_element = window * _int(attrs.get("out_channels", 1)) // groups
        return (inputs[0].elements if inputs else 0) * per_element
    return out * window * _int(attrs.get("in_channels", 1)) // groups


def _dense_macs(operator: OperatorLike, inputs: Sequence[TensorLike], out: int) -> int:
    return out * _int(operator.attrs.get("in_features", 1))


def _matmul_macs(operator: OperatorLike, inputs: Sequence[TensorLike], out: int) -> int:
    return out * _int(operator.attrs.get("k", 1))


def _outer_macs(operator: OperatorLike, inputs: Sequence[TensorLike], out: int) -> int:
    return out


def _einsum_macs(operator: OperatorLike, inputs: Sequence[TensorLike], out: int) -> int:
    """Product of the extents of all index letters, as a direct loop nest would run."""
    subscripts = str(operator.attrs.get("subscripts", "")).replace(" ", "").split("->")[0]
    operands = [*inputs, *operator.weights]
    if "." in subscripts or len(subscripts.split(",")) != len(operands):
        return out
    extents: dict[str, int] = {}
    for letters, operand in zip(subscripts.split(","), operands, strict=True):
        extents.update(zip(letters, map(abs, operand.shape), strict=False))
    return math.prod(extents.values())


_MACS: dict[str, Callable[[OperatorLike, Sequence[TensorLike], int], int]] = {
    "dense": _dense_macs,
    "matmul": _matmul_macs,
    "outer": _outer_macs,
    "einsum": _einsum_macs,
}


def _attention(operator: OperatorLike, inputs: Sequence[TensorLike]) -> tuple[int, int]:
    """Query [B, Sq, H, D], key [B, Sk, H, D], value [B, Sk, H, Dv]: QK', softmax, PV."""
    operands = [*inputs, *operator.weights]
    if len(operands) < 3 or any(len(t.shape) != 4 for t in operands[:3]):
        return 0, 0
    batch, queries, heads, depth = map(abs, operands[0].shape)
    keys, value_depth = abs(operands[1].shape[1]), abs(operands[2].shape[3])
    scores = batch * heads * queries * keys
    macs = scores * (depth + value_depth)
    softmax = CATALOGUE["softmax"].flops_per_element
    return macs, 2 * macs + softmax * scores


def _pooling_flops(operator: OperatorLike, inputs: Sequence[TensorLike], out: int) -> int:
    """One operation per element of each window; adaptive windows tile their input."""
    if operator.op.startswith("adaptive"):
        return _largest(operator, inputs)
    return out * math.prod(_ints(operator.attrs.get("kernel", ())))


def _suppression_flops(operator: OperatorLike, inputs: Sequence[TensorLike]) -> int:
    """Boxes [B, N, 4], scores [B, C, N]: a sort, and each box compared with those that stay.

    How many stay is known at run time alone: at most `_KEPT_BOXES` of a class are taken.
    """
    operands = [*inputs, *operator.weights]
    if len(operands) < 2 or len(operands[1].shape) != 3:
        return 0
    batch, classes, boxes = map(abs, operands[1].shape)
    ranking = math.ceil(math.log2(max(2, boxes)))
    return batch * classes * boxes * (ranking + _OVERLAP_FLOPS * min(boxes, _KEPT_BOXES))


_KEPT_BOXES = 64
_OVERLAP_FLOPS = 16 * 128
"""Intersection, union and their ratio, one pair at a time: about 100 ns, measured."""


def _largest(operator: OperatorLike, inputs: Sequence[TensorLike]) -> int:
    return max((t.elements for t in (*inputs, *operator.weights)), default=0)


def _ints(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else ()


def _int(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 1
