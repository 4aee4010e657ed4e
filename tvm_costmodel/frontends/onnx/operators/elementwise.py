"""Element-wise operators: operands of mixed types, Dropout with its mask."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from tvm_costmodel.frontends.onnx.folding_limits import MAX_FOLDED_BYTES
from tvm_costmodel.frontends.onnx.operators.editor import (
    GraphEditor,
    NodeWriter,
    attributes_of,
    node_name,
    operand,
    with_attributes,
)

_ABOVE = "/above"
_WITHIN = "/within"


def rewrite_power(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Pow whose operands differ in type: computed in the wider one, cast to the base's type."""
    base, exponent = (graph.elem_type(name) for name in node.input)
    if not base or not exponent or (base == exponent and _is_float(base)):
        return None
    write = NodeWriter(graph, node)
    values = graph.constant(node.input[1])
    if values is not None and _is_float(base):
        return write.finish(write.add("Pow", [node.input[0], write.constant(values, _dtype(base))]))
    common = helper.np_dtype_to_tensor_dtype(np.result_type(_dtype(base), _dtype(exponent)))
    common = common if _is_float(common) else TensorProto.DOUBLE  # TVM raises floats alone
    parts = [
        name if kind == common else write.add("Cast", [name], to=common)
        for name, kind in zip(node.input, (base, exponent), strict=True)
    ]
    power = write.add("Pow", parts)
    return write.finish(power if base == common else write.add("Cast", [power], to=base))


