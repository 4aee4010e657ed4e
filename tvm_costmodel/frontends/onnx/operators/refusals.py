"""Forms of operators that are refused, by operator and node name, since TVM would misread them."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import TensorProto

from tvm_costmodel.frontends.onnx.operators import padding
from tvm_costmodel.frontends.onnx.operators.editor import (
    GraphEditor,
    attributes_of,
    operand,
)

_SUPPORTED_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
    | {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
    | {TensorProto.BOOL, TensorProto.UNDEFINED}
)


def refuse_largest_of_regions(
    node: onnx.NodeProto, graph: GraphEditor
) -> list[onnx.NodeProto] | None:
    """RoiAlign in mode ``max``: TVM takes the largest interpolated value, ONNX the largest term."""
    if attributes_of(node).get("mode", "avg") == "max":
        graph.refuse(node, "mode max", "export it with mode avg")
    return None


def refuse_batch_statistics(
    node: onnx.NodeProto, graph: GraphEditor
) -> list[onnx.NodeProto] | None:
    """BatchNormalization whose statistics are read, which are those of the batch."""
    if any(graph.is_read(name) for name in node.output[1:] if name):
        graph.refuse(node, "its statistics are read", "export the model for inference")
    return None


def drop_unread_indices(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """MaxPool with its indices, which TVM does not give: dropped where nothing reads them."""
    if len(node.output) < 2 or not node.output[1]:
        return padding.rewrite_auto_pad(node, graph)
    if graph.is_read(node.output[1]):
        graph.refuse(node, "its indices are read", "export the model without them")
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    del copy.output[1:]
    return [copy]


def check_nodes(nodes: list[onnx.NodeProto], graph: GraphEditor) -> None:
    """Refuses nodes of element types that are not supported, and those that give nothing.

    Args:
        nodes: The nodes of the cleaned graph.
        graph: Their graph.

    Raises:
        UnsupportedOperatorError: For the first such node.
    """
    for node in nodes:
        for name in (*node.input, *node.output):
            kind = graph.elem_type(name) if name else 0
            if kind not in _SUPPORTED_TYPES:
                title = TensorProto.DataType.Name(kind).lower()
                graph.refuse(
                    node, f"{name} is of type {title}", "export it with float32, float16 or int8"
                )
        for name in node.output:
            shape = graph.shape(name) if name else None
            if shape is not None and 0 in shape:
                graph.refuse(node, f"{name} {list(shape)} has no elements", "leave it out")


def refuse_wide_shift(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """BitShift by no number of its type's bits: processors do not agree on the result."""
    shifts = graph.constant(operand(node, 1))
    kind = graph.elem_type(node.input[0])
    bits = onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize * 8 if kind else 64
    wrong = [] if shifts is None else [int(s) for s in shifts.flat if not 0 <= int(s) < bits]
    if wrong:
        graph.refuse(node, f"a shift by {wrong[0]} of {bits} bits", f"shift by 0 to {bits - 1}")
    return None


def refuse_data_dependent(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Unique: how many there are is known at run time only, and TVM's passes fail on it."""
    graph.refuse(node, "its length depends on the values", "compute it outside of the model")


def refuse_runtime_shape(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """ConstantOfShape of a shape that is an operand at run time."""
    if graph.constant(node.input[0]) is None:
        graph.refuse(node, "its shape is computed at run time", "export it as a constant")
    return None


def refuse_wide_ranking(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """TopK of unsigned integers of 64 bits, which TVM's sort does not take."""
    if graph.elem_type(node.input[0]) == TensorProto.UINT64:
        graph.refuse(node, "of uint64", "cast its operand to int64")
    return None


REWRITES: dict[
    str, tuple[str, Callable[[onnx.NodeProto, GraphEditor], list[onnx.NodeProto] | None]]
] = {
    "BatchNormalization": ("", refuse_batch_statistics),
    "BitShift": ("", refuse_wide_shift),
    "MaxPool": (padding.COMPONENT, drop_unread_indices),
    "ConstantOfShape": ("", refuse_runtime_shape),
    "TopK": ("", refuse_wide_ranking),
    "Unique": ("", refuse_data_dependent),
    "RoiAlign": ("", refuse_largest_of_regions),
}
"""Component and function by name of the operator."""
