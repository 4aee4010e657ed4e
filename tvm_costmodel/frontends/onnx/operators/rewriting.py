"""Runs the rewrites of single operators over a model's graph until none applies."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.frontends.onnx.folding_limits import infer_types, inference_fault
from tvm_costmodel.frontends.onnx.large_weights import without_large_weights
from tvm_costmodel.frontends.onnx.operators import (
    decompositions,
    elementwise,
    empties,
    padding,
    refusals,
    resizing,
)
from tvm_costmodel.frontends.onnx.operators.editor import (
    STANDARD_DOMAINS,
    GraphEditor,
    Shape,
    branches_of,
)
from tvm_costmodel.frontends.onnx.rewrites import component_of, note_rewrite

Rewrite = Callable[[onnx.NodeProto, GraphEditor], "list[onnx.NodeProto] | None"]

_MAX_ROUNDS = 8

REWRITES: dict[str, Rewrite] = {
    **dict.fromkeys(decompositions.ALWAYS, decompositions.decompose),
    "LayerNormalization": decompositions.rewrite_normalisation,
    "RMSNormalization": decompositions.rewrite_normalisation,
    "SpaceToDepth": decompositions.decompose_in_column_mode,
    **dict.fromkeys(("Elu", "Selu", "ThresholdedRelu"), decompositions.decompose_unless_single),
    "Split": empties.drop_empty_parts,
    "Concat": empties.drop_empty_operands,
    "Resize": resizing.rewrite_resize,
    "Upsample": resizing.rewrite_resize,
    **padding.REWRITES,
    **elementwise.REWRITES,
}
"""Function by name of the operator. `component_of` the name is in the table of components."""


def rewrite_operators(
    model: onnx.ModelProto, label: str, fold: Callable[[onnx.ModelProto], None]
) -> None:
    """Rewrites operators that TVM's importer would take for something else.

    Args:
        model: Changed in place; the rewrites that changed it are noted in its metadata.
        label: Its name in messages.
        fold: Folds constants; called after each round, since rewrites make new ones.

    Raises:
        UnsupportedOperatorError: A node has a form that cannot be imported rightly.
        ModelFileError: A node cannot have its operands and attributes.
    """
    opset = next(o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS)
    for _ in range(_MAX_ROUNDS):
        typed = infer_types(without_large_weights(model))
        inferred = typed.graph
        graph = GraphEditor(model.graph, _types(inferred, model.graph), opset, label)
        changed = _rewrite(model.graph, inferred, graph)
        if not changed:
            if fault := inference_fault(typed):
                raise ModelFileError(
                    f'{label}: ONNX finds a fault in {fault[0]}, node "{fault[1][:200]}" '
                    f"({fault[2]}); export the model again"
                )
            _check(model.graph, inferred, graph)
            return
        del model.graph.value_info[:]
        for component in changed:
            note_rewrite(model, component)
        fold(model)


def _rewrite(proto: onnx.GraphProto, inferred: onnx.GraphProto, graph: GraphEditor) -> set[str]:
    """Rewrites each node once, those of branches too; returns the components that changed it."""
    nodes: list[onnx.NodeProto] = []
    changed, inner = set(), set()
    for node in proto.node:
        for branch, types in _branches(node, inferred):
            inner |= _rewrite(branch, types, graph.within(branch, _types(types, branch)))
        written = None
        if node.domain in STANDARD_DOMAINS and node.op_type in REWRITES:
            written = REWRITES[node.op_type](node, graph)
        if written is None:
            nodes.append(node)
        else:
            nodes.extend(written)
            changed.add(component_of(node.op_type))
    if changed:
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del proto.node[:]
        proto.node.extend(copies)
    return changed | inner


def _check(proto: onnx.GraphProto, inferred: onnx.GraphProto, graph: GraphEditor) -> None:
    refusals.check_nodes(list(proto.node), graph)
    for node in proto.node:
        for branch, types in _branches(node, inferred):
            _check(branch, types, graph.within(branch, _types(types, branch)))


def _branches(
    node: onnx.NodeProto, inferred: onnx.GraphProto
) -> list[tuple[onnx.GraphProto, onnx.GraphProto]]:
    """A node's branches, each with its copy that holds the types of its values."""
    branches = branches_of(node)
    if not branches:
        return []
    typed = next(twin for twin in inferred.node if twin.output == node.output)
    return list(zip(branches, branches_of(typed), strict=True))


def _types(
    inferred: onnx.GraphProto, graph: onnx.GraphProto
) -> dict[str, tuple[int, Shape | None]]:
    """Element type and shape of every value of a graph whose type is known."""
    types: dict[str, tuple[int, Shape | None]] = {}
    for value in (*inferred.output, *inferred.value_info, *inferred.input):
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        known = tensor.HasField("shape") and min(dims, default=0) >= 0
        types[value.name] = (tensor.elem_type, tuple(dims) if known else None)
    for weight in graph.initializer:
        types[weight.name] = (weight.data_type, tuple(weight.dims))
    return types
