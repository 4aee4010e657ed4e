"""OpGraph: one network as operators, types and directed edges.

Every front end produces an OpGraph and everything else (tokenizer, predictors, store, tuner) reads
one, so nothing in this file knows TVM, ONNX or torch. Tuples dissolve into ``(operator, output
index)`` pairs and constants into each operator's ``weights``; the operators that compute remain.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph import serialization
from tvm_costmodel.graph.plausibility import fault_of
from tvm_costmodel.graph.types import Edge, Operator, TensorType
from tvm_costmodel.ops import CATALOGUE, OpCost, operator_cost

HASH_VERSION = 1
"""Part of every content hash: raise it when the meaning of a label below changes."""


@dataclass(frozen=True)
class OpGraph:
    """A network: operators in topological order, inputs included as operators named ``input``.

    Attributes:
        operators: Every operator after the producers of its inputs.
        outputs: ``(operator, output index)`` of each result of the network, in order.
        name: Name for messages and reports; never part of the content hash.

    Raises:
        GraphError: An operator reads itself, a later operator, one that is not there, or an
            output that its producer does not have; an input reads anything.
    """

    operators: tuple[Operator, ...]
    outputs: tuple[Edge, ...]
    name: str = ""

    def __post_init__(self) -> None:
        counts = [len(operator.outputs) for operator in self.operators]
        for i, operator in enumerate(self.operators):
            for src, index in operator.inputs:
                if not (0 <= src < i and 0 <= index < counts[src]):
                    _refuse_edge((src, index), counts, f"operator {i} ({operator.op})")
            if operator.op == "input" and operator.inputs:
                raise GraphError(f"operator {i} is an input, but reads: export the model again")
        for src, index in self.outputs:
            if not (0 <= src < len(counts) and 0 <= index < counts[src]):
                _refuse_edge((src, index), counts, "the graph's outputs")

    def __len__(self) -> int:
        return len(self.operators)

    def __hash__(self) -> int:
        return int(self.hash[:15], 16)

    @cached_property
    def edges(self) -> np.ndarray:
        """int32 [E, 2]: (producer, consumer) of each activation operand, consumers ascending."""
        pairs = [(src, i) for i, op in enumerate(self.operators) for src, _ in op.inputs]
        return np.array(pairs, dtype=np.int32).reshape(-1, 2)

    @cached_property
    def consumers(self) -> tuple[tuple[Edge, ...], ...]:
        """For each operator, ``(consumer, operand position)`` of everything that reads it."""
        readers: list[list[Edge]] = [[] for _ in self.operators]
        for i, operator in enumerate(self.operators):
            for position, (src, _) in enumerate(operator.inputs):
                readers[src].append((i, position))
        return tuple(tuple(r) for r in readers)

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Ids of the graph's inputs, in order."""
        return tuple(i for i, operator in enumerate(self.operators) if operator.op == "input")

    @cached_property
    def unknown_ops(self) -> tuple[str, ...]:
        """Names of operators that the catalogue does not have, sorted, each once."""
        return tuple(sorted({op.op for op in self.operators if op.op not in CATALOGUE}))

    @cached_property
    def is_dynamic(self) -> bool:
        """Whether any dimension of any value is unknown until run time."""
        return any(-1 in t.shape for op in self.operators for t in op.outputs)

    def require_static(self) -> None:
        """Refuses a graph whose shapes are not all known.

        Raises:
            GraphError: A dimension is unknown until run time.
        """
        if self.is_dynamic:
            raise GraphError(
                f"graph {self.name or self.hash!r} has dimensions unknown until run time: "
                "fix those of inputs with --shape name=1,3,224,224; sizes that depend on values "
                "cannot be predicted"
            )

    @cached_property
    def fault(self) -> str:
        """What makes the graph impossible as a network; empty where nothing does."""
        results = [self.operators[src].outputs[index] for src, index in self.outputs]
        outputs = [operator.outputs for operator in self.operators]
        reads = [[outputs[src][i] for src, i in operator.inputs] for operator in self.operators]
        return fault_of(self.operators, results, reads, lambda: self.costs)

    def require_plausible(self) -> None:
        """Refuses a graph that no network can have; see `tvm_costmodel.graph.plausibility`.

        Raises:
            GraphError: It computes nothing, has no elements, an unknown element type, operators
                whose shapes do not fit together, or a size that no machine could run.
        """
        if self.fault:
            raise GraphError(
                f"graph {self.name or self.hash!r}: {self.fault}; export the model again with "
                "`tvm-costmodel export`"
            )

    def input_types(self, operator: int) -> tuple[TensorType, ...]:
        """Types of the activations that an operator reads, in argument order."""
        reads = self.operators[operator].inputs
        return tuple(self.operators[src].outputs[index] for src, index in reads)

    @cached_property
    def costs(self) -> tuple[OpCost, ...]:
        """Cost of each operator (see `tvm_costmodel.ops.operator_cost`)."""
        return tuple(
            operator_cost(operator, self.input_types(i))
            for i, operator in enumerate(self.operators)
        )

    @cached_property
    def flops(self) -> int:
        """Floating-point operations of one forward pass."""
        return sum(cost.flops for cost in self.costs)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass (convolutions and matmuls only)."""
        return sum(cost.macs for cost in self.costs)

    @cached_property
    def bytes(self) -> int:
        """Bytes read and written by all operators, were each to run alone."""
        return sum(cost.bytes for cost in self.costs)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of constant operands that one forward pass reads."""
        return sum(cost.weight_bytes for cost in self.costs)

    @cached_property
    def hash(self) -> str:
        """Content hash of 32 hexadecimal characters.

        Equal for two graphs exactly when an operator-by-operator match exists that keeps operator
        names, attributes, types, operand order, sharing, and the order of the graph's inputs and
        outputs. Names, the order among independent operators and the process play no part.
        """
        return _content_hash(self)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, schema version; equal graphs give equal text."""
        return serialization.encode(self.operators, self.outputs, self.name)

    @classmethod
    def from_json(cls, text: str) -> OpGraph:
        """Reads what `to_json` wrote.

        Raises:
            GraphError: The text is no JSON, not a graph, of another schema version, or its
                operators do not fit together.
        """
        return cls(*serialization.parse(text))


def _refuse_edge(edge: Edge, output_counts: Sequence[int], reader: str) -> NoReturn:
    src, index = edge
    if not 0 <= src < len(output_counts):
        what = f"operator {src}, but there are {len(output_counts)} operators"
    elif not 0 <= index < output_counts[src]:
        what = f"output {index} of operator {src}, which has {output_counts[src]}"
    else:
        what = f"operator {src}, which does not come before it (a cycle, or no topological order)"
    raise GraphError(f"{reader} reads {what}: export the model again")


def _content_hash(graph: OpGraph) -> str:
    """Hash of the graph written down in the one order that its own structure dictates.

    Operands and outputs are ordered, so a depth-first walk from the outputs meets the operators in
    an order that no renaming or reordering can change; inputs are numbered first, by their order.
    Operators that no output needs follow, ordered by how they read against what is numbered.
    """
    labels = _labels(graph)
    number = {operator: position for position, operator in enumerate(graph.inputs)}
    lines = [f"opgraph {HASH_VERSION}"] + [labels[i] for i in graph.inputs]
    for src, _ in graph.outputs:
        lines += _write_from(graph, src, labels, number)
    lines.append(repr([(number[src], index) for src, index in graph.outputs]))
    if len(number) < len(graph.operators):
        dead = [i for i, c in enumerate(graph.consumers) if not c and i not in number]
        keys = {i: _write_from(graph, i, labels, dict(number)) for i in dead}
        for i in sorted(dead, key=keys.__getitem__):
            lines += _write_from(graph, i, labels, number)
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _labels(graph: OpGraph) -> list[str]:
    """Canonical text of each operator without its name and its inputs."""
    return [serialization.label(op.op, op.attrs, op.outputs, op.weights) for op in graph.operators]


def _write_from(
    graph: OpGraph, root: int, labels: Sequence[str], number: dict[int, int]
) -> list[str]:
    """Lines of the operators below ``root`` without a number yet, which each get the next one."""
    lines: list[str] = []
    stack = [root]
    while stack:
        current = stack[-1]
        if current in number:
            stack.pop()
            continue
        reads = graph.operators[current].inputs
        waiting = [src for src, _ in reversed(reads) if src not in number]
        if waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        number[current] = len(number)
        lines.append(f"{labels[current]}{[(number[src], index) for src, index in reads]}")
    return lines
