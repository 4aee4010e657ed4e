"""Rewrites that make an ONNX graph static, constant-folded and plain enough for TVM.

`clean` runs them in order: functions inlined, old operator sets converted, constant nodes folded
into initialisers (shape arithmetic too, once the inputs are static), training forms of operators
made inference ones, onnxslim, and at last types for every value. Each function changes its model
in place; its docstring gives the reason.
"""

from __future__ import annotations

import heapq
import logging
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import onnx
from onnx import helper, inliner, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.onnx.folding_limits import (
    check_folding,
    check_functions,
    folding_budget,
    infer_types,
)
from tvm_costmodel.frontends.onnx.large_weights import detach_large_weights
from tvm_costmodel.frontends.onnx.operators import rewrite_operators
from tvm_costmodel.frontends.onnx.operators.editor import branches_of, names_of, names_read
from tvm_costmodel.isolation import ChildFailure, Limits, in_fork

logger = logging.getLogger(__name__)

OLDEST_OPSET = 7
"""Before it binary operators broadcast by an attribute that importers no longer read."""

_CONVERT_TO_OPSET = 9
_MAX_ROUNDS = 20
_RANDOM_OPS = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)
_SLIM_SKIPPED_PASSES = ["subexpression_elimination", "weight_tying"]
_STANDARD = ("", "ai.onnx")
_OF_SHAPES = ("Shape", "Size")


