"""Annotates a candidate for predictors: the network's graph after the decisions.

Scoring a candidate needs no compiler pass: the compiler's graph passes have twins in
`tvm_costmodel.graph_passes` that work on an OpGraph alone, and decisions about single operators
become attributes. Tests compare the result with the graph that the compiler's passes export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Operator, TensorType
from tvm_costmodel.graph_passes.fold_batch_norm import fold_batch_norm
from tvm_costmodel.graph_passes.fusion import Fusion, most_operators
from tvm_costmodel.graph_passes.layout import convert_layout, sink_transposes
from tvm_costmodel.graph_passes.merge_matmuls import merge_matmuls
from tvm_costmodel.graph_passes.mixed_precision import to_mixed_precision
from tvm_costmodel.graph_passes.tunable_ops import convolution_stages
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.space.decisions import DECISIONS, STAGE_LAYOUTS

_DEFAULTS = {decision.name: decision.default for decision in DECISIONS}
_TILE = ("accumulators", "vectors", "loop_order")

_Sourced = tuple[OpGraph, tuple[int, ...]]
"""A graph, and for each operator its id in the network before any pass or -1."""


@dataclass(frozen=True)
class AnnotatedBase:
    """A network's graph under decisions about the whole network.

    Attributes:
        graph: Operators as the graph passes leave them, layout conversions among them, each with
            ``fused``: the positions of the activations that it reads inside its kernel.
        sources: For each operator, its id in the network before any pass; -1 for those that the
            passes put in.
        positions: The operator of each source id that decisions can name.
        groups: The kernel of each operator.
    """

    graph: OpGraph
    sources: tuple[int, ...]
    positions: dict[int, int]
    groups: tuple[int, ...]


@dataclass(frozen=True)
class _Converted:
    """A graph after all passes on operators, of which kernels are made in several ways.

    Attributes:
        graph: The graph.
        sources: For each operator, its id in the network before any pass or -1.
        marked: Operators that read others in their kernel, shared by those ways.
    """

    graph: OpGraph
    sources: tuple[int, ...]
    marked: dict[tuple[int, tuple[int, ...]], Operator] = field(default_factory=dict)

    @cached_property
    def fusion(self) -> Fusion:
        return Fusion(self.graph)

    def groups(self, fusion: str) -> list[int]:
        if fusion == "off":
            return list(range(len(self.graph)))
        return self.fusion.kernels(most_operators(fusion))


class Annotator:
    """Annotates many candidates of one network; what they share is computed once.

    Args:
        graph: The network as ``from_relax`` reads it, before any pass.
    """

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self._bases: dict[tuple[tuple[str, Value], ...], AnnotatedBase] = {}
        self._folds: dict[tuple[Value, ...], _Sourced] = {}  # by the decisions about them
        self._conversions: dict[tuple[Value, ...], _Converted] = {}
        self._stages = convolution_stages(graph)

    def base(self, candidate: Candidate) -> AnnotatedBase:
        """The graph under decisions about the network; the same object each time."""
        if candidate.network not in self._bases:
            self._bases[candidate.network] = self._make(candidate)
        return self._bases[candidate.network]

    def changes(self, candidate: Candidate) -> dict[int, Operator]:
        """The operators of `base` that the candidate's other decisions change, by position."""
        base = self.base(candidate)
        values: dict[int, dict[str, Value]] = {}
        for i, name, value in candidate.operators:
            if i in base.positions:  # else it was merged into another operator
                values.setdefault(base.positions[i], {})[name] = value
        return {
            position: annotated_operator(base.graph.operators[position], of_operator)
            for position, of_operator in values.items()
        }

    def annotate(self, candidate: Candidate) -> OpGraph:
        """The whole annotated graph."""
        base, changes = self.base(candidate), self.changes(candidate)
        if not changes:
            return base.graph
        operators = list(base.graph.operators)
        for position, operator in changes.items():
            operators[position] = operator
        return OpGraph(tuple(operators), base.graph.outputs, base.graph.name)

    def _make(self, candidate: Candidate) -> AnnotatedBase:
        value = {**_DEFAULTS, **dict(candidate.network)}
        converted = self._converted(value)
        groups = converted.groups(str(value["fusion"]))
        positions = {source: i for i, source in enumerate(converted.sources) if source != NETWORK}
        graph = with_kernels(converted.graph, groups, converted.marked)
        return AnnotatedBase(graph, converted.sources, positions, tuple(groups))

    def _folded(self, value: Mapping[str, Value]) -> _Sourced:
        """After the passes that come before any layout is changed."""
        key = (value["products"], value["batch_norm"])
        if key not in self._folds:
            sourced = self.graph, tuple(range(len(self.graph)))
            if value["products"] == "joined":
                sourced = merge_matmuls(*sourced)
            self._folds[key] = fold_batch_norm(*sourced, value["batch_norm"] == "fold")
        return self._folds[key]

    def _converted(self, value: Mapping[str, Value]) -> _Converted:
        """After all passes on the graph of operators."""
        names = ("products", "batch_norm", "layout", "transposes", "precision", *STAGE_LAYOUTS)
        key = tuple(value[name] for name in names)
        if key not in self._conversions:
            self._conversions[key] = _Converted(*self._convert(value))
        return self._conversions[key]

    def _convert(self, value: Mapping[str, Value]) -> _Sourced:
        if value["precision"] == "float16":
            whole = self._converted({**value, "precision": "float32"})
            return to_mixed_precision(whole.graph, whole.sources)
        layout = str(value["layout"])
        departing = {
            stage: str(value[name])
            for stage, name in enumerate(STAGE_LAYOUTS, start=1)
            if value[name] != _DEFAULTS[name]
        }
        others = {i: departing[n] for i, n in self._stages.items() if n in departing}
        sourced = self._folded(value)
        if layout != "NCHW" or others:
            sourced = convert_layout(*sourced, layout, others)
        if value["transposes"] == "cancel":
            sourced = sink_transposes(*sourced)
        return sourced


