"""Parts of tensors that have no elements: left out of the operators that make and read them.

Function bodies of ONNX's standard split off parts of length 0, and exporters concatenate empty
tensors; compilers have no use for either.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tvm_costmodel.frontends.onnx.operators.editor import (
    GraphEditor,
    NodeWriter,
    attributes_of,
    operand,
    with_attributes,
)


def drop_empty_parts(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Split: parts without elements become constants."""
    shapes = [graph.shape(name) for name in node.output]
    if not any(shape is not None and 0 in shape for shape in shapes):
        return None
    source, axis = graph.shape(node.input[0]), int(attributes_of(node).get("axis", 0))
    if source is None or any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    kept = [i for i, shape in enumerate(known) if shape[axis]]
    if len(kept) == len(known) or not kept or any(0 in known[i] for i in kept):
        return None
    write = NodeWriter(graph, node)
    dtype = helper.tensor_dtype_to_np_dtype(graph.elem_type(node.input[0]))
    empty = {i: write.constant(np.zeros(s, dtype)) for i, s in enumerate(known) if i not in kept}
    if len(kept) == 1:
        parts = {kept[0]: node.input[0]}
    else:
        sizes = [known[i][axis] for i in kept]
        rest = with_attributes(node, ("split", "num_outputs"))
        parts = {i: graph.fresh(f"{node.output[i]}/part") for i in kept}
        del rest.input[1:], rest.output[:]
        rest.output.extend(parts.values())
        if graph.opset >= 13:
            rest.input.append(write.constant(np.asarray(sizes, np.int64)))
        else:
            rest = with_attributes(rest, split=sizes)
        write.nodes.append(rest)
    return write.finish(*((parts | empty)[i] for i in range(len(known))))


def drop_empty_operands(node: onnx.NodeProto, graph: GraphEditor) -> list[onnx.NodeProto] | None:
    """Concat: operands without elements are left out."""
    shapes = [graph.shape(operand(node, i)) for i in range(len(node.input))]
    kept = [
        name
        for name, shape in zip(node.input, shapes, strict=True)
        if shape is None or 0 not in shape
    ]
    if len(kept) in (0, len(node.input)):
        return None
    if len(kept) == 1:
        return NodeWriter(graph, node).finish(kept[0])
    copy = with_attributes(node)
    del copy.input[:]
    copy.input.extend(kept)
    return [copy]
