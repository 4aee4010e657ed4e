"""Batch norm folded into convolutions: the twin of ``compilers.relax.passes.fold_batch_norm``.

Types suffice: a constant scale moves into a convolution's weights, or into a neighbouring scale or
shift, whatever its values are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Edge, Operator, TensorType
from tvm_costmodel.graph_passes.rewriter import Rewriting, without_positions

_CHANNEL_AXIS = 1


@dataclass(frozen=True)
class _Value:
    """A value and how often the source graph reads the variable that it is read through."""

    edge: Edge
    uses: int = 1


def fold_batch_norm(
    graph: OpGraph, sources: tuple[int, ...], into_convolutions: bool
) -> tuple[OpGraph, tuple[int, ...]]:
    """Turns batch norms into scales and shifts, and merges neighbouring ones.

    Args:
        graph: A graph in NCHW.
        sources: Source of each operator, see ``Rewriting``.
        into_convolutions: Whether scales move into the weights of convolutions.
    """
    return _BatchNormFolding(graph, sources, into_convolutions).run()


class _BatchNormFolding:
    def __init__(self, graph: OpGraph, sources: tuple[int, ...], into_convolutions: bool) -> None:
        self.graph, self.sources, self.into_convolutions = graph, sources, into_convolutions
        self.new = Rewriting()
        self.uses = Counter(edge for op in graph.operators for edge in op.inputs)
        self.uses.update(graph.outputs)
        self.read_through: dict[int, int] = {}  # uses of the first operand of each new operator

    def run(self) -> tuple[OpGraph, tuple[int, ...]]:
        for i, operator in enumerate(self.graph.operators):
            edge = self._rewritten(i, operator)
            if edge is None:
                self._copy(i, operator)
            else:
                self.new.renamed[i, 0] = edge
        outputs = [self.new.renamed[edge] for edge in self.graph.outputs]
        return self.new.finish(outputs, self.graph.name)

    def _copy(self, i: int, operator: Operator) -> None:
        inputs = tuple(self.new.renamed[edge] for edge in operator.inputs)
        copy = Operator(
            operator.op, inputs, operator.outputs, operator.weights, operator.attrs, operator.name
        )
        new = self.new.add(copy, self.sources[i])
        self.new.rename(i, new, len(operator.outputs))
        if operator.inputs:
            self.read_through[new] = self.uses[operator.inputs[0]]

    def _value(self, edge: Edge) -> _Value:
        return _Value(self.new.renamed[edge], self.uses[edge])

    def _rewritten(self, i: int, operator: Operator) -> Edge | None:
        if operator.op == "clip" and len(operator.inputs) == 1:
            return self._clipped(operator)
        if len(operator.inputs) != 1:
            return None
        x = self._value(operator.inputs[0])
        if operator.op == "batch_norm" and len(operator.weights) == 4:
            shape = [1] * len(self.new.type_of(x.edge).shape)
            shape[int(str(operator.attrs["axis"]))] = operator.weights[0].shape[0]
            term = TensorType(tuple(shape), operator.weights[0].dtype)
            return self._shifted(self._scaled(x, term), term)
        if operator.op not in ("multiply", "add") or len(operator.weights) != 1:
            return None
        term = operator.weights[0]
        if not _is_channel_wise(term, self.new.type_of(x.edge)):
            return None
        return self._scaled(x, term).edge if operator.op == "multiply" else self._shifted(x, term)

    def _clipped(self, operator: Operator) -> Edge:
        edge = self.new.renamed[operator.inputs[0]]
        output = operator.outputs[0]
        bound = TensorType((), output.dtype)
        edge = self.new.emit("maximum", [edge], output, [bound])
        return self.new.emit("minimum", [edge], output, [bound])

    def _definition(self, x: _Value) -> tuple[int, Operator] | None:
        if x.uses != 1:
            return None
        return x.edge[0], self.new.producer(x.edge)

    def _term_of(
        self, definition: tuple[int, Operator] | None, ops: tuple[str, ...]
    ) -> TensorType | None:
        """The channel-wise constant that a scale or shift has as its right operand."""
        if definition is None:
            return None
        operator = definition[1]
        if operator.op not in ops or len(operator.inputs) != 1 or len(operator.weights) != 1:
            return None
        if "weight_positions" in operator.attrs:
            return None
        inner = self.new.type_of(operator.inputs[0])
        return operator.weights[0] if _is_channel_wise(operator.weights[0], inner) else None

    def _inner(self, definition: tuple[int, Operator]) -> _Value:
        number, operator = definition
        return _Value(operator.inputs[0], self.read_through.get(number, 1))

    def _scaled(self, x: _Value, scale: TensorType) -> _Value:
        definition = self._definition(x)
        if self.into_convolutions and definition is not None and _absorbs_scales(definition[1]):
            return _Value(x.edge)
        term = self._term_of(definition, ("add", "multiply"))
        if definition is not None and term is not None:
            merged = TensorType(np.broadcast_shapes(term.shape, scale.shape), scale.dtype)
            if definition[1].op == "multiply":
                return self._scaled(self._inner(definition), merged)
            return _Value(self._shifted(self._scaled(self._inner(definition), scale), merged))
        return _Value(self._emit("multiply", x, scale))

    def _shifted(self, x: _Value, shift: TensorType) -> Edge:
        definition = self._definition(x)
        term = self._term_of(definition, ("add",))
        if definition is not None and term is not None:
            merged = TensorType(np.broadcast_shapes(term.shape, shift.shape), shift.dtype)
            return self._shifted(self._inner(definition), merged)
        return self._emit("add", x, shift)

    def _emit(self, op: str, x: _Value, term: TensorType) -> Edge:
        edge = self.new.emit(op, [x.edge], self.new.type_of(x.edge), [term])
        self.read_through[edge[0]] = x.uses
        return edge


def _absorbs_scales(operator: Operator) -> bool:
    return (
        operator.op == "conv2d"
        and len(operator.weights) == 1
        and len(operator.inputs) == 1
        and operator.attrs.get("kernel_layout") == "OIHW"
        and not without_positions(operator).keys() ^ operator.attrs.keys()
    )


def _is_channel_wise(term: TensorType, x: TensorType) -> bool:
    if len(x.shape) != 4 or len(term.shape) > 4 or term.dtype != "float32":
        return False
    shape = (1,) * (4 - len(term.shape)) + term.shape
    if shape[0] != 1 or shape[2] != 1 or shape[3] != 1:
        return False
    return shape[1] in (1, x.shape[_CHANNEL_AXIS])
