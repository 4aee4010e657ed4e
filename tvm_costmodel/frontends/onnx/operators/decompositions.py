"""Operators replaced by the function bodies that ONNX's own standard gives for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tvm_costmodel.frontends.onnx.operators.editor import (
    GraphEditor,
    NodeWriter,
    attributes_of,
    node_name,
    with_attributes,
)

ALWAYS = frozenset(
    {"Attention", "RotaryEmbedding", "Swish", "SwiGLU", "CenterCropPad"}
    | {"BlackmanWindow", "HammingWindow", "HannWindow", "Celu", "NegativeLogLikelihoodLoss"}
    | {"SoftmaxCrossEntropyLoss", "CausalConvWithState"}
)
"""Operators of ONNX's own domain that are always decomposed.

TVM's importer takes ``Attention`` for com.microsoft's operator of that name, and does not know the
others.
"""


def decompose(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Replaces a node by its function body.

    Args:
        node: A node of ONNX's own domain.
        graph: Its graph.

    Raises:
        UnsupportedOperatorError: ONNX gives no function body for it at this operator set.
    """
    function = _function_body(node, graph)
    if function is None:
        graph.refuse(node, "ONNX gives no function body for this form", "write it out in the model")
    return list(_inlined(node, function, graph))


def rewrite_normalisation(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Decomposes a normalisation whose further outputs are read, which TVM leaves empty.

    Weights are given the shape of what is normalised first.
    """
    shape, axis = graph.shape(node.input[0]), int(attributes_of(node).get("axis", -1))
    if shape is not None:
        extents, write = shape[axis:], NodeWriter(graph, node)
        spread = with_attributes(node)
        for i, name in enumerate(node.input[1:], 1):
            if name and graph.shape(name) not in (None, extents):
                target = write.constant(np.array(extents, np.int64))
                spread.input[i] = write.add("Expand", [name, target])
        if write.nodes:
            return [*write.nodes, spread]
    if not any(name and graph.is_read(name) for name in node.output[1:]):
        return None
    return decompose(node, graph)


def decompose_unless_single(
    node: onnx.NodeProto, graph: GraphEditor
) -> list[onnx.NodeProto] | None:
    """Decomposes an activation of other floats than float32, which TVM has constants of."""
    single = graph.elem_type(node.input[0]) in (TensorProto.FLOAT, TensorProto.UNDEFINED)
    return None if single else decompose(node, graph)


def decompose_in_column_mode(
    node: onnx.NodeProto, graph: GraphEditor
) -> list[onnx.NodeProto] | None:
    """Decomposes SpaceToDepth in CRD mode, which TVM takes for DCR."""
    modes = [attribute.s for attribute in node.attribute if attribute.name == "mode"]
    return decompose(node, graph) if modes not in ([], [b"DCR"]) else None


def _function_body(node: onnx.NodeProto, graph: GraphEditor) -> onnx.FunctionProto | None:
    try:
        schema: Any = onnx.defs.get_schema(node.op_type, graph.opset, "")
    except onnx.defs.SchemaError:
        return None
    function = onnx.FunctionProto()
    contextual = [v for v in schema.context_dependent_function_opset_versions if v <= graph.opset]
    plain = [v for v in schema.function_opset_versions if v <= graph.opset]
    if contextual:
        body = schema.get_context_dependent_function_with_opset_version(
            max(contextual), node.SerializeToString(), _types(node, graph)
        )
    elif plain:
        body = schema.get_function_with_opset_version(max(plain))
    else:
        return None
    if not body:
        return None
    function.ParseFromString(body)
    return function


def _types(node: onnx.NodeProto, graph: GraphEditor) -> list[bytes]:
    return [
        helper.make_tensor_type_proto(graph.elem_type(name), graph.shape(name)).SerializeToString()
        if name
        else onnx.TypeProto().SerializeToString()
        for name in node.input
    ]


def _inlined(
    node: onnx.NodeProto, function: onnx.FunctionProto, graph: GraphEditor
) -> Iterator[onnx.NodeProto]:
    names = {"": ""}
    for i, name in enumerate(function.input):
        names[name] = node.input[i] if i < len(node.input) else ""
    for i, name in enumerate(function.output):
        if i < len(node.output) and node.output[i]:
            names[name] = node.output[i]
    attributes = _default_attributes(node, graph)
    attributes.update({attribute.name: attribute for attribute in function.attribute_proto})
    attributes.update({attribute.name: attribute for attribute in node.attribute})
    for inner in function.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(inner)
        for field in (copy.input, copy.output):
            for i, name in enumerate(field):
                if name not in names:
                    names[name] = graph.fresh(f"{node_name(node)}/{name}")
                field[i] = names[name]
        copy.name = f"{node_name(node)}/{inner.op_type}/{next(iter(copy.output), '')}"
        _bind_attributes(copy, attributes)
        yield copy


def _default_attributes(node: onnx.NodeProto, graph: GraphEditor) -> dict[str, onnx.AttributeProto]:
    schema = onnx.defs.get_schema(node.op_type, graph.opset, "")
    values = (attribute.default_value for attribute in schema.attributes.values())
    return {value.name: value for value in values if value.name}


def _bind_attributes(node: onnx.NodeProto, values: dict[str, onnx.AttributeProto]) -> None:
    """Replaces attributes that refer to the function's by their values."""
    bound = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            bound.append(attribute)
        elif attribute.ref_attr_name in values:
            value = onnx.AttributeProto()
            value.CopyFrom(values[attribute.ref_attr_name])
            value.name = attribute.name
            bound.append(value)
    copies = [onnx.AttributeProto.FromString(entry.SerializeToString()) for entry in bound]
    del node.attribute[:]
    node.attribute.extend(copies)
