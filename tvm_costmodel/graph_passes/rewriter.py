"""Rewriting of a graph: operators are appended one by one, and unused ones dropped at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType
from tvm_costmodel.graph_passes.tunable_ops import needed_operators

Axes = tuple[int, ...]


class Rewriting:
    """Grows a new graph from an old one, keeping which source operator each new one comes from.

    Attributes:
        operators: The new operators so far.
        sources: For each, the id of the operator of the first source graph, or -1.
        renamed: New edge of each old one that was rewritten.
    """

    def __init__(self) -> None:
        self.operators: list[Operator] = []
        self.sources: list[int] = []
        self.renamed: dict[Edge, Edge] = {}

    def add(self, operator: Operator, source: int = -1) -> int:
        """Appends an operator, whose inputs are new edges, and returns its id."""
        self.operators.append(operator)
        self.sources.append(source)
        return len(self.operators) - 1

    def emit(
        self,
        op: str,
        inputs: Sequence[Edge],
        output: TensorType,
        weights: Sequence[TensorType] = (),
        attrs: Mapping[str, AttrValue] | None = None,
        source: int = -1,
    ) -> Edge:
        """Appends an operator of one result and returns that."""
        operator = Operator(op, tuple(inputs), (output,), tuple(weights), dict(attrs or {}))
        return self.add(operator, source), 0

    def rename(self, i: int, new: int, count: int) -> None:
        """Notes that all results of old operator ``i`` are those of new operator ``new``."""
        for index in range(count):
            self.renamed[i, index] = (new, index)

    def producer(self, edge: Edge) -> Operator:
        """The new operator whose result an edge is."""
        return self.operators[edge[0]]

    def type_of(self, edge: Edge) -> TensorType:
        """Type of a new edge."""
        return self.operators[edge[0]].outputs[edge[1]]

    def transposed(self, edge: Edge, axes: Axes) -> Edge:
        """Appends a transpose."""
        source = self.type_of(edge)
        output = TensorType(permuted(source.shape, axes), source.dtype)
        return self.emit("transpose", [edge], output, attrs={"axes": axes})

    def finish(self, outputs: Sequence[Edge], name: str) -> tuple[OpGraph, tuple[int, ...]]:
        """The new graph without operators that no output needs, and the source of each operator."""
        whole = OpGraph(tuple(self.operators), tuple(outputs), name)
        is_used = [
            n or o.op == "input"
            for n, o in zip(needed_operators(whole), whole.operators, strict=True)
        ]
        number: dict[int, int] = {}
        operators: list[Operator] = []
        sources: list[int] = []
        for i, operator in enumerate(whole.operators):
            if not is_used[i]:
                continue
            number[i] = len(operators)
            inputs = tuple((number[src], index) for src, index in operator.inputs)
            operators.append(replace(operator, inputs=inputs))
            sources.append(self.sources[i])
        ends = tuple((number[src], index) for src, index in outputs)
        return OpGraph(tuple(operators), ends, name), tuple(sources)


def permuted(shape: Sequence[int], axes: Axes) -> tuple[int, ...]:
    """The shape of a transpose's result."""
    return tuple(shape[axis] for axis in axes)


def inverse(axes: Axes) -> Axes:
    """The axes that undo a transpose."""
    return tuple(axes.index(axis) for axis in range(len(axes)))


def weight_first(operator: Operator) -> bool:
    """Whether a binary operator's constant is its left operand."""
    return operator.attrs.get("weight_positions") == (0,)


def without_positions(operator: Operator) -> dict[str, AttrValue]:
    """An operator's attributes but for where its weights stand among its operands."""
    return {key: v for key, v in operator.attrs.items() if key != "weight_positions"}