def annotate(graph: OpGraph, candidate: Candidate) -> OpGraph:
    """One candidate's annotated graph; `Annotator` is faster for many.

    Args:
        graph: The network as ``from_relax`` reads it, before any pass.
        candidate: Its decisions.
    """
    return Annotator(graph).annotate(candidate)


def with_kernels(
    graph: OpGraph,
    groups: Sequence[int],
    marked: dict[tuple[int, tuple[int, ...]], Operator] | None = None,
) -> OpGraph:
    """A graph with attributes ``fused``: which inputs an operator reads inside of its kernel.

    Args:
        graph: The operators.
        groups: The kernel of each.
        marked: Operators made for other kernels of the same graph, by their id and what they
            read inside; new ones are added.
    """
    known = {} if marked is None else marked
    operators = []
    for i, operator in enumerate(graph.operators):
        own = groups[i]
        fused = tuple(p for p, (src, _) in enumerate(operator.inputs) if groups[src] == own)
        if fused and (i, fused) not in known:
            known[i, fused] = replace(operator, attrs={**operator.attrs, "fused": fused})
        operators.append(known[i, fused] if fused else operator)
    return OpGraph(tuple(operators), graph.outputs, graph.name)


def annotated_operator(operator: Operator, values: dict[str, Value]) -> Operator:
    """An operator with its kernel's decisions: attributes, and the type of stored weights."""
    attrs: dict[str, AttrValue] = dict(operator.attrs)
    if "algorithm" in values:
        attrs["algorithm"] = values["algorithm"]
    if any(name in values for name in _TILE):
        attrs["tile"] = tuple(values.get(name, _DEFAULTS[name]) for name in _TILE)
    weights = operator.weights
    if "weight_dtype" in values:
        stored = str(values["weight_dtype"])
        weights = tuple(TensorType(t.shape, stored) for t in weights)
    return replace(operator, attrs=attrs, weights=weights)
