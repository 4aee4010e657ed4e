"""Groups the operators of an annotated OpGraph into the kernels that fusion makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Edge, Operator
from tvm_costmodel.ops import CATALOGUE, OpCost, operator_cost
from tvm_costmodel.tokenizer.kernel_features import (
    decision_numbers,
    float16_savings,
)
from tvm_costmodel.tokenizer.operator_features import (
    FOLDED,
    PhysicalTokens,
    physical_numbers,
)
from tvm_costmodel.tokenizer.vocabulary import SLOT_OF_OPERATOR, UNKNOWN, VOCABULARY

Row = tuple[list[float], tuple[float, float, float]]
"""Numbers of a token, and its work (see `operator_features.WORK`)."""


@dataclass(slots=True)
class _Kind:
    """The description that kernels of equal operators, reads and readers share.

    Attributes:
        numbers: The numbers of their tokens that no decision changes.
        cost: What crosses their boundary, with the multiply-accumulates of their anchor.
        other_macs: Other arithmetic, in multiply-accumulates.
        arrays: Numbers and work of their token as the graph has it, once they are computed.
    """

    numbers: list[float]
    cost: OpCost
    other_macs: float
    arrays: tuple[np.ndarray, np.ndarray] | None = None


class KernelCache:
    """Descriptions of kernels, shared by many graphs that are largely the same.

    Candidates of one network have most of their operators and kernels in common; each of these is
    described once.
    """

    def __init__(self) -> None:
        self._operators: dict[tuple[object, ...], int] = {}
        self._costs: list[OpCost] = []
        self._kinds: dict[tuple[object, ...], int] = {}
        self.kinds: list[_Kind] = []

    def operators(self, graph: OpGraph) -> tuple[list[int], list[OpCost]]:
        """For each operator a number, equal for operators of equal content, and its cost."""
        numbers = []
        for i, operator in enumerate(graph.operators):
            attrs = tuple(operator.attrs.items())
            read = graph.input_types(i)
            content = (operator.op, attrs, read, operator.outputs, operator.weights)
            number = self._operators.get(content)
            if number is None:
                number = self._operators[content] = len(self._costs)
                self._costs.append(operator_cost(operator, read))
            numbers.append(number)
        return numbers, [self._costs[number] for number in numbers]

    def kind(self, content: tuple[object, ...], describe: Callable[[], _Kind]) -> int:
        """The number of the kernels with this content; the first of them is described."""
        number = self._kinds.get(content)
        if number is None:
            number = self._kinds[content] = len(self.kinds)
            self.kinds.append(describe())
        return number


class KernelGraph:
    """The kernels of an annotated graph.

    Args:
        graph: A graph with ``fused`` where operators read inside their kernel, see
            `tvm_costmodel.tuning.annotate.relax`; without, each operator is a kernel.
        cache: Kernels of graphs that were read before.

    Attributes:
        anchors: For each kernel that computes, the operator that its token describes.
        token_of: Token of each operator, -1 for those that belong to no token.
        kinds: A number for each kernel, in all graphs read with the same ``cache``: equal for
            kernels whose tokens are equal under every decision.

    Raises:
        GraphError: The graph has nothing that computes, or has dimensions unknown until run time.
    """

    def __init__(self, graph: OpGraph, cache: KernelCache | None = None) -> None:
        graph.require_static()
        self.graph = graph
        self._cache = cache or KernelCache()
        root = _roots(graph)
        members: dict[int, list[int]] = {}
        for i, at in enumerate(root):
            members.setdefault(at, []).append(i)
        computing = {at: inside for at, inside in members.items() if _computes(graph, inside)}
        if not computing:
            raise GraphError("the graph has no operators that compute: export the model again")
        describer = _KernelDescriber(graph, root, *self._cache.operators(graph))
        self.anchors = [describer.anchor(inside) for inside in computing.values()]
        token = {at: number for number, at in enumerate(computing)}
        self.token_of = [token.get(at, -1) for at in root]
        self.kinds = [
            self._cache.kind(describer.content(inside), partial(describer.describe, inside, at))
            for inside, at in zip(computing.values(), self.anchors, strict=True)
        ]

    def __len__(self) -> int:
        return len(self.anchors)

    def row(self, token: int, operator: Operator | None = None) -> Row:
        """Numbers and work of a kernel's token.

        Args:
            token: Which kernel.
            operator: Its anchor with the decisions about it; as in the graph when not given.
        """
        kind = self._cache.kinds[self.kinds[token]]
        operator = operator or self.graph.operators[self.anchors[token]]
        decision, macs, weights = decision_numbers(operator, kind.cost)
        moved = kind.cost.read_bytes + kind.cost.written_bytes + weights
        return kind.numbers + decision, ((macs + kind.other_macs) / 1e9, moved / 1e9, 1.0)

    def tokens(self) -> PhysicalTokens:
        """The tokens of all kernels."""
        rows = [self._arrays(token) for token in range(len(self))]
        unknown = VOCABULARY.index(UNKNOWN)
        names = [self.graph.operators[i].op for i in self.anchors]
        return PhysicalTokens(
            slot=np.array([SLOT_OF_OPERATOR.get(name, unknown) for name in names], dtype=np.int64),
            numbers=np.array([numbers for numbers, _ in rows]),
            work=np.array([work for _, work in rows]),
            edges=self._edges(),
            anchor=np.array(self.anchors, dtype=np.int64),
        )

    def _arrays(self, token: int) -> tuple[np.ndarray, np.ndarray]:
        kind = self._cache.kinds[self.kinds[token]]
        if kind.arrays is None:
            numbers, work = self.row(token)
            kind.arrays = np.array(numbers, np.float32), np.array(work, np.float32)
        return kind.arrays

    def _edges(self) -> np.ndarray:
        """Pairs of (producer, consumer) kernels; operators without a token are passed through."""
        behind: list[set[int]] = []
        pairs = set()
        for i, operator in enumerate(self.graph.operators):
            token = self.token_of[i]
            read = set().union(*(behind[src] for src, _ in operator.inputs))
            if token < 0:
                behind.append(read)
                continue
            pairs |= {(src, token) for src in read if src != token}
            behind.append({token})
        return np.array(sorted(pairs), dtype=np.int32).reshape(-1, 2)


class _KernelDescriber:
    """Describes the kernels of one graph.

    Args:
        graph: The graph.
        root: First operator of each operator's kernel.
        numbers: Number of each operator's content.
        costs: What each operator costs alone.
    """

    def __init__(
        self, graph: OpGraph, root: Sequence[int], numbers: Sequence[int], costs: Sequence[OpCost]
    ) -> None:
        self._graph, self._numbers, self._costs = graph, numbers, costs
        self._readers = _readers(graph, root)
        self._reads = [_outside_reads(operator) for operator in graph.operators]

    def anchor(self, inside: Sequence[int]) -> int:
        """The operator of a kernel with most multiply-accumulates, then arithmetic, then bytes."""
        if len(inside) == 1:
            return inside[0]
        costs = self._costs
        return max(inside, key=lambda i: (costs[i].macs, costs[i].flops, costs[i].bytes))

    def content(self, inside: Sequence[int]) -> tuple[object, ...]:
        """Everything that determines a kernel's token."""
        number: dict[Edge, int] = {}
        return tuple(
            (
                self._numbers[i],
                self._readers[i],
                *[number.setdefault(edge, len(number)) for edge in self._reads[i]],
            )
            for i in inside
        )

    def describe(self, inside: Sequence[int], at: int) -> _Kind:
        """Describes the kernel of these operators, whose anchor is ``at``."""
        graph, anchor = self._graph, self._graph.operators[at]
        cost = self._boundary(inside, self._costs[at].macs)
        read = [graph.operators[src].outputs[index].shape for src, index in anchor.inputs[:1]]
        outside = sum(self._readers[i] for i in inside)
        numbers = physical_numbers(anchor, cost, read[0] if read else (), outside)
        others = [graph.operators[i] for i in inside if i != at]
        numbers += [float(sum(o.op == name for o in others)) for name in FOLDED]
        kinds = [spec.category for o in others if (spec := CATALOGUE.get(o.op)) is not None]
        elementwise = sum(kind in ("elementwise", "activation") for kind in kinds)
        numbers += [
            elementwise / 4,
            (len(others) - elementwise) / 4,
            len(inside) / 8,
            len({edge for i in inside for edge in self._reads[i]}) / 4,
            float(str(anchor.attrs.get("data_layout", "")).endswith("C")),
        ]
        return _Kind(numbers, cost, cost.flops / 2 - cost.macs)

    def _boundary(self, inside: Sequence[int], macs: int) -> OpCost:
        """Arithmetic and bytes of a kernel, its weights in full precision."""
        graph, costs = self._graph, self._costs
        seen: set[Edge] = set()
        read = weights = 0
        for i in inside:
            new = [edge for edge in self._reads[i] if edge not in seen]
            seen.update(new)
            whole = sum(graph.operators[src].outputs[index].bytes for src, index in new)
            read += min(whole, costs[i].read_bytes or whole)  # a lookup touches less
            weights += costs[i].weight_bytes + float16_savings(graph.operators[i])
        written = sum(
            t.bytes for i in inside if self._readers[i] for t in graph.operators[i].outputs
        )
        flops = sum(costs[i].flops for i in inside)
        return OpCost(flops, macs, read, weights, written)


