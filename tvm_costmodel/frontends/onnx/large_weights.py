"""Models without their large weights, which inference of shapes and cleaning would only copy."""

from __future__ import annotations

import math

import onnx
from onnx import helper

_LARGE_WEIGHT_ELEMENTS = 1 << 14
_FLOAT_TYPES = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def without_large_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model whose large weights are graph inputs, for shape inference."""
    return detach_large_weights(model)[0]


def detach_large_weights(
    model: onnx.ModelProto,
) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """A copy whose large weights are graph inputs, and those weights by name.

    Args:
        model: Left unchanged.
    """
    large = {
        tensor.name: tensor
        for tensor in model.graph.initializer
        if tensor.data_type in _FLOAT_TYPES and math.prod(tensor.dims) > _LARGE_WEIGHT_ELEMENTS
    }
    skeleton = onnx.ModelProto(ir_version=model.ir_version)
    skeleton.opset_import.extend(model.opset_import)
    graph = skeleton.graph
    graph.name = model.graph.name or "main"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in large)
    graph.input.extend(
        helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
        for name, tensor in large.items()
    )
    return skeleton, large
