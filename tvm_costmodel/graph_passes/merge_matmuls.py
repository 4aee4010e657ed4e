"""Dense layers of one input merged into one: the twin of ``compilers.relax.passes.merge_matmuls``.

TVM's Relay calls this CombineParallelDense, its Relax CombineParallelMatmul.
"""

from __future__ import annotations

from dataclasses import replace

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Edge, Operator, TensorType
from tvm_costmodel.graph_passes.rewriter import Rewriting
from tvm_costmodel.graph_passes.tunable_ops import mergeable_matmuls


def merge_matmuls(graph: OpGraph, sources: tuple[int, ...]) -> tuple[OpGraph, tuple[int, ...]]:
    """Makes dense layers of one input one layer and slices of its result.

    The merged layer takes the source of the first.

    Args:
        graph: A graph before any change of layout.
        sources: Source of each operator, see ``Rewriting``.
    """
    group_of = {i: group for group in mergeable_matmuls(graph) for i in group}
    new = Rewriting()
    merged: dict[int, Edge] = {}  # by the first of a group
    for i, operator in enumerate(graph.operators):
        inputs = tuple(new.renamed[edge] for edge in operator.inputs)
        group = group_of.get(i)
        if group is None:
            copy = replace(operator, inputs=inputs)
            new.rename(i, new.add(copy, sources[i]), len(operator.outputs))
            continue
        if i == group[0]:
            layers = [graph.operators[layer] for layer in group]
            merged[i] = _merged(new, layers, inputs[0], sources[i])
        start = sum(_width(graph.operators[layer]) for layer in group[: group.index(i)])
        new.renamed[i, 0] = _slice(new, merged[group[0]], start, operator)
    return new.finish([new.renamed[edge] for edge in graph.outputs], graph.name)


def _width(layer: Operator) -> int:
    return layer.weights[0].shape[1]


def _merged(new: Rewriting, layers: list[Operator], x: Edge, source: int) -> Edge:
    first, width = layers[0], sum(map(_width, layers))
    (output,), (weights,) = first.outputs, first.weights
    attrs = {**first.attrs, "out_features": width}
    merged_weights = TensorType((weights.shape[0], width), weights.dtype)
    merged_output = TensorType((*output.shape[:-1], width), output.dtype)
    return new.emit("dense", [x], merged_output, [merged_weights], attrs, source)


def _slice(new: Rewriting, merged: Edge, start: int, layer: Operator) -> Edge:
    output = layer.outputs[0]
    attrs = {
        "axes": (len(output.shape) - 1,),
        "begin": (start,),
        "end": (start + _width(layer),),
    }
    return new.emit("strided_slice", [merged], output, attrs=attrs)