def _roots(graph: OpGraph) -> list[int]:
    """The first operator of the kernel that each operator is in."""
    root = list(range(len(graph)))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for i, operator in enumerate(graph.operators):
        for position in _fused(operator):
            one, other = find(operator.inputs[position][0]), find(i)
            root[max(one, other)] = min(one, other)
    return [find(i) for i in range(len(graph))]


def _fused(operator: Operator) -> tuple[int, ...]:
    fused = operator.attrs.get("fused", ())
    return tuple(int(str(position)) for position in fused) if isinstance(fused, tuple) else ()


def _readers(graph: OpGraph, root: Sequence[int]) -> list[int]:
    """How often each operator is read from outside of its kernel, the caller included."""
    readers = [0] * len(graph)
    for i, operator in enumerate(graph.operators):
        for src, _ in operator.inputs:
            readers[src] += root[src] != root[i]
    for src, _ in graph.outputs:
        readers[src] += 1
    return readers


def _outside_reads(operator: Operator) -> tuple[Edge, ...]:
    """Values that an operator reads from outside of its kernel."""
    fused = _fused(operator)
    if not fused:
        return operator.inputs
    return tuple(edge for position, edge in enumerate(operator.inputs) if position not in fused)


def _computes(graph: OpGraph, inside: Sequence[int]) -> bool:
    for i in inside:
        name = graph.operators[i].op
        spec = CATALOGUE.get(name)
        if name not in ("input", "constant") and not (spec is not None and spec.is_view):
            return True
    return False
