"""Mixed precision: which values are stored in float16, and the graph that results.

`float16_values` chooses the values, for any representation of a network; the compiler's pass
(``compilers.relax.passes.mixed_precision``) and its twin here, `to_mixed_precision`, both use it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Edge, Operator, TensorType
from tvm_costmodel.graph_passes.rewriter import Rewriting
from tvm_costmodel.ops import CATALOGUE

FLOAT16_READERS = frozenset(("conv2d", "dense", "matmul"))
"""Operators that read float16 and compute float32."""

FLOAT16_MOVERS = frozenset(
    "max_pool2d concat transpose reshape flatten batch_flatten squeeze expand_dims strided_slice "
    "split".split()
)
"""Operators that pass float16 on, since they compute nothing that rounds."""

_FULL, _HALF = "float32", "float16"


@dataclass(frozen=True)
class Step:
    """One operator as the choice of float16 values sees it.

    Attributes:
        op: Its canonical name.
        inputs: The activations that it reads.
        outputs: Its results.
        is_float32: Whether every tensor that it reads or writes is float32.
    """

    op: str
    inputs: tuple[Hashable, ...]
    outputs: tuple[Hashable, ...]
    is_float32: bool


def float16_values(steps: Sequence[Step], interface: Iterable[Hashable]) -> set[Hashable]:
    """The values that are stored in float16.

    These are the inputs of `FLOAT16_READERS`, the inputs that `FLOAT16_MOVERS` make such values
    of, and the results of movers that element-wise operators with float16 results read.

    Args:
        steps: All operators but the network's inputs, each after those that it reads.
        interface: Inputs and outputs of the network, which stay float32.
    """
    full = set(interface)
    moved = {value for step in steps if step.op in FLOAT16_MOVERS for value in step.outputs}
    chosen: set[Hashable] = set()
    for step in reversed(steps):
        moves = step.is_float32 and step.op in FLOAT16_MOVERS and full.isdisjoint(step.outputs)
        is_chosen = not chosen.isdisjoint(step.outputs)
        if not step.is_float32 or (step.op in FLOAT16_MOVERS and not moves):
            chosen.difference_update(step.outputs)
        elif step.op in FLOAT16_READERS:
            chosen.update(set(step.inputs) - full)
        elif is_chosen and moves:  # all of an operator's results are of one type
            chosen.update(step.outputs, set(step.inputs) - full)
        elif is_chosen and _is_element_wise(step.op):
            chosen.update(moved.intersection(step.inputs) - full)
    return chosen


def _is_element_wise(op: str) -> bool:
    spec = CATALOGUE.get(op)
    return spec is not None and spec.category in ("elementwise", "activation")


def to_mixed_precision(graph: OpGraph, sources: tuple[int, ...]) -> tuple[OpGraph, tuple[int, ...]]:
    """Stores the values that `float16_values` chooses in float16; the last pass on a graph.

    Args:
        graph: A graph after all other passes.
        sources: Source of each operator, see ``Rewriting``.
    """
    return _MixedPrecision(graph, sources).run()


class _MixedPrecision:
    """Converts operands to what their operators read, and results to what is stored."""

    def __init__(self, graph: OpGraph, sources: tuple[int, ...]) -> None:
        self.graph, self.sources = graph, sources
        self.new = Rewriting()
        self.is_float32 = [self._reads_and_writes_float32(op) for op in graph.operators]
        self.stored_half = self._stored_half()
        self.casts: dict[Edge, Edge] = {}  # float16 copy of a new float32 edge

    def _reads_and_writes_float32(self, operator: Operator) -> bool:
        inputs = [self.graph.operators[src].outputs[index] for src, index in operator.inputs]
        return all(t.dtype == _FULL for t in (*inputs, *operator.outputs, *operator.weights))

    def _stored_half(self) -> set[Hashable]:
        steps, interface = [], list(self.graph.outputs)
        for i, operator in enumerate(self.graph.operators):
            outputs = tuple((i, index) for index in range(len(operator.outputs)))
            if operator.op == "input":
                interface += outputs
            else:
                steps.append(Step(operator.op, operator.inputs, outputs, self.is_float32[i]))
        return float16_values(steps, interface)

    def run(self) -> tuple[OpGraph, tuple[int, ...]]:
        for i, operator in enumerate(self.graph.operators):
            self._rewrite(i, operator)
        outputs = [self.new.renamed[edge] for edge in self.graph.outputs]
        return self.new.finish(outputs, self.graph.name)

    def _rewrite(self, i: int, operator: Operator) -> None:
        inputs = [self.new.renamed[edge] for edge in operator.inputs]
        stored_half = (i, 0) in self.stored_half
        moves = stored_half and operator.op in FLOAT16_MOVERS
        if moves or (operator.op in FLOAT16_READERS and self.is_float32[i]):
            inputs = [self._half(edge) for edge in inputs]
            operator = replace(operator, weights=_half_types(operator.weights))
        else:
            inputs = self._full(operator, inputs)
        if moves:
            operator = replace(operator, outputs=_half_types(operator.outputs))
        new = self.new.add(replace(operator, inputs=tuple(inputs)), self.sources[i])
        self.new.rename(i, new, len(operator.outputs))
        if stored_half and not moves:
            self.new.renamed[i, 0] = self._cast((new, 0), _HALF)

    def _cast(self, edge: Edge, dtype: str) -> Edge:
        output = TensorType(self.new.type_of(edge).shape, dtype)
        return self.new.emit("cast", [edge], output, attrs={"dtype": dtype})

    def _half(self, edge: Edge) -> Edge:
        if self.new.type_of(edge).dtype != _FULL:
            return edge
        if edge not in self.casts:
            self.casts[edge] = self._cast(edge, _HALF)
        return self.casts[edge]

    def _full(self, operator: Operator, inputs: list[Edge]) -> list[Edge]:
        """Operands in float32, where they were float32 in the source."""
        operands: dict[Edge, Edge] = {}
        for source, edge in zip(operator.inputs, inputs, strict=True):
            dtype = self.graph.operators[source[0]].outputs[source[1]].dtype
            if edge not in operands:
                differs = (dtype, self.new.type_of(edge).dtype) == (_FULL, _HALF)
                operands[edge] = self._cast(edge, _FULL) if differs else edge
        return [operands[edge] for edge in inputs]


def _half_types(tensors: Iterable[TensorType]) -> tuple[TensorType, ...]:
    return tuple(TensorType(t.shape, _HALF if t.dtype == _FULL else t.dtype) for t in tensors)
