"""Relax's attributes and literal arguments -> the catalogue's canonical attributes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm_costmodel.graph.types import TensorType
from tvm_costmodel.ops import CATALOGUE

_ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "clip": {"arg1": "min", "arg2": "max"},
    "strided_slice": {"arg1": "axes", "arg2": "begin", "arg3": "end", "arg4": "strides"},
    "slice_scatter": {"arg2": "begin", "arg3": "end", "arg4": "strides"},
    "tril": {"arg1": "k"},
    "triu": {"arg1": "k"},
    "affine_grid": {"arg1": "size"},
    "unique": {"arg5": "axis"},
    "call_tir": {"arg0": "callee"},
    "call_tir_inplace": {"arg0": "callee"},
    "call_dps_packed": {"arg0": "callee"},
    "call_pure_packed": {"arg0": "callee"},
    "call_inplace_packed": {"arg0": "callee"},
}
"""Non-tensor arguments, which Relax passes by position."""

_RENAMED = {
    "pool_size": "kernel",
    "num_groups": "groups",
    "indices_or_sections": "sections",
    "pad_mode": "mode",
}
_OUT_DTYPE_IS_DTYPE = frozenset(("quantize", "dequantize"))
_REALS = frozenset(("min", "max", "alpha", "beta", "epsilon", "pad_value", "threshold"))
"""Attributes that are real numbers, even where a source writes an integer."""

_AXIS_KEYS = frozenset(("axis", "axes", "channel_axis"))


def canonical_attributes(
    op: str,
    raw: Mapping[str, Any],
    operands: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> dict[str, Any]:
    """Canonical attributes of one operator.

    Args:
        op: Canonical name, or the source's for an operator that the catalogue lacks; that one
            keeps its attributes as they came.
        raw: Attributes by Relax's names, literal arguments as ``arg0``, ``arg1``, ...
        operands: Types of all tensor arguments, weights included, in argument order.
        outputs: Types of its results.
    """
    spec = CATALOGUE.get(op)
    arguments = _ARGUMENTS.get(op, {})
    if spec is None:
        return {arguments.get(key, key): v for key, v in raw.items() if v is not None}
    named = {arguments.get(key) or _RENAMED.get(key, key): v for key, v in raw.items()}
    rank = len(operands[0].shape) if operands else 0
    if "axes" in spec.attrs and "axis" in named:
        named["axes"] = _axes(named.pop("axis"), rank, reduces=spec.category == "reduction")
    if named.get("axes") is None and op in _DEFAULT_AXES and operands:
        named["axes"] = _DEFAULT_AXES[op](operands[0])
    if op in _OUT_DTYPE_IS_DTYPE:
        named["dtype"] = named.get("out_dtype")
    derive = _DERIVED.get(op) or _DERIVED.get(spec.category)
    if derive is not None:
        derive(named, operands, outputs)
    rank = _axis_rank(op, rank, outputs)
    return {
        key: _canonical_value(key, named[key], rank)
        for key in spec.attrs
        if named.get(key) is not None
    }


def _axis_rank(op: str, rank: int, outputs: Sequence[TensorType]) -> int:
    """Rank that negative axes count from: the result's where the operator adds dimensions."""
    return len(outputs[0].shape) if op in ("expand_dims", "stack", "one_hot") and outputs else rank


_DEFAULT_AXES: Mapping[str, Callable[[TensorType], tuple[int, ...]]] = {
    "transpose": lambda operand: tuple(reversed(range(len(operand.shape)))),
    "squeeze": lambda operand: tuple(i for i, n in enumerate(operand.shape) if n == 1),
}
"""Axes of operators that leave them out; reductions then reduce all axes."""


def _axes(axis: Any, rank: int, reduces: bool) -> tuple[int, ...] | None:
    if axis is None:
        return tuple(range(rank)) if reduces else None
    return axis if isinstance(axis, tuple) else (axis,)


def _positive(axis: Any, rank: int) -> Any:
    if isinstance(axis, tuple):
        return tuple(_positive(item, rank) for item in axis)
    return axis + rank if isinstance(axis, int) and axis < 0 else axis


def _canonical_value(key: str, value: Any, rank: int) -> Any:
    """Axes counted from the front; floats to six places: 1e-5 may come as 1.0000000657e-05."""
    if key in _AXIS_KEYS:
        return _positive(value, rank)
    if isinstance(value, float) or (key in _REALS and isinstance(value, int)):
        return float(f"{value:.6g}")
    return value


def _convolution(
    attrs: dict[str, Any], operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    kernel_layout, layout = str(attrs["kernel_layout"]), str(attrs["data_layout"])
    out_layout = str(attrs.get("out_layout") or layout)
    spatial = len(attrs["strides"])
    letters = "DHW"[-spatial:]
    weight = _extents(kernel_layout, operands[1])
    attrs["kernel"] = tuple(weight.get(letter, 1) for letter in letters)
    attrs["in_channels"] = _extents(layout, operands[0]).get("C", 1)
    attrs["out_channels"] = _extents(out_layout, outputs[0]).get("C", 1)
    attrs["out_dtype"] = outputs[0].dtype
    attrs["padding"] = _both_sides(attrs["padding"], spatial)


def _pooling(
    attrs: dict[str, Any], operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    if "padding" in attrs and "kernel" in attrs:
        attrs["padding"] = _both_sides(attrs["padding"], len(attrs["kernel"]))
    if attrs.get("output_size") is None:
        extents = _extents(str(attrs.get("layout")), outputs[0])
        attrs["output_size"] = tuple(extents[letter] for letter in "DHW" if letter in extents)


def _dense(
    attrs: dict[str, Any], operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    attrs["in_features"], attrs["out_features"] = operands[1].shape
    attrs["out_dtype"] = outputs[0].dtype


def _matmul(
    attrs: dict[str, Any], operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    shape = operands[0].shape
    attrs["k"] = shape[-1] if shape else 1
    attrs["out_dtype"] = outputs[0].dtype


def _clip(
    attrs: dict[str, Any], operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    """Bounds as floats: importers write the same bound as an integer or as a float."""
    for bound in ("min", "max"):
        if isinstance(attrs.get(bound), int):
            attrs[bound] = float(attrs[bound])


_DERIVED: Mapping[
    str, Callable[[dict[str, Any], Sequence[TensorType], Sequence[TensorType]], None]
] = {
    "clip": _clip,
    "convolution": _convolution,
    "pooling": _pooling,
    "dense": _dense,
    "matmul": _matmul,
}
"""By operator or by category."""


def _extents(layout: str, type_: TensorType) -> dict[str, int]:
    """Extent of each axis of a layout; ``NCHW4c`` splits C over two dimensions."""
    extents: dict[str, int] = {}
    for letter, extent in zip(re.findall(r"[A-Za-z]", layout), type_.shape, strict=False):
        axis = letter.upper()
        dynamic = extent < 0 or extents.get(axis, 1) < 0
        extents[axis] = -1 if dynamic else extents.get(axis, 1) * extent
    return extents


def _both_sides(padding: Any, spatial: int) -> tuple[int, ...]:
    """(before..., after...) of each spatial axis from Relax's one, ``spatial`` or twice as many."""
    sides: tuple[int, ...] = padding if isinstance(padding, tuple) else (padding,)
    if len(sides) == 1:
        return sides * (2 * spatial)
    return sides * 2 if len(sides) == spatial else sides
