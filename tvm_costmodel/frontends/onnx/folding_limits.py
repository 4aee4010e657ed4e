"""How large a constant may become while an ONNX model is cleaned.

A few bytes can ask for any amount of memory: a constant of a given shape, a tensor tiled, a weight
whose values were stripped.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from tvm_costmodel.bounded_reading import MAX_DEPTH
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.onnx.operators.editor import branches_of, node_name
from tvm_costmodel.isolation import ChildFailure, Limits, in_fork

logger = logging.getLogger(__name__)

MAX_FOLDED_BYTES = 1 << 30
"""Most bytes of constants that the nodes of a model may make ..."""
MAX_GROWTH = 4
"""... or this many times the constants that it has already."""
MAX_INVENTED_BYTES = 1 << 30
"""Most bytes of weights that are filled in because the file has none."""
MAX_EXTENT = 1 << 40
MAX_RANK = 32
MAX_ELEMENTS = 1 << 48
MAX_NODES = 200_000
"""Most nodes that functions of a model unfold to."""

_FAULT = "tvm_costmodel.inference_fault"
_NODE_FAULT = re.compile(
    r"\(op_type:(\w+)(?:, node name: ([^\n]*?))?\): \[ShapeInferenceError\] ([^\n(]*)"
)
_DECLARED = "Inferred shape and existing shape differ"
_READ_OTHERWISE = ("BatchNormalization", "MeanVarianceNormalization")
"""Operators in training form, or with a function body that ONNX itself cannot infer."""
_ITEM = 4  # bytes of an element; a double counts as one of half the size
_SHAPED_BY = {"ConstantOfShape": 0, "Expand": 1, "RandomNormal": 0}
_KEEPS = frozenset(
    "Identity Cast Transpose Reshape Squeeze Unsqueeze Flatten Shape Size Slice Gather".split()
)
_SMALL_INTEGERS = 4096
_OF_SHAPES = ("Shape", "Size")
_WRITTEN_OUT = frozenset("Add Cast Concat Gather Identity Mul Slice Squeeze Sub Unsqueeze".split())
"""Operators whose results inference writes out where it knows the operands' values."""


def check_folding(
    node: onnx.NodeProto,
    constants: Mapping[str, onnx.TensorProto],
    shapes: Mapping[str, tuple[int, ...]],
    left: int = MAX_FOLDED_BYTES,
) -> None:
    """Refuses a node whose constant result would be far larger than its constant operands.

    Args:
        node: A node whose operands are all constant.
        constants: Those operands, by name.
        shapes: Shapes that are known, by name.
        left: Bytes that the result may have.

    Raises:
        ModelFileError: Names the node, the size and the limit.
    """
    operands = [constants[name] for name in node.input if name]
    given = sum(_bytes(tensor) for tensor in operands)
    needed = _needed_bytes(node, operands, constants, shapes)
    if needed > left:
        raise ModelFileError(
            f"node {node.name or node.output[0]} ({node.op_type}) makes a constant of "
            f"{needed >> 20} MiB from {given} bytes, more than the {left >> 20} MiB that are left; "
            "export the model with a smaller constant, or compute it from an input"
        )


def folding_budget(model: onnx.ModelProto) -> int:
    """Bytes of constants that folding a model may make, all nodes together."""
    given = sum(map(_bytes, model.graph.initializer))
    return max(MAX_FOLDED_BYTES, MAX_GROWTH * given)


