"""Fusion: the operators that ``relax.transform.FuseOps`` puts into one kernel.

The twin of TVM's partitioner: operators merge with the operator that post-dominates them, in three
phases, by the kind of each operator's loops.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Edge, Operator
from tvm_costmodel.ops import CATALOGUE

UNLIMITED = 256
"""Most operators of a kernel unless a limit is set, as in TVM."""


class Pattern(enum.IntEnum):
    """Kinds of loops, as TVM's analysis of PrimFuncs distinguishes them."""

    ELEMENTWISE = 0
    BROADCAST = 1
    INJECTIVE = 2
    REDUCTION = 3
    FUSABLE = 4
    TUPLE = 7
    OPAQUE = 8


_INJECTIVE = frozenset(
    "transpose reshape flatten batch_flatten concat strided_slice split pad tile flip resize2d "
    "layout_transform depth_to_space space_to_depth".split()
)
_BROADCAST = frozenset("broadcast_to squeeze expand_dims stack".split())
_REDUCTIONS = frozenset("sum max min prod".split())
_ONE_LOOP = frozenset(("elementwise", "activation"))
_MANY_LOOPS = frozenset(("convolution", "matmul", "pooling", "normalisation", "reduction"))


def pattern_of(operator: Operator) -> Pattern:
    """The kind of an operator's loops."""
    spec = CATALOGUE.get(operator.op)
    if spec is None or operator.op == "input":
        return Pattern.OPAQUE
    if _reads_in_place(operator):
        return Pattern.ELEMENTWISE
    if operator.op in _INJECTIVE:
        return Pattern.INJECTIVE
    if operator.op in _BROADCAST:
        return Pattern.BROADCAST
    if operator.op in _REDUCTIONS:
        return Pattern.REDUCTION
    if spec.category in _ONE_LOOP:
        return Pattern.ELEMENTWISE
    return Pattern.FUSABLE if spec.category in _MANY_LOOPS else Pattern.OPAQUE


def _reads_in_place(operator: Operator) -> bool:
    """Whether a slice or a transpose reads each element at its own place."""
    if operator.op == "transpose":
        axes = operator.attrs.get("axes")
        return isinstance(axes, tuple) and axes == tuple(range(len(axes)))
    if operator.op != "strided_slice":
        return False
    begin, strides = operator.attrs.get("begin"), operator.attrs.get("strides", ())
    assert isinstance(strides, tuple)
    return isinstance(begin, tuple) and not any(begin) and all(step == 1 for step in strides)


@dataclass(eq=False)
class _Group:
    pattern: Pattern
    anchored: bool
    size: int = 1
    parent: _Group | None = None

    def root(self) -> _Group:
        group = self
        while group.parent is not None:
            group = group.parent
        return group


@dataclass(frozen=True)
class _Dominator:
    """A node's post-dominator, its depth in the tree, and the widest pattern on the way."""

    parent: int | None
    depth: int
    pattern: Pattern


