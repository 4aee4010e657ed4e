"""Matrix products joined on a graph: the twin of ``compilers.joining``."""

from __future__ import annotations

from dataclasses import replace

from tvm_costmodel.compilers.decidable import joinable
from tvm_costmodel.graph import Edge, Operator, OpGraph, TensorType
from tvm_costmodel.tuning.rewriting import Rewriting


def join_products(graph: OpGraph, sources: tuple[int, ...]) -> tuple[OpGraph, tuple[int, ...]]:
    """Makes dense layers of one input one layer and slices of its result.

    The joined layer takes the source of the first.
    """
    group = {i: members for members in joinable(graph) for i in members}
    new = Rewriting()
    joined: dict[int, Edge] = {}  # by the first of a group
    for i, operator in enumerate(graph.operators):
        inputs = tuple(new.renamed[edge] for edge in operator.inputs)
        members = group.get(i)
        if members is None:
            copy = replace(operator, inputs=inputs)
            new.rename(i, new.add(copy, sources[i]), len(operator.outputs))
            continue
        if i == members[0]:
            layers = [graph.operators[member] for member in members]
            joined[i] = _joined(new, layers, inputs[0], sources[i])
        begin = sum(_width(graph.operators[m]) for m in members[: members.index(i)])
        new.renamed[i, 0] = _slice(new, joined[members[0]], begin, operator)
    return new.finish([new.renamed[edge] for edge in graph.outputs], graph.name)


def _width(layer: Operator) -> int:
    return layer.weights[0].shape[1]


def _joined(new: Rewriting, layers: list[Operator], x: Edge, source: int) -> Edge:
    first, width = layers[0], sum(map(_width, layers))
    (output,), (weights,) = first.outputs, first.weights
    attrs = {**first.attrs, "out_features": width}
    stored = TensorType((weights.shape[0], width), weights.dtype)
    made = TensorType((*output.shape[:-1], width), output.dtype)
    return new.emit("dense", [x], made, [stored], attrs, source)


def _slice(new: Rewriting, joined: Edge, begin: int, layer: Operator) -> Edge:
    output = layer.outputs[0]
    attrs = {
        "axes": (len(output.shape) - 1,),
        "begin": (begin,),
        "end": (begin + _width(layer),),
    }
    return new.emit("strided_slice", [joined], output, attrs=attrs)