def infer_types(skeleton: onnx.ModelProto) -> onnx.ModelProto:
    """Runs ONNX's shape inference, values of shapes included.

    Inference writes out every value of a Range or Concat of known values, however many, so one that
    is not known to be short is taken out of what it sees.

    Args:
        skeleton: A model without large weights; changed in place.

    Returns:
        The model with types, or the skeleton itself where inference fails.

    Raises:
        ModelFileError: Inference crashes, does not end or takes all memory, or a value has more
            than `MAX_RANK` axes or `MAX_ELEMENTS` elements.
    """
    constants = {tensor.name: tensor for tensor in skeleton.graph.initializer}
    counts = {name: _product(tensor.dims) for name, tensor in constants.items()}
    nodes = skeleton.graph.node
    long = [i for i, node in enumerate(nodes) if _is_long(node, constants, counts)]
    for i in reversed(long):
        del nodes[i]
    for node in nodes:
        node.name = node_name(node)
    content = bytes(skeleton.SerializeToString())
    limits = Limits(memory_bytes=(1 << 30) + 16 * len(content), seconds=30.0 + len(content) / 1e6)

    def infer() -> bytes:
        try:  # it raises errors of many kinds
            inferred = shape_inference.infer_shapes(content, strict_mode=True, data_prop=True)
        except Exception as error:
            fault = str(error)
            logger.debug("shape inference: %s", fault)
            try:
                inferred = shape_inference.infer_shapes(content, data_prop=True)
            except Exception:
                inferred = onnx.ModelProto.FromString(content)
            inferred.metadata_props.add(key=_FAULT, value=fault)
        return bytes(inferred.SerializeToString())

    try:
        inferred: onnx.ModelProto = onnx.ModelProto.FromString(in_fork(infer, limits))
    except ChildFailure as error:
        raise ModelFileError(
            f"ONNX's shape inference does not bear this model: {error}; export it again"
        ) from None
    graph = inferred.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        elements = _product(dim.dim_value or 1 for dim in dims)
        if len(dims) > MAX_RANK or elements > MAX_ELEMENTS:
            much = f"{len(dims)} axes" if len(dims) > MAX_RANK else f"{elements:.0e} elements"
            raise ModelFileError(
                f"{value.name[:100]} has {much}; values of at most {MAX_RANK} axes and "
                "2**48 elements are read, export the model with fewer"
            )
    return inferred


def inference_fault(inferred: onnx.ModelProto) -> tuple[str, str, str] | None:
    """What ONNX's shape inference found wrong with a node: its operator, name and the fault.

    Args:
        inferred: What `infer_types` returned.
    """
    text = next((entry.value for entry in inferred.metadata_props if entry.key == _FAULT), "")
    if _DECLARED in text:
        return None  # shapes that the file declares are wrong, and so may be what follows from them
    for operator, name, fault in _NODE_FAULT.findall(text):
        if not fault.startswith("Infer") and operator not in _READ_OTHERWISE:
            return operator, name, fault.strip().rstrip(".")
    return None


def check_functions(model: onnx.ModelProto, label: str) -> None:
    """Refuses functions that call each other so often that they unfold to too many nodes.

    Raises:
        ModelFileError: Names how many nodes they unfold to, and the limit.
    """
    bodies = {(f.domain, f.name): f.node for f in model.functions}
    counts: dict[tuple[str, str], int] = {}

    def count(nodes: Iterable[onnx.NodeProto], depth: int) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type)
            if key in bodies and key not in counts:
                # One that calls itself has no end; ONNX refuses it.
                counts[key] = MAX_NODES + 1 if depth > MAX_DEPTH else count(bodies[key], depth + 1)
            total += counts.get(key, 1)
            total += sum(count(graph.node, depth + 1) for graph in branches_of(node))
        return total

    total = count(model.graph.node, 0)
    if total > MAX_NODES:
        raise ModelFileError(
            f"{label}: its functions unfold to {min(total, 10**12)} nodes or more, at most "
            f"{MAX_NODES} are read; export the model with fewer functions"
        )


def _is_long(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto], counts: dict[str, int]
) -> bool:
    """Whether inference would write out many values of a node's result.

    Args:
        node: The nodes before it have been asked about.
        constants: Tensors with values, by name.
        counts: Elements of the values that inference writes out, by name; the node's are added.
    """
    if node.op_type == "Range":
        operands = [constants[name] for name in node.input if name in constants]
        return len(operands) < 3 or (
            _needed_bytes(node, operands, constants, {}) > _SMALL_INTEGERS * _ITEM
        )
    operand_counts = [counts.get(name, 0) for name in node.input if name]
    count = MAX_RANK if node.op_type in _OF_SHAPES else 0
    if node.op_type in _WRITTEN_OUT and all(operand_counts):
        count = sum(operand_counts) if node.op_type == "Concat" else max(operand_counts, default=0)
    if count and node.output:
        counts[node.output[0]] = count
    return node.op_type == "Concat" and count > _SMALL_INTEGERS


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
