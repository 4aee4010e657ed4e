"""Forms of operators that are refused, by operator and node name, since TVM would misread them."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from onnx import TensorProto

from tvm_costmodel.frontends.onnx.operators.editor import (
    STANDARD_DOMAINS,
    GraphEditor,
    attributes_of,
)

_SUPPORTED_TYPES = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
    | {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
    | {TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64}
    | {TensorProto.BOOL, TensorProto.UNDEFINED}
)


def _refuse_largest_of_regions(node: onnx.NodeProto, graph: GraphEditor) -> None:
    """RoiAlign in mode ``max``: TVM takes the largest interpolated value, ONNX the largest term."""
    if attributes_of(node).get("mode", "avg") == "max":
        graph.refuse(node, "mode max", "export it with mode avg")


def _refuse_batch_statistics(node: onnx.NodeProto, graph: GraphEditor) -> None:
    """BatchNormalization whose statistics are read, which are those of the batch."""
    if any(graph.is_read(name) for name in node.output[1:] if name):
        graph.refuse(node, "its statistics are read", "export the model for inference")


def check_nodes(nodes: list[onnx.NodeProto], graph: GraphEditor) -> None:
    """Refuses nodes of forms that cannot be right, and those that give nothing.

    Args:
        nodes: The nodes of the cleaned graph.
        graph: Their graph.

    Raises:
        UnsupportedOperatorError: For the first such node.
    """
    for node in nodes:
        if node.op_type in _REFUSALS and node.domain in STANDARD_DOMAINS:
            _REFUSALS[node.op_type](node, graph)
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


def _refuse_data_dependent(node: onnx.NodeProto, graph: GraphEditor) -> None:
    """Unique: how many there are is known at run time only, and TVM's passes fail on it."""
    graph.refuse(node, "its length depends on the values", "compute it outside of the model")


def _refuse_runtime_extents(node: onnx.NodeProto, graph: GraphEditor) -> None:
    """ConstantOfShape, Range and Expand whose extents are operands at run time."""
    extents = node.input[1:] if node.op_type == "Expand" else node.input
    if any(graph.constant(name) is None for name in extents):
        graph.refuse(node, "its shape is computed at run time", "export it as a constant")


def _refuse_other_kernel(node: onnx.NodeProto, graph: GraphEditor) -> None:
    """Conv and ConvTranspose whose kernel_shape is not that of their weights."""
    stated, shape = attributes_of(node).get("kernel_shape"), graph.shape(node.input[1])
    if stated and shape and tuple(stated) != shape[2:]:
        graph.refuse(node, f"kernel_shape {stated} of weights {list(shape)}", "export it again")


def _refuse_wide_ranking(node: onnx.NodeProto, graph: GraphEditor) -> None:
    """TopK of unsigned integers of 64 bits, which TVM's sort does not take."""
    if graph.elem_type(node.input[0]) == TensorProto.UINT64:
        graph.refuse(node, "of uint64", "cast its operand to int64")


_REFUSALS: dict[str, Callable[[onnx.NodeProto, GraphEditor], None]] = {
    "BatchNormalization": _refuse_batch_statistics,
    **dict.fromkeys(("ConstantOfShape", "Expand", "Range"), _refuse_runtime_extents),
    **dict.fromkeys(("Conv", "ConvTranspose"), _refuse_other_kernel),
    "RoiAlign": _refuse_largest_of_regions,
    "TopK": _refuse_wide_ranking,
    "Unique": _refuse_data_dependent,
}
