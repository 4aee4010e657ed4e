"""Runs the rewrites of single operators over a model's graph until none applies."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from tvm_costmodel.frontends.onnx.folding_limits import infer_types
from tvm_costmodel.frontends.onnx.large_weights import without_large_weights
from tvm_costmodel.frontends.onnx.operators import (
    decompositions,
    elementwise,
    empties,
    padding,
    refusals,
    resizing,
)
from tvm_costmodel.frontends.onnx.operators.editor import STANDARD_DOMAINS, GraphEditor, Shape
from tvm_costmodel.frontends.onnx.rewrites import note_rewrite

Rewrite = Callable[[onnx.NodeProto, GraphEditor], "list[onnx.NodeProto] | None"]

_MAX_ROUNDS = 8

REWRITES: dict[str, tuple[str, Rewrite]] = {
    **{name: ("importer/decompose", decompositions.decompose) for name in decompositions.ALWAYS},
    "LayerNormalization": ("importer/decompose", decompositions.decompose_all_outputs),
    "SpaceToDepth": ("importer/decompose", decompositions.decompose_in_column_mode),
    "Split": (empties.COMPONENT, empties.drop_empty_parts),
    "Concat": (empties.COMPONENT, empties.drop_empty_operands),
    "Resize": (resizing.COMPONENT, resizing.rewrite_resize),
    "Upsample": (resizing.COMPONENT, resizing.rewrite_resize),
    "Conv": (padding.COMPONENT, padding.rewrite_auto_pad),
    "AveragePool": (padding.COMPONENT, padding.rewrite_auto_pad),
    "LpPool": (padding.COMPONENT, padding.rewrite_auto_pad),
    "ConvTranspose": (padding.COMPONENT, padding.rewrite_transposed),
    **elementwise.REWRITES,
    **refusals.REWRITES,
}
"""Component and function by name of the operator."""


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
    """
    for _ in range(_MAX_ROUNDS):
        graph = _editor(model, label)
        if not _rewrite_once(model, graph):
            refusals.check_nodes(list(model.graph.node), graph)
            return
        fold(model)


def _editor(model: onnx.ModelProto, label: str) -> GraphEditor:
    opset = next(o.version for o in model.opset_import if o.domain in STANDARD_DOMAINS)
    return GraphEditor(model.graph, value_types(model), opset, label)


def _rewrite_once(model: onnx.ModelProto, graph: GraphEditor) -> bool:
    nodes: list[onnx.NodeProto] = []
    changed = set()
    for node in model.graph.node:
        component, rewrite = REWRITES.get(node.op_type, ("", None))
        written = None
        if rewrite is not None and node.domain in STANDARD_DOMAINS:
            written = rewrite(node, graph)
        if written is None:
            nodes.append(node)
        else:
            nodes.extend(written)
            changed.add(component)
    if not changed:
        return False
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    del model.graph.value_info[:]
    for component in changed:
        note_rewrite(model, component)
    return True


def value_types(model: onnx.ModelProto) -> dict[str, tuple[int, Shape | None]]:
    """Element type and shape of every value whose type is known."""
    skeleton = without_large_weights(model)
    graph = infer_types(skeleton).graph
    types: dict[str, tuple[int, Shape | None]] = {}
    for value in (*graph.output, *graph.value_info, *graph.input):
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        known = tensor.HasField("shape") and min(dims, default=0) >= 0
        types[value.name] = (tensor.elem_type, tuple(dims) if known else None)
    for weight in model.graph.initializer:
        types[weight.name] = (weight.data_type, tuple(weight.dims))
    return types
