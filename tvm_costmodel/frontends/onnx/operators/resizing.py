"""Resize and Upsample: samples along one axis after the other, by constant indices and weights.

TVM resizes by the ratio of the sizes, over height and width alone, and knows no antialiasing. Where
that gives what ONNX asks for, the operator stays. Every other form is a sum over few taps along
each axis, ``y[i] = sum over t of weight[i, t] * x[index[i, t]]``, as ONNX defines Resize: one tap
for ``nearest``, 2 for ``linear``, 4 for ``cubic``, more where downsampling is antialiased.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from tvm_costmodel.frontends.onnx.operators.editor import (
    GraphEditor,
    NodeWriter,
    Shape,
    attributes_of,
    operand,
    with_attributes,
)

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_COORDINATES = (
    *("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners"),
    *("asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"),
)
_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
    "floor": np.floor,
    "ceil": np.ceil,
}
_BEFORE_11 = "before 11"
"""Rounding of operator set 10: downwards, and upwards where the image becomes smaller."""
_MOST_TAPS = 64


@dataclass(frozen=True)
class Axis:
    """Resizing along one axis.

    Attributes:
        axis: Which.
        extent: Its length before.
        target: Its length after.
        scale: Factor as the file gives it, or the ratio of the lengths.
        start: Where the region begins, for ``tf_crop_and_resize``, from 0 to 1.
        end: Where it ends.
    """

    axis: int
    extent: int
    target: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def rewrite_resize(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Resize of every operator set, and Upsample, where TVM would compute something else."""
    attrs = attributes_of(node)
    axes = _axes(node, graph, attrs)
    mode = attrs.get("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    coordinates = attrs.get("coordinate_transformation_mode", "half_pixel")
    if _is_old(node, graph):
        coordinates = "asymmetric"
        attrs |= {"nearest_mode": _BEFORE_11, "coordinate_transformation_mode": coordinates}
    if mode not in ("nearest", "linear", "cubic") or coordinates not in _COORDINATES:
        graph.refuse(node, f"{mode} by {coordinates}", "use nearest, linear or cubic")
    if graph.elem_type(node.input[0]) not in _FLOATS and mode != "nearest":
        graph.refuse(node, f"{mode} of integers", "cast its operand to float32")
    if _tvm_agrees(node, graph, attrs, mode, axes):
        return _plain(node, axes, graph, attrs)
    _refuse_ambiguous(node, graph, attrs, axes)
    write = NodeWriter(graph, node)
    value = node.input[0]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(graph.elem_type(node.input[0]) or 1)
    rank = len(graph.shape(node.input[0]) or ())
    for axis in axes:
        value = _sample(write, value, axis, mode, attrs, dtype, rank)
        if coordinates == "tf_crop_and_resize":
            value = _extrapolate(write, value, axis, attrs, dtype, rank)
    return write.finish(value)


def _is_old(node: onnx.NodeProto, graph: GraphEditor) -> bool:
    return node.op_type == "Upsample" or graph.opset < 11


def _axes(node: onnx.NodeProto, graph: GraphEditor, attrs: dict[str, Any]) -> list[Axis]:
    """What happens along each axis whose samples move."""
    shape = graph.shape(node.input[0])
    if shape is None:
        graph.refuse(node, "its operand's shape is unknown", "fix the model's input shapes")
    if _is_old(node, graph):
        names = {"roi": "", "scales": operand(node, 1), "sizes": ""}
    else:
        names = {key: operand(node, i + 1) for i, key in enumerate(("roi", "scales", "sizes"))}
    given: dict[str, np.ndarray | None] = {}
    for key, name in names.items():
        given[key] = graph.constant(name) if name else None
        if name and given[key] is None and (key != "roi" or _crops(attrs)):
            graph.refuse(node, f"its {key} are computed at run time", "export them as constants")
        values = given[key]
        if values is not None and not values.size:
            given[key] = None
    if given["scales"] is None and "scales" in attrs:
        given["scales"] = np.asarray(attrs["scales"], np.float32)
    rank = len(shape)
    chosen = [int(axis) % rank for axis in attrs.get("axes", range(rank))]
    scales, targets = _scales_and_targets(node, graph, attrs, given, [shape[a] for a in chosen])
    roi = (
        given["roi"]
        if _crops(attrs) and given["roi"] is not None
        else [0.0] * len(chosen) + [1.0] * len(chosen)
    )
    moved = []
    for i, axis in enumerate(chosen):
        start, end = float(roi[i]), float(roi[i + len(chosen)])
        if targets[i] != shape[axis] or scales[i] != 1 or (start, end) != (0.0, 1.0):
            moved.append(Axis(axis, shape[axis], targets[i], scales[i], start, end))
    return sorted(moved, key=lambda entry: entry.axis)


def _crops(attrs: dict[str, Any]) -> bool:
    return attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"


def _scales_and_targets(
    node: onnx.NodeProto,
    graph: GraphEditor,
    attrs: dict[str, Any],
    given: dict[str, np.ndarray | None],
    extents: list[int],
) -> tuple[list[float], list[int]]:
    scales, sizes = given["scales"], given["sizes"]
    count = len(extents)
    if (scales is None) == (sizes is None):
        graph.refuse(node, "it needs either scales or sizes", "give it one of them")
    values = scales if scales is not None else sizes
    if values is None or len(values) != count or min(extents) < 1:
        length = 0 if values is None else values.size
        graph.refuse(node, f"{length} values for {count} axes", "give one for each axis")
    factors: np.ndarray
    if scales is not None:
        factors = scales.astype(np.float32)
        targets = [int(np.floor(np.float32(e) * s)) for e, s in zip(extents, factors, strict=True)]
    else:
        ratios = np.asarray(values, np.float32) / np.asarray(extents, np.float32)
        policy = attrs.get("keep_aspect_ratio_policy", "stretch")
        if policy == "stretch":
            factors, targets = ratios, [int(size) for size in values]
        else:
            factor = ratios.min() if policy == "not_larger" else ratios.max()
            factors = np.full(count, factor, np.float32)
            targets = [int(np.floor(np.float32(e) * factor + np.float32(0.5))) for e in extents]
    if min(targets) < 1 or float(min(factors)) <= 0:
        graph.refuse(node, f"an output of extents {targets}", "scale to at least one sample")
    return [float(factor) for factor in factors], targets


def _tvm_agrees(
    node: onnx.NodeProto, graph: GraphEditor, attrs: dict[str, Any], mode: str, axes: list[Axis]
) -> bool:
    """Whether TVM computes this form as ONNX defines it."""
    coordinates = attrs.get("coordinate_transformation_mode", "half_pixel")
    shape: Shape = graph.shape(node.input[0]) or ()
    exact = all(axis.target == axis.extent * axis.scale for axis in axes)
    if len(shape) != 4 or not axes or min(axis.axis for axis in axes) < 2 or not exact:
        return False
    if attrs.get("antialias") and min(axis.scale for axis in axes) < 1:
        return False
    if mode == "nearest":
        whole = all(axis.scale == int(axis.scale) for axis in axes)
        rounding = attrs.get("nearest_mode", "round_prefer_floor")
        return whole and (coordinates, rounding) in (
            ("asymmetric", "floor"),
            ("asymmetric", _BEFORE_11),
            ("half_pixel", "round_prefer_floor"),
        )
    if min(axis.target for axis in axes) < 2 or attrs.get("exclude_outside"):
        return False
    return coordinates in ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


def _plain(
    node: onnx.NodeProto, axes: list[Axis], graph: GraphEditor, attrs: dict[str, Any]
) -> list[onnx.NodeProto] | None:
    """The node with sizes for all axes, as TVM's importer reads it; None where it is so."""
    extras = ("antialias", "axes", "keep_aspect_ratio_policy")
    if _is_old(node, graph) or not any(key in attrs for key in extras):
        return None
    sizes = list(graph.shape(node.input[0]) or ())
    for axis in axes:
        sizes[axis.axis] = axis.target
    plain = with_attributes(node, drop=extras)
    name = graph.add_constant(np.asarray(sizes, np.int64), f"{node.output[0]}/sizes")
    del plain.input[1:]
    plain.input.extend(["", "", name])
    return [plain]


def _refuse_ambiguous(
    node: onnx.NodeProto, graph: GraphEditor, attrs: dict[str, Any], axes: list[Axis]
) -> None:
    """Refuses forms that onnxruntime and ONNX's reference compute differently."""
    coordinates = attrs.get("coordinate_transformation_mode", "half_pixel")
    if coordinates == "align_corners" and any(_leaves_fraction(axis) for axis in axes):
        graph.refuse(
            node, "aligned corners at a scale that leaves a fraction", "export it with sizes"
        )
    if coordinates == "tf_crop_and_resize" and any(axis.scale == 1 for axis in axes):
        graph.refuse(node, "a crop along an axis that is not scaled", "slice before it")
    if attrs.get("antialias") and coordinates in ("asymmetric", "tf_crop_and_resize"):
        graph.refuse(node, f"antialias by {coordinates}", "export it with half_pixel")


def _leaves_fraction(axis: Axis) -> bool:
    return abs(axis.extent * axis.scale - axis.target) > 1e-4 * axis.target


def _positions(axis: Axis, coordinates: str) -> np.ndarray:
    """Where each output sample lies among the input's, in float32 as runtimes compute it."""
    i = np.arange(axis.target, dtype=np.float32)
    scale, half = np.float32(axis.scale), np.float32(0.5)
    length, last = np.float32(axis.extent - 1), np.float32(max(axis.target - 1, 1))
    at: np.ndarray = (i + half) / scale - half
    if coordinates == "align_corners":
        at = i * length / last
    elif coordinates == "asymmetric":
        at = i / scale
    elif coordinates == "tf_half_pixel_for_nn":
        at = (i + half) / scale
    elif coordinates == "tf_crop_and_resize" and axis.target == 1:
        at = np.array([0.5 * (axis.start + axis.end) * (axis.extent - 1)], np.float32)
    elif coordinates == "tf_crop_and_resize":
        width = np.float32(axis.end - axis.start)
        at = np.float32(axis.start) * length + i * width * length / last
    elif coordinates == "pytorch_half_pixel" and axis.target == 1:
        at = np.zeros(1, np.float32)
    elif coordinates == "half_pixel_symmetric":
        adjusted = np.float32(axis.target) / (scale * np.float32(axis.extent))
        offset = np.float32(axis.extent / 2) * (np.float32(1) - adjusted)
        at = offset + (i + half) / scale - half
    return at


def taps(axis: Axis, mode: str, attrs: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Input samples and their weights for each output sample, both ``[target, taps]``.

    Args:
        axis: What happens along the axis.
        mode: ``nearest``, ``linear`` or ``cubic``.
        attrs: Attributes of ONNX's Resize.
    """
    x = _positions(axis, attrs.get("coordinate_transformation_mode", "half_pixel"))
    if mode == "nearest":
        rounding = attrs.get("nearest_mode", "round_prefer_floor")
        if rounding == _BEFORE_11:
            rounding = "floor" if axis.scale >= 1 else "ceil"
        index = _NEAREST[rounding](x)
        return np.clip(index, 0, axis.extent - 1).astype(np.int64)[:, None], np.ones((len(x), 1))
    antialias = bool(attrs.get("antialias")) and axis.scale < 1
    stretch = axis.scale if antialias else 1.0
    reach = 1 if mode == "linear" else 2
    base = np.floor(x)
    first = int(np.floor(-reach / stretch)) + 1
    points = base[:, None] + np.arange(first, 2 - first)
    distance = np.abs(points.astype(np.float64) - x[:, None]) * stretch
    weight = _kernel(distance, mode, float(attrs.get("cubic_coeff_a", -0.75)))
    if attrs.get("exclude_outside"):
        weight = np.where((points < 0) | (points > axis.extent - 1), 0.0, weight)
    if antialias or attrs.get("exclude_outside"):
        total = weight.sum(axis=1, keepdims=True)
        weight = weight / np.where(total == 0, 1, total)
    return np.clip(points, 0, axis.extent - 1).astype(np.int64), weight


def _kernel(distance: np.ndarray, mode: str, a: float) -> np.ndarray:
    """Weight of a sample by its distance: a triangle, or Keys' cubic (1981)."""
    d = distance
    if mode == "linear":
        return np.where(d <= 1, 1 - d, 0.0)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _sample(
    write: NodeWriter,
    value: str,
    axis: Axis,
    mode: str,
    attrs: dict[str, Any],
    dtype: Any,
    rank: int,
) -> str:
    index, weight = taps(axis, mode, attrs)
    if index.shape[1] > _MOST_TAPS:
        return _matrix(write, value, axis, index, weight, dtype, rank)
    broadcast = [-1 if i == axis.axis else 1 for i in range(rank)]
    total = ""
    for tap in range(index.shape[1]):
        if not np.any(weight[:, tap]):
            continue
        part = write.add("Gather", [value, write.constant(index[:, tap])], axis=axis.axis)
        if not np.all(weight[:, tap] == 1):
            factor = write.constant(weight[:, tap].reshape(broadcast), dtype)
            part = write.add("Mul", [part, factor])
        total = write.add("Add", [total, part]) if total else part
    return total


def _matrix(
    write: NodeWriter,
    value: str,
    axis: Axis,
    index: np.ndarray,
    weight: np.ndarray,
    dtype: Any,
    rank: int,
) -> str:
    """Sampling with many taps as a product with a matrix, the axis being made the last."""
    matrix = np.zeros((axis.extent, axis.target))
    np.add.at(matrix, (index, np.arange(axis.target)[:, None]), weight)
    order = [i for i in range(rank) if i != axis.axis] + [axis.axis]
    last = write.add("Transpose", [value], perm=order)
    sampled = write.add("MatMul", [last, write.constant(matrix, dtype)])
    return write.add("Transpose", [sampled], perm=[int(i) for i in np.argsort(order)])


def _extrapolate(
    write: NodeWriter, value: str, axis: Axis, attrs: dict[str, Any], dtype: Any, rank: int
) -> str:
    """Replaces the samples that lie outside of the image."""
    x = _positions(axis, "tf_crop_and_resize")
    outside = (x < 0) | (x > axis.extent - 1)
    if not outside.any():
        return value
    shape = [-1 if i == axis.axis else 1 for i in range(rank)]
    filler = write.constant(attrs.get("extrapolation_value", 0.0), dtype)
    return write.add("Where", [write.constant(outside.reshape(shape)), filler, value])