class Fusion:
    """Groups the operators of one graph into kernels.

    Args:
        graph: A graph that went through all graph passes, before it is legalised.
    """

    def __init__(self, graph: OpGraph) -> None:
        self._patterns: list[Pattern] = []
        self._readers: list[list[int]] = []
        self._node_of: list[int] = []  # of each operator
        self._outputs: set[int] = set()
        self._number(graph)
        self._groups: list[_Group] = []
        self._most = UNLIMITED
        self._ways: dict[int, list[int]] = {}  # see `_between`
        self._tree: list[_Dominator] = [_Dominator(None, 1, Pattern.OPAQUE)] * len(self._patterns)
        for i in reversed(range(len(self._patterns))):
            self._tree[i] = self._dominator(i)

    def _number(self, graph: OpGraph) -> None:
        """One node per operator, and one per result that is taken out of several."""
        used = {edge for operator in graph.operators for edge in operator.inputs}
        place: dict[Edge, int] = {}
        for i, operator in enumerate(graph.operators):
            node = self._node(pattern_of(operator), [place[edge] for edge in operator.inputs])
            self._node_of.append(node)
            place[i, 0] = node
            if len(operator.outputs) > 1:
                for edge in sorted(e for e in used.union(graph.outputs) if e[0] == i):
                    place[edge] = self._node(Pattern.INJECTIVE, [node])
        self._outputs = {place[edge] for edge in graph.outputs}

    def _node(self, pattern: Pattern, reads: list[int]) -> int:
        self._patterns.append(pattern)
        self._readers.append([])
        for source in reads:
            self._readers[source].append(len(self._patterns) - 1)
        return len(self._patterns) - 1

    def kernels(self, most: int = UNLIMITED) -> list[int]:
        """The kernel of each operator.

        Args:
            most: Most operators of a kernel.

        Returns:
            One number per operator, equal where they share a kernel, ascending by first appearance.
        """
        self._most = most
        self._groups = [_Group(p, p is Pattern.FUSABLE) for p in self._patterns]
        for phase in range(2):
            for i in range(len(self._groups)):
                self._fuse(i, phase)
        numbers: dict[int, int] = {}
        roots = [self._groups[node].root() for node in self._node_of]
        return [numbers.setdefault(id(root), len(numbers)) for root in roots]

    def _dominator(self, i: int) -> _Dominator:
        if i in self._outputs or not self._readers[i]:
            return _Dominator(
                None, 1, Pattern.OPAQUE if i in self._outputs else Pattern.ELEMENTWISE
            )
        pattern = Pattern.ELEMENTWISE
        parent: int | None = self._readers[i][0]
        for reader in self._readers[i]:
            parent, pattern = self._common(parent, reader, pattern)
            pattern = max(pattern, self._patterns[reader])
        return _Dominator(
            parent, self._tree[parent].depth + 1 if parent is not None else 1, pattern
        )

    def _common(self, a: int | None, b: int | None, pattern: Pattern) -> tuple[int | None, Pattern]:
        while a != b:
            if a is None or b is None:
                return None, pattern
            first, second = self._tree[a], self._tree[b]
            if first.depth >= second.depth:
                pattern, a = max(pattern, first.pattern), first.parent
            if second.depth >= first.depth:
                pattern, b = max(pattern, second.pattern), second.parent
        return a, pattern

    def _fuse(self, i: int, phase: int) -> None:
        group, node = self._groups[i], self._tree[i]
        sink = node.parent
        if group.pattern is Pattern.OPAQUE or sink is None or self._too_many(i, sink):
            return
        if group.root() is self._groups[sink].root():
            return
        if group.pattern is Pattern.FUSABLE:
            if phase == 0 and node.pattern is Pattern.ELEMENTWISE:
                self._try(i, sink, lambda kind, _: kind <= Pattern.BROADCAST)
        elif group.pattern <= Pattern.BROADCAST:
            if node.pattern <= Pattern.INJECTIVE or node.pattern is Pattern.REDUCTION:
                self._try(i, sink, _fuses_element_wise)
        elif group.pattern is Pattern.INJECTIVE and phase == 1:
            self._try(i, sink, lambda kind, _: kind <= Pattern.INJECTIVE)

    def _between(self, i: int, sink: int) -> list[int]:
        """All nodes on the paths from a node to its post-dominator, without the latter."""
        if i in self._ways:
            return self._ways[i]
        seen, stack = {i}, [i]
        while stack:
            for reader in self._readers[stack.pop()]:
                if reader != sink and reader not in seen:
                    seen.add(reader)
                    stack.append(reader)
        return self._ways.setdefault(i, sorted(seen))

    def _too_many(self, i: int, sink: int) -> bool:
        added = sum(self._groups[node].size for node in self._between(i, sink))
        return self._groups[sink].root().size + added > self._most

    def _try(self, i: int, sink: int, allowed: Callable[[Pattern, bool], bool]) -> None:
        between = self._between(i, sink)
        if not allowed(self._groups[sink].root().pattern, True):
            return
        if not all(allowed(self._groups[n].root().pattern, False) for n in between if n != i):
            return
        target = self._groups[sink]
        for node in between:
            self._merge(self._groups[node].root(), target.root())

    def _merge(self, child: _Group, parent: _Group) -> None:
        if child is parent:
            return
        parent.size += child.size
        child.parent = parent
        if child.anchored:
            parent.anchored = True
            parent.pattern = max(parent.pattern, child.pattern)


def most_operators(fusion: str) -> int:
    """Most operators of a kernel under a value of the decision ``fusion`` that fuses."""
    return int(fusion.removeprefix("depth")) if fusion.startswith("depth") else UNLIMITED


def _fuses_element_wise(kind: Pattern, is_sink: bool) -> bool:
    if not is_sink:
        return kind <= Pattern.INJECTIVE
    return kind <= Pattern.FUSABLE
