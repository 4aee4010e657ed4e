"""Weights of ONNX models: filling in missing ones, and random values that keep activations sane.

Public data sets ship networks with their weights stripped, and ONNX's own test networks have the
same value in every weight. Latency does not depend on the values, but comparing outputs does: with
equal weights a transposed kernel or a swapped branch would go unnoticed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.onnx.folding_limits import check_invented
from tvm_costmodel.frontends.onnx.operators.editor import node_name

logger = logging.getLogger(__name__)

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_PACKED_BITS = {  # an older onnx package does not know them all
    int(TensorProto.DataType.Value(name)): bits
    for name, bits in {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.items()
    if name in TensorProto.DataType.keys()
}
_VIEWS = frozenset({"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"})
_WEIGHT_OPERANDS: Mapping[str, range] = {
    "BatchNormalization": range(1, 5),
    "Conv": range(1, 3),
    "ConvTranspose": range(1, 3),
    "GroupNormalization": range(1, 3),
    "InstanceNormalization": range(1, 3),
    "LayerNormalization": range(1, 3),
    "PRelu": range(1, 2),
}
"""Operands that hold weights in nearly every network."""


@dataclass(frozen=True)
class _Use:
    """A use of a weight: the node that reads it, and the operand's position."""

    node: onnx.NodeProto
    operand: int
    residual: bool = False


def randomise_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Returns a copy whose float weights are random, scaled so that activations stay in range.

    Kernels and matrices follow He et al. 2015 (standard deviation ``sqrt(2 / fan_in)``),
    variances are positive, scales near 1, biases small; the last scale of a residual branch is
    small, so that deep sums do not grow. Weights that a ``ConstantOfShape`` node makes are
    replaced too. Integers and scalars (shapes, bounds, epsilons) stay.

    Args:
        model: Left unchanged.
        seed: Same seed, same values.
    """
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    rng = np.random.default_rng(seed)
    uses = _weight_uses(graph)
    for tensor in graph.initializer:
        elements = math.prod(tensor.dims)
        if tensor.data_type in _FLOATS and elements > 1 and tensor.name in uses:
            _fill(tensor, uses[tensor.name], rng)
    _replace_constant_nodes(graph, uses, rng)
    return changed


def fill_missing_weights(model: onnx.ModelProto, label: str, seed: int = 0) -> tuple[str, ...]:
    """Gives random values to initialisers that have a shape but no content; warns once.

    Args:
        model: Changed in place.
        label: The model's name in messages.
        seed: Same seed, same values.

    Returns:
        Names of the weights that were filled.

    Raises:
        ModelFileError: A missing tensor holds integers (a shape or an axis), which cannot be
            invented, or an initialiser has fewer values than its shape asks for.
    """
    _move_missing_constants(model.graph, label)
    missing = [t for t in model.graph.initializer if _is_missing(t, label)]
    if not missing:
        return ()
    lost = [tensor.name for tensor in missing if tensor.data_type not in _FLOATS]
    if lost:
        raise ModelFileError(
            f"{label}: the values of {_some(lost)} are missing and, being no floating-point "
            "weights, cannot be replaced by random ones; export the model with its initialisers"
        )
    check_invented(missing, label)
    rng = np.random.default_rng(seed)
    uses = _weight_uses(model.graph)
    for tensor in missing:
        _fill(tensor, uses.get(tensor.name), rng)
    names = tuple(tensor.name for tensor in missing)
    logger.warning(
        "%s: %d weights have no values in the file and got random ones (%s); "
        "latency does not depend on them, outputs do",
        label,
        len(names),
        _some(names),
    )
    return names


def _move_missing_constants(graph: onnx.GraphProto, label: str) -> None:
    """Makes initialisers of Constant nodes whose tensors have a shape but no content."""
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        values = [a.t for a in node.attribute if a.name == "value" and node.op_type == "Constant"]
        if values and _is_missing(values[0], label):
            moved = graph.initializer.add()
            moved.CopyFrom(values[0])
            moved.name = node.output[0]
            del graph.node[i]


def check_weights_defined(model: onnx.ModelProto, label: str) -> None:
    """Raises ModelFileError where weights are nowhere in the file, or a name stands for two values.

    An input that serves as a weight, such as the filter of a tracker's second image, is an input
    and stays one: only an initialiser without values says that a weight was stripped.

    Args:
        model: The model.
        label: Its name in messages.

    Raises:
        ModelFileError: Neither the values nor the shape of a weight are in the file, or a node's
            result has the name of another value.
    """
    graph = model.graph
    given = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    for node in graph.node:
        for name in filter(None, node.output):
            if name in given:
                raise ModelFileError(
                    f'{label}: node "{node_name(node)}" ({node.op_type}) makes {name[:100]}, which '
                    "is the name of another value too, so it is damaged; export it again"
                )
            given.add(name)
    defined = {tensor.name for tensor in graph.initializer}
    defined.update(tensor.values.name for tensor in graph.sparse_initializer)
    defined.update(name for node in graph.node for name in node.output)
    defined.update(value.name for value in graph.input)
    undefined = sorted(_names_read_only_as_weights(graph) - defined)
    if undefined:
        raise ModelFileError(
            f"{label}: the weights {_some(undefined)} are missing from the file together with "
            "their shapes; export the model with its initialisers"
        )


def _names_read_only_as_weights(graph: onnx.GraphProto) -> set[str]:
    as_weight: set[str] = set()
    otherwise: set[str] = set()
    for node in graph.node:
        positions = _WEIGHT_OPERANDS.get(node.op_type, range(0))
        for i, name in enumerate(node.input):
            if name:
                (as_weight if i in positions else otherwise).add(name)
    return as_weight - otherwise


def _is_missing(tensor: TensorProto, label: str) -> bool:
    """Whether a tensor has a shape but no values; raises ModelFileError for a partial one."""
    elements = math.prod(tensor.dims)
    if min(tensor.dims, default=0) < 0:
        raise ModelFileError(
            f"{label}: weight {tensor.name[:100]} has the shape {list(tensor.dims)}, which no "
            "tensor has, so the file is damaged; export it again"
        )
    if elements == 0 or tensor.data_type == TensorProto.STRING:
        return False
    external = tensor.data_location == TensorProto.EXTERNAL
    if tensor.HasField("raw_data") and not external:
        stored: float = len(tensor.raw_data)
        needed: float = math.ceil(elements * _bits(tensor.data_type) / 8)
    else:
        field = helper.tensor_dtype_to_field(tensor.data_type)
        stored = 0 if external else len(getattr(tensor, field))
        needed = stored and elements
    if stored and (stored < needed or (tensor.HasField("raw_data") and stored > needed)):
        raise ModelFileError(
            f"{label}: weight {tensor.name} has {'fewer' if stored < needed else 'more'} values "
            f"than its shape {list(tensor.dims)} asks for, so the file is damaged; export it again"
        )
    return not stored


def _bits(data_type: int) -> int:
    if data_type in _PACKED_BITS:
        return _PACKED_BITS[data_type]
    return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize) * 8


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def _weight_uses(graph: onnx.GraphProto) -> dict[str, _Use]:
    """Tensor name -> where it is first read, looking through reshapes of it."""
    consumers: dict[str, list[_Use]] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            consumers.setdefault(name, []).append(_Use(node, i))
    constants = {tensor.name for tensor in graph.initializer}
    constants.update(n.output[0] for n in graph.node if n.op_type == "ConstantOfShape")

    uses: dict[str, _Use] = {}
    for name in constants:
        use = _first_use(name, consumers)
        if use is not None:
            uses[name] = _Use(use.node, use.operand, _ends_residual_branch(use.node, consumers))
    return uses


def _first_use(name: str, consumers: Mapping[str, list[_Use]]) -> _Use | None:
    while name in consumers:
        use = consumers[name][0]
        if use.node.op_type not in _VIEWS or use.operand != 0:
            return use
        name = use.node.output[0]
    return None


def _ends_residual_branch(node: onnx.NodeProto, consumers: Mapping[str, list[_Use]]) -> bool:
    """Whether the node's only reader adds it to something (a skip connection)."""
    readers = consumers.get(node.output[0], []) if node.output else []
    return len(readers) == 1 and readers[0].node.op_type in ("Add", "Sum")


