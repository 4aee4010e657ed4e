"""How large a constant may become while an ONNX model is cleaned.

A few bytes can ask for any amount of memory: a constant of a given shape, a tensor tiled, a weight
whose values were stripped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from tvm_costmodel.errors import ModelFileError

logger = logging.getLogger(__name__)

MAX_FOLDED_BYTES = 1 << 30
"""Most bytes of constants that the nodes of a model may make of smaller ones."""
MAX_GROWTH = 4
"""... or this many times its operands, which are in the file."""
MAX_INVENTED_BYTES = 1 << 30
"""Most bytes of weights that are filled in because the file has none."""
MAX_EXTENT = 1 << 40

_ITEM = 4  # bytes of an element; a double counts as one of half the size
_SHAPED_BY = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "RandomNormal": 0}
_KEEPS = frozenset(
    "Identity Cast Transpose Squeeze Unsqueeze Flatten Shape Size Slice Gather".split()
)
_SMALL_INTEGERS = 4096


def check_folding(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, tuple[int, ...]],
    made: int = 0,
) -> None:
    """Refuses a node whose constant result would be far larger than its constant operands.

    Args:
        node: A node whose operands are all constant.
        constants: Those operands, by name.
        shapes: Shapes that are known, by name.
        made: Bytes that other nodes have made already.

    Raises:
        ModelFileError: Names the node, the size and the limit.
    """
    operands = [constants[name] for name in node.input if name]
    given = sum(_bytes(tensor) for tensor in operands)
    needed = _needed_bytes(node, operands, constants, shapes)
    if needed > max(MAX_FOLDED_BYTES - made, MAX_GROWTH * given):
        raise ModelFileError(
            f"node {node.name or node.output[0]} ({node.op_type}) makes a constant of "
            f"{needed >> 20} MiB from {given} bytes, more than {MAX_FOLDED_BYTES >> 20} MiB "
            "with the others; "
            "export the model with a smaller constant, or compute it from an input"
        )


def infer_types(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """Runs ONNX's shape inference, values of shapes included.

    Inference writes out every value of a Range, however long, so one that is not known to be short
    is taken out of what it sees.

    Args:
        skeleton: A model without large weights; changed in place.

    Returns:
        The model with types, or the skeleton itself where inference fails.
    """
    constants = {tensor.name: tensor for tensor in skeleton.graph.initializer}
    for i in reversed(range(len(skeleton.graph.node))):
        node = skeleton.graph.node[i]
        if node.op_type == "Range" and not _is_short(node, constants):
            del skeleton.graph.node[i]
    try:
        return shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception as error:
        logger.debug("shape inference: %s", error)
        return skeleton


def _is_short(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    operands = [constants[name] for name in node.input if name in constants]
    if len(operands) < 3:
        return False
    return _needed_bytes(node, operands, constants, {}) <= _SMALL_INTEGERS * _ITEM


def check_invented(tensors: Iterable[onnx.TensorProto], label: str) -> None:
    """Refuses weights without values that would take too much memory when they are filled in.

    Raises:
        ModelFileError: Names the largest weight, the size and the limit.
    """
    sizes = {tensor.name: _bytes(tensor) for tensor in tensors}
    total = sum(sizes.values())
    if total > MAX_INVENTED_BYTES:
        largest = max(sizes, key=lambda name: sizes[name])
        raise ModelFileError(
            f"{label}: {len(sizes)} weights have no values in the file and would take "
            f"{total >> 20} MiB (the largest is {largest}), at most "
            f"{MAX_INVENTED_BYTES >> 20} MiB are filled in; export the model with its weights"
        )


def _needed_bytes(
    node: onnx.NodeProto,
    operands: list[onnx.TensorProto],
    constants: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, tuple[int, ...]],
) -> int:
    """Bytes of the node's result, never less than it takes, as far as its operands tell."""
    known = [shapes[name] for name in node.output if name in shapes]
    if known:
        return sum(_product(shape) for shape in known) * _ITEM
    counts = [_product(tensor.dims) for tensor in operands]
    if node.op_type in _KEEPS or not operands:
        return sum(counts) * _ITEM
    if node.op_type in _SHAPED_BY and len(operands) > _SHAPED_BY[node.op_type]:
        return _product(_integers(operands[_SHAPED_BY[node.op_type]])) * max(1, *counts) * _ITEM
    if node.op_type == "Tile" and len(operands) > 1:
        return counts[0] * _product(_integers(operands[1])) * _ITEM
    if node.op_type == "Range" and len(operands) == 3:
        start, stop, step = (float(_array(tensor).reshape(-1)[0]) for tensor in operands)
        return _ITEM * int(min(abs((stop - start) / step), MAX_EXTENT)) if step else 0
    if node.op_type in ("Pad", "OneHot", "CenterCropPad"):
        return _grown(counts, operands[1:2])  # what follows are values and axes
    if node.op_type in ("Resize", "Upsample", "EyeLike"):
        return _grown(counts, operands[1:])
    if node.op_type in ("MatMul", "Gemm") and len(operands) > 1:
        rows = counts[0] // max(1, min(operands[0].dims[-2:], default=1))
        return rows * max(operands[1].dims, default=1) * _ITEM
    return _broadcast(operands) * _ITEM


def _grown(counts: list[int], sizes: list[onnx.TensorProto]) -> int:
    """Bytes of a tensor whose extents grow by what small operands say."""
    factor = 1
    for tensor in sizes:
        if _product(tensor.dims) <= _SMALL_INTEGERS:
            values = np.abs(np.asarray(_array(tensor), dtype=np.float64)).reshape(-1)
            factor *= _product(int(min(value, MAX_EXTENT)) + 1 for value in values)
    return counts[0] * factor * _ITEM


def _broadcast(operands: list[onnx.TensorProto]) -> int:
    """Elements of the operands broadcast together, or one behind the other."""
    rank = max((len(tensor.dims) for tensor in operands), default=0)
    extents = [
        max(t.dims[i - rank + len(t.dims)] for t in operands if i - rank + len(t.dims) >= 0)
        for i in range(rank)
    ]
    return max(_product(extents), sum(_product(tensor.dims) for tensor in operands))


def _integers(tensor: onnx.TensorProto) -> list[int]:
    if _product(tensor.dims) > _SMALL_INTEGERS:
        return [MAX_EXTENT]
    return [abs(int(value)) for value in _array(tensor).reshape(-1)]


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor)


def _product(extents: Iterable[int]) -> int:
    return math.prod(max(0, int(extent)) for extent in extents)


def _bytes(tensor: onnx.TensorProto) -> int:
    try:
        item = int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except (KeyError, TypeError):
        item = 1
    return _product(tensor.dims) * item
