"""What storing halves makes of a graph: the twin of ``compilers.precision``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tvm_costmodel.compilers.halves import MOVING, PRODUCTS, Step, halved_values
from tvm_costmodel.graph import Edge, Operator, OpGraph, TensorType
from tvm_costmodel.tuning.rewriting import Rewriting

_FULL, _HALF = "float32", "float16"


def store_halves(graph: OpGraph, sources: tuple[int, ...]) -> tuple[OpGraph, tuple[int, ...]]:
    """Stores values as halves, the last thing that is done to a graph.

    Args:
        graph: A graph after all other passes.
        sources: Source of each operator, see ``Rewriting``.
    """
    return _Halving(graph, sources).run()


class _Halving:
    def __init__(self, graph: OpGraph, sources: tuple[int, ...]) -> None:
        self.graph, self.sources = graph, sources
        self.new = Rewriting()
        self.plain = [self._is_plain(operator) for operator in graph.operators]
        self.halved = self._halved()
        self.halves: dict[Edge, Edge] = {}  # by new edge, of values that are not stored so

    def _is_plain(self, operator: Operator) -> bool:
        read = [self.graph.operators[src].outputs[index] for src, index in operator.inputs]
        return all(t.dtype == _FULL for t in (*read, *operator.outputs, *operator.weights))

    def _halved(self) -> set[object]:
        steps, kept = [], list(self.graph.outputs)
        for i, operator in enumerate(self.graph.operators):
            makes = tuple((i, index) for index in range(len(operator.outputs)))
            if operator.op == "input":
                kept += makes
            else:
                steps.append(Step(operator.op, operator.inputs, makes, self.plain[i]))
        return set(halved_values(steps, kept))

    def run(self) -> tuple[OpGraph, tuple[int, ...]]:
        for i, operator in enumerate(self.graph.operators):
            self._rewrite(i, operator)
        outputs = [self.new.renamed[edge] for edge in self.graph.outputs]
        return self.new.finish(outputs, self.graph.name)

    def _rewrite(self, i: int, operator: Operator) -> None:
        inputs = [self.new.renamed[edge] for edge in operator.inputs]
        stored = (i, 0) in self.halved
        moves = stored and operator.op in MOVING
        if moves or (operator.op in PRODUCTS and self.plain[i]):
            inputs = [self._half(edge) for edge in inputs]
            operator = replace(operator, weights=_as_halves(operator.weights))
        else:
            inputs = self._full(operator, inputs)
        if moves:
            operator = replace(operator, outputs=_as_halves(operator.outputs))
        new = self.new.add(replace(operator, inputs=tuple(inputs)), self.sources[i])
        self.new.rename(i, new, len(operator.outputs))
        if stored and not moves:
            self.new.renamed[i, 0] = self._cast((new, 0), _HALF)

    def _cast(self, edge: Edge, dtype: str) -> Edge:
        made = TensorType(self.new.type_of(edge).shape, dtype)
        return self.new.emit("cast", [edge], made, attrs={"dtype": dtype})

    def _half(self, edge: Edge) -> Edge:
        if self.new.type_of(edge).dtype != _FULL:
            return edge
        if edge not in self.halves:
            self.halves[edge] = self._cast(edge, _HALF)
        return self.halves[edge]

    def _full(self, operator: Operator, inputs: list[Edge]) -> list[Edge]:
        """Operands in single precision, where they were that before."""
        made: dict[Edge, Edge] = {}
        for old, edge in zip(operator.inputs, inputs, strict=True):
            before = self.graph.operators[old[0]].outputs[old[1]].dtype
            if edge not in made:
                differs = (before, self.new.type_of(edge).dtype) == (_FULL, _HALF)
                made[edge] = self._cast(edge, _FULL) if differs else edge
        return [made[edge] for edge in inputs]


def _as_halves(tensors: Iterable[TensorType]) -> tuple[TensorType, ...]:
    return tuple(TensorType(t.shape, _HALF if t.dtype == _FULL else t.dtype) for t in tensors)