def _fill(tensor: TensorProto, use: _Use | None, rng: np.random.Generator) -> None:
    values = _random_values(tuple(tensor.dims), use, rng)
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    filled = numpy_helper.from_array(values.astype(dtype), tensor.name)
    tensor.CopyFrom(filled)


def _random_values(
    shape: tuple[int, ...], use: _Use | None, rng: np.random.Generator
) -> np.ndarray:
    """float32 values of ``shape``, by the role that the weight plays where it is read."""
    normal = rng.standard_normal(shape, dtype=np.float32)
    uniform = rng.uniform(0.8, 1.2, shape).astype(np.float32) if len(shape) < 2 else normal
    if use is None:
        return 0.1 * normal
    op, operand = use.node.op_type, use.operand
    if op in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(shape) > 1:
        gain = 0.3 if use.residual else 1.0
        return gain * math.sqrt(2.0 / _fan_in(shape, use.node)) * normal
    if op.endswith("Normalization") and operand == 4:
        return uniform
    if op.endswith("Normalization") and operand == 1:
        return 0.3 * uniform if use.residual else uniform
    if op in ("Mul", "Div"):
        return 1.0 + 0.1 * normal
    if op == "Gather":
        return normal
    return 0.1 * normal


def _fan_in(shape: tuple[int, ...], node: onnx.NodeProto) -> int:
    """Number of multiply-adds for each output element."""
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    if node.op_type == "ConvTranspose":
        return shape[0] // max(1, int(attributes.get("group", 1))) * math.prod(shape[2:])
    if node.op_type == "Gemm" and attributes.get("transB", 0):
        return shape[-1]
    return shape[-2]


def _replace_constant_nodes(
    graph: onnx.GraphProto, uses: Mapping[str, _Use], rng: np.random.Generator
) -> None:
    """Replaces ConstantOfShape nodes of constant shape by random initialisers."""
    shapes = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        name = node.output[0] if node.output else ""
        source = shapes.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        value = next((a.t for a in node.attribute if a.name == "value"), TensorProto(data_type=1))
        if source is None or value.data_type not in _FLOATS or name not in uses:
            nodes.append(node)
            continue
        dims = [int(extent) for extent in numpy_helper.to_array(source)]
        tensor = TensorProto(name=name, data_type=value.data_type, dims=dims)
        _fill(tensor, uses[name], rng)
        graph.initializer.append(tensor)
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