def rewrite_dropout(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Dropout at inference: its operand, and a mask of ones where that is read."""
    training = graph.constant(operand(node, 2)) if operand(node, 2) else np.array(False)
    ratio = graph.constant(operand(node, 1)) if operand(node, 1) else None
    mask = len(node.output) > 1 and graph.is_read(node.output[1])
    drops = training is None or (training.any() and (ratio is None or ratio.any()))
    if drops and (mask or "seed" in attributes_of(node)):
        graph.refuse(node, "training mode with its own mask", "export the model for inference")
    write = NodeWriter(graph, node)
    if not mask:
        return write.finish(node.input[0])
    shape = graph.shape(node.input[0])
    if shape is None:
        graph.refuse(node, "the mask of an unknown shape", "fix the model's input shapes")
    kind = np.bool_ if graph.opset >= 10 else _dtype(graph.elem_type(node.input[0]) or 1)
    return write.finish(node.input[0], write.constant(np.ones(shape, kind)))


def rewrite_one_hot(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """OneHot of a constant depth: indices compared with every one that there is."""
    depth, shape = graph.constant(node.input[1]), graph.shape(node.input[0])
    if depth is None or shape is None:
        graph.refuse(node, "its depth is computed at run time", "export it as a constant")
    write, count = NodeWriter(graph, node), int(depth.reshape(-1)[0])
    if not 0 < count * math.prod(shape) <= MAX_FOLDED_BYTES:
        graph.refuse(node, f"a depth of {count}", "export it with another depth")
    axis = int(attributes_of(node).get("axis", -1)) % (len(shape) + 1)
    indices = write.add("Cast", [node.input[0]], to=TensorProto.INT64)
    target = np.array([*shape[:axis], 1, *shape[axis:]], np.int64)
    indices = write.add("Reshape", [indices, write.constant(target)])
    classes = np.arange(count).reshape([-1 if i == axis else 1 for i in range(len(target))])
    here, from_end = (write.constant(c) for c in (classes, classes - count))
    equal = [write.add("Equal", [indices, number]) for number in (here, from_end)]
    off, on = _two_values(write, node.input[2], graph)
    return write.finish(write.add("Where", [write.add("Or", equal), on, off]))


def _two_values(write: NodeWriter, name: str, graph: GraphEditor) -> tuple[str, str]:
    values = graph.constant(name)
    if values is not None:
        return write.constant(values[0]), write.constant(values[1])
    first, second = (write.constant(np.int64(i)) for i in (0, 1))
    return write.add("Gather", [name, first]), write.add("Gather", [name, second])


def rewrite_remainder(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Mod of floats with the sign of the divisor, from the exact one with the dividend's."""
    if attributes_of(node).get("fmod") or not _is_float(graph.elem_type(node.input[0])):
        return None
    write = NodeWriter(graph, node)
    rest = write.add("Mod", node.input, fmod=1)
    zero = write.constant(0.0, _dtype(graph.elem_type(node.input[0])))
    signs = [write.add("Less", [name, zero]) for name in (rest, node.input[1])]
    whole = write.add("Equal", [rest, zero])
    differs = write.add("And", [write.add("Xor", signs), write.add("Not", [whole])])
    moved = write.add("Add", [rest, node.input[1]])
    return write.finish(write.add("Where", [differs, moved, rest]))


def rewrite_suppression(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """NonMaxSuppression: ONNX keeps boxes at the threshold, TVM those below it."""
    threshold = graph.constant(operand(node, 3)) if operand(node, 3) else np.zeros(1, np.float32)
    if threshold is None or node.name.endswith(_ABOVE):
        return None
    above = np.nextafter(threshold.astype(np.float32), np.float32(np.inf))
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.name = f"{node_name(node)}{_ABOVE}"
    operands = [*node.input, "", "", ""][: max(4, len(node.input))]
    operands[3] = graph.add_constant(above, f"{node_name(node)}/threshold")
    if not operands[2]:
        operands[2] = graph.add_constant(np.zeros(1, np.int64), f"{node_name(node)}/most")
    del copy.input[:]
    copy.input.extend(operands)
    return [copy]


def rewrite_reduction(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """ReduceMax and ReduceMin of truth values, ReduceMean of integers: in a type TVM has."""
    kind = graph.elem_type(node.input[0])
    is_mean = node.op_type == "ReduceMean"
    if not kind or (_dtype(kind).kind not in "iu" if is_mean else kind != TensorProto.BOOL):
        return None
    write = NodeWriter(graph, node)
    reduced = onnx.NodeProto()
    reduced.CopyFrom(node)
    wide = TensorProto.DOUBLE if is_mean else TensorProto.UINT8
    reduced.input[0] = write.add("Cast", [node.input[0]], to=wide)
    reduced.output[0] = graph.fresh(f"{node.output[0]}/wide")
    write.nodes.append(reduced)
    return write.finish(write.add("Cast", [reduced.output[0]], to=kind))


def rewrite_slope(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """PRelu with a slope for each channel as MXNet and old operator sets write it: one axis."""
    shape, slope = graph.shape(node.input[0]), graph.shape(node.input[1])
    per_channel = slope is not None and len(slope) == 1 < slope[0]
    if shape is None or slope is None or not per_channel or len(shape) < 3:
        return None
    if shape[-1] == slope[0] or shape[1] != slope[0]:
        return None
    write, target = NodeWriter(graph, node), [slope[0]] + [1] * (len(shape) - 2)
    copy = with_attributes(node)
    copy.input[1] = write.add("Reshape", [node.input[1], write.constant(np.array(target))])
    return [*write.nodes, copy]


def rewrite_sign(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Sign of unsigned integers: whether they are not 0."""
    kind = graph.elem_type(node.input[0])
    if not kind or _dtype(kind).kind != "u":
        return None
    write = NodeWriter(graph, node)
    truth = write.add("Cast", [node.input[0]], to=TensorProto.BOOL)
    return write.finish(write.add("Cast", [truth], to=kind))


def rewrite_noop_reduction(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """A reduction over no axes: what it does to each element, which TVM leaves out."""
    attrs, name = attributes_of(node), operand(node, 1)
    axes = graph.constant(name) if name else attrs.get("axes", ())
    if axes is None or len(axes) or not attrs.get("noop_with_empty_axes"):
        return None
    write, x = NodeWriter(graph, node), node.input[0]
    if node.op_type == "ReduceSumSquare":
        return write.finish(write.add("Mul", [x, x]))
    return write.finish(write.add("Log" if node.op_type == "ReduceLogSum" else "Abs", [x]))


def rewrite_regions(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """RoiAlign by half pixels: regions scaled first, as TVM moves them by half a pixel before."""
    attrs = attributes_of(node)
    scale = attrs.get("spatial_scale", 1.0)
    default = "half_pixel" if graph.opset >= 16 else "output_half_pixel"
    mode = attrs.get("coordinate_transformation_mode", default)
    if mode != "half_pixel" or scale == 1:
        return None
    write = NodeWriter(graph, node)
    factor = write.constant(scale, _dtype(graph.elem_type(node.input[1]) or TensorProto.FLOAT))
    scaled = with_attributes(node, spatial_scale=1.0)
    scaled.input[1] = write.add("Mul", [node.input[1], factor])
    return [*write.nodes, scaled]


def rewrite_eye(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """EyeLike: the constant that it is, of the type that it asks for."""
    shape, attrs = graph.shape(node.input[0]), attributes_of(node)
    if shape is None or len(shape) != 2:
        graph.refuse(node, "of an unknown shape", "fix the model's input shapes")
    if math.prod(shape) * 8 > MAX_FOLDED_BYTES:
        graph.refuse(node, f"of extents {list(shape)}", "export it smaller")
    kind = attrs.get("dtype", graph.elem_type(node.input[0])) or TensorProto.FLOAT
    write = NodeWriter(graph, node)
    return write.finish(write.constant(np.eye(*shape, attrs.get("k", 0)), _dtype(kind)))


def rewrite_shift(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """BitShift by more than a type's bits: 0, or the sign, where processors do not agree."""
    shifts, kind = graph.constant(node.input[1]), graph.elem_type(node.input[0])
    if node.name.endswith(_WITHIN) or not kind:
        return None
    dtype = _dtype(kind)
    bits = dtype.itemsize * 8
    if shifts is not None and ((shifts >= 0) & (shifts < bits)).all():
        return None
    write = NodeWriter(graph, node)
    zero, end, last = (write.constant(value, dtype) for value in (0, bits, bits - 1))
    outside = write.add("Not", [write.add("Less", [node.input[1], end])])
    if dtype.kind == "i":
        outside = write.add("Or", [outside, write.add("Less", [node.input[1], zero])])
    within = write.add("Where", [outside, last, node.input[1]])
    shifted = with_attributes(node)
    shifted.input[1], shifted.output[0] = within, graph.fresh(f"{node.output[0]}/shifted")
    shifted.name = f"{node_name(node)}{_WITHIN}"
    write.nodes.append(shifted)
    if dtype.kind == "i" and attributes_of(node).get("direction") == "RIGHT":
        return write.finish(shifted.output[0])
    return write.finish(write.add("Where", [outside, zero, shifted.output[0]]))


def _is_float(kind: int) -> bool:
    return kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


def _dtype(kind: int) -> np.dtype:
    return helper.tensor_dtype_to_np_dtype(kind)


REWRITES: dict[str, Callable[[onnx.NodeProto, GraphEditor], list[onnx.NodeProto] | None]] = {
    "BitShift": rewrite_shift,
    "EyeLike": rewrite_eye,
    "Pow": rewrite_power,
    "Dropout": rewrite_dropout,
    "Mod": rewrite_remainder,
    "NonMaxSuppression": rewrite_suppression,
    "OneHot": rewrite_one_hot,
    **dict.fromkeys(
        ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceSumSquare"), rewrite_noop_reduction
    ),
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin"), rewrite_reduction),
    "PRelu": rewrite_slope,
    "RoiAlign": rewrite_regions,
    "Sign": rewrite_sign,
}
"""Function by name of the operator."""