def clean(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """Returns the model cleaned; see the module's docstring.

    Args:
        model: Model with static inputs; not to be used afterwards.
        label: Its name in messages.

    Raises:
        ModelFileError: The operator set is too old to be converted.
    """
    if model.functions:
        check_functions(model, label)
        model = inliner.inline_local_functions(model)
    model = _convert_old_opset(model, label)
    fold_constants(model)
    rewrite_operators(model, label, fold_constants)
    for rewrite in (infer_batch_norm, remove_identities, chain_sums):
        rewrite(model)
    run_onnxslim(model)
    fold_constants(model)
    remove_unused_weights(model)
    return model


def fold_constants(model: onnx.ModelProto) -> None:
    """Turns nodes whose operands are all constant, and shapes that are known, into initialisers.

    ONNX's own reference evaluator computes them, so that the result does not depend on which
    runtimes are installed.
    """
    opset = {entry.domain: entry.version for entry in model.opset_import}
    left = folding_budget(model)
    for _ in range(_MAX_ROUNDS):
        known = _known_shapes(model)
        made = _fold_once(model.graph, known, opset, left)
        if made is None:
            return
        left -= made


def remove_identities(model: onnx.ModelProto) -> None:
    """Removes Identity nodes and sums or means of one operand."""
    single = ("Sum", "Mean", "Max", "Min")
    _bypass(
        model.graph,
        lambda node: node.op_type == "Identity" or (node.op_type in single and len(node.input) < 2),
    )


def infer_batch_norm(model: onnx.ModelProto) -> None:
    """Makes BatchNormalization in training form normalise by its stored statistics."""
    read = set(names_read(model.graph))
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        if any(name in read for name in node.output[1:]):
            continue
        del node.output[1:]
        for attribute in node.attribute:
            if attribute.name == "training_mode" and attribute.i:
                attribute.i = 0


def chain_sums(model: onnx.ModelProto) -> None:
    """Replaces Sum by a chain of Add: TVM imports it as stack and reduce, one dimension more."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_chain(node) if node.op_type == "Sum" and len(node.input) > 1 else [node])
    _replace_nodes(model.graph, nodes)


def remove_unused_weights(model: onnx.ModelProto) -> None:
    """Drops initialisers that nothing reads."""
    read = set(names_read(model.graph))
    weights = model.graph.initializer
    for i in reversed(range(len(weights))):  # in place: copying them all would double the memory
        if weights[i].name not in read:
            del weights[i]


def _convert_old_opset(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version >= OLDEST_OPSET:
        return model
    try:
        return version_converter.convert_version(model, _CONVERT_TO_OPSET)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"{label}: operator set {version} is older than {OLDEST_OPSET} and cannot be converted "
            f"({first}); export the model again with opset_version=17"
        ) from error


def _import_tvm() -> None:
    import tvm  # noqa: F401


def run_onnxslim(model: onnx.ModelProto) -> None:
    """Runs onnxslim's eliminations; large weights stay outside, they would only be copied.

    Fusions are left to the compiler, which decides on them, and equal branches are not merged:
    with stripped weights they are equal by accident only.

    The first import of onnxslim and that of TVM, which comes next, each take a second: they are
    made at the same time, onnxslim's in the child. Later ones find it in this process, and
    ONNX Runtime, which it imports where there is one.
    """
    if "tvm" in sys.modules:
        import onnxslim  # noqa: F401

        with suppress(ImportError):
            import onnxruntime  # noqa: F401
    skeleton, large = detach_large_weights(model)

    def slim() -> bytes:
        import onnxslim
        from onnxslim.core.pattern.registry import DEFAULT_FUSION_PATTERNS

        fusions = [name for name in DEFAULT_FUSION_PATTERNS if name.startswith("Fusion")]
        return bytes(
            onnxslim.slim(
                skeleton,
                skip_optimizations=_SLIM_SKIPPED_PASSES,
                skip_fusion_patterns=fusions,
            ).SerializeToString()
        )

    limits = Limits(seconds=60.0 + 0.02 * len(skeleton.graph.node))
    try:
        slimmed = onnx.ModelProto.FromString(in_fork(slim, limits, _import_tvm))
    except ChildFailure as error:
        logger.warning("onnxslim failed (%s); going on with the graph as it is", error)
        return
    _replace(model.graph.node, _in_order_of(model.graph.node, slimmed.graph.node))
    _replace(model.graph.output, slimmed.graph.output)
    weights = model.graph.initializer
    for i in reversed(range(len(weights))):
        if weights[i].name not in large:
            del weights[i]
    weights.extend(slimmed.graph.initializer)
    del model.graph.value_info[:]


def _in_order_of(
    original: Sequence[onnx.NodeProto], nodes: Sequence[onnx.NodeProto]
) -> list[onnx.NodeProto]:
    """The nodes in topological order, as close to the original order as possible.

    onnxslim sorts by depth, which interleaves parallel branches; the order is that of execution,
    and cache contents depend on it.
    """
    rank = {name: i for i, node in enumerate(original) for name in node.output}
    producer = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    waiting: list[int] = []
    readers: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        sources = {producer[name] for name in names_of(node) if name in producer}
        waiting.append(len(sources))
        for source in sources:
            readers.setdefault(source, []).append(i)
    ready = [(_rank(nodes[i], rank), i) for i, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    ordered: list[onnx.NodeProto] = []
    while ready:
        _, i = heapq.heappop(ready)
        ordered.append(nodes[i])
        for reader in readers.get(i, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (_rank(nodes[reader], rank), reader))
    return ordered


def _rank(node: onnx.NodeProto, rank: dict[str, int]) -> int:
    return min((rank[name] for name in node.output if name in rank), default=-1)


def _known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the values whose every dimension is known."""
    skeleton, _ = detach_large_weights(model)
    inferred = infer_types(skeleton)
    known: dict[str, tuple[int, ...]] = {}
    for value in (*inferred.graph.output, *inferred.graph.value_info, *inferred.graph.input):
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if tensor.HasField("shape") and min(dims, default=0) >= 0:
            known[value.name] = tuple(dims)
    return known


def _fold_once(
    graph: onnx.GraphProto, shapes: dict[str, tuple[int, ...]], opset: dict[str, int], left: int
) -> int | None:
    """Folds what can be folded in one walk; returns how many bytes it made, None where nothing."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    made = 0
    for node in graph.node:
        folded = None
        if not outputs.intersection(node.output) or node.op_type in _OF_SHAPES:
            folded = _folded(node, constants, shapes, opset, left - made)
        if folded is None:
            nodes.append(node)
            continue
        for name, value in folded.items():
            tensor = graph.initializer.add()  # filled in place: weights can be large
            tensor.name, tensor.raw_data = name, value.tobytes()
            tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
            tensor.dims.extend(value.shape)
            constants[name] = tensor
            made += value.nbytes
    if len(nodes) == len(graph.node):
        return None
    _replace_nodes(graph, nodes)
    return made


def _folded(
    node: onnx.NodeProto,
    constants: dict[str, onnx.TensorProto],
    shapes: dict[str, tuple[int, ...]],
    opset: dict[str, int],
    left: int,
) -> dict[str, np.ndarray] | None:
    """The node's outputs by name, or None where they are not constant."""
    if node.op_type in _OF_SHAPES and node.domain in _STANDARD and node.input[0] in shapes:
        return {node.output[0]: _shape_constant(node, shapes[node.input[0]])}
    names = [name for name in node.input if name]
    if any(name not in constants for name in names) or node.domain not in _STANDARD:
        return None
    if node.op_type in _RANDOM_OPS or any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    check_folding(node, constants, shapes, left)
    try:
        feeds = {name: numpy_helper.to_array(constants[name]) for name in names}
        values = _evaluate(node, feeds, constants, opset)
        named = zip(node.output, values, strict=False)
        return {name: np.ascontiguousarray(value).reshape(np.shape(value)) for name, value in named}
    except Exception as error:
        logger.debug("%s %s is not folded: %s", node.op_type, node.name, error)
        return None


def _evaluate(
    node: onnx.NodeProto,
    feeds: dict[str, np.ndarray],
    constants: dict[str, onnx.TensorProto],
    opset: dict[str, int],
) -> list[np.ndarray]:
    inputs = [
        helper.make_tensor_value_info(name, constants[name].data_type, list(constants[name].dims))
        for name in feeds
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "fold", inputs, outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in opset.items()]
    model = helper.make_model(graph, opset_imports=imports)
    values: Any = ReferenceEvaluator(model).run(None, feeds)
    if not all(isinstance(value, (np.ndarray, np.generic)) for value in values):
        raise TypeError("a result is no tensor")
    return list(values)


def _shape_constant(node: onnx.NodeProto, shape: tuple[int, ...]) -> np.ndarray:
    if node.op_type == "Size":
        return np.array(math.prod(shape), dtype=np.int64)
    limits = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[limits.get("start", 0) : limits.get("end", len(shape))], dtype=np.int64)


def _chain(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Add nodes that sum the operands of a Sum node from left to right."""
    left = node.input[0]
    for i, right in enumerate(node.input[1:], start=1):
        last = i == len(node.input) - 1
        result = node.output[0] if last else f"{node.output[0]}__sum{i}"
        yield helper.make_node("Add", [left, right], [result], name=f"{node.name}_{i}")
        left = result


def _bypass(graph: onnx.GraphProto, removable: Callable[[onnx.NodeProto], bool]) -> None:
    """Removes nodes that pass their first operand on, and connects their readers to it."""
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if not removable(node):
            nodes.append(node)
        elif node.output[0] in outputs:
            identity = helper.make_node("Identity", [node.input[0]], [node.output[0]])
            nodes.append(identity)
        else:
            source[node.output[0]] = source.get(node.input[0], node.input[0])
    if source:
        for node in nodes:
            _rename_inputs(node, source)
    _replace_nodes(graph, nodes)


def _rename_inputs(node: onnx.NodeProto, names: dict[str, str]) -> None:
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for branch in branches_of(node):
        for inner in branch.node:
            _rename_inputs(inner, names)


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    _replace(graph.node, nodes)


def _replace(field: Any, messages: Sequence[Any]) -> None:
    """Sets a repeated field to messages that may still belong to it."""
    copies = []
    for message in messages:
        copy = type(message)()
        copy.CopyFrom(message)
        copies.append(copy)
    del field[:]
    field.extend(copies)
