"""Annotates a Relay candidate for predictors: the network's graph after the decisions, and marks.

The effects of Relay's decisions on operators and kernels have the twins that those of Relax have:
batch norms folded at level 3, layouts converted, dense layers merged, the depth of fusion. Effects
inside of kernels (packed channels, approximations, half precision) become marks on the operators
concerned, see `tvm_costmodel.tokenizer.relay_kernel_features`. No TVM is needed.

The marks also stand for what Relay computes from constants in each run below level 2, for the
operators that it makes of a layer norm, and for reductions that it fuses with their producers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator
from tvm_costmodel.graph_passes.fold_batch_norm import fold_batch_norm
from tvm_costmodel.graph_passes.fusion import Fusion, most_operators
from tvm_costmodel.graph_passes.layout import convert_layout
from tvm_costmodel.graph_passes.merge_matmuls import merge_matmuls
from tvm_costmodel.graph_passes.tunable_ops import mergeable_matmuls
from tvm_costmodel.tokenizer.relay_kernel_features import ATTRIBUTE
from tvm_costmodel.tuning.annotate.relax import with_kernels
from tvm_costmodel.tuning.space.candidate import Candidate, Value
from tvm_costmodel.tuning.space.relay_decisions import APPROXIMATED, RELAY_DECISIONS

_DEFAULTS = {decision.name: decision.default for decision in RELAY_DECISIONS}
_PACKED = ("conv2d", "dense")


class RelayAnnotator:
    """Annotates candidates of one network.

    Args:
        graph: The network as ``from_relay`` reads it, before any pass.
    """

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self._laid_out: dict[tuple[Value, ...], OpGraph] = {}

    def annotate(self, candidate: Candidate) -> OpGraph:
        """The annotated graph; names that are no decisions of Relay are left out."""
        value = {**_DEFAULTS, **dict(candidate.network)}
        level = int(value["opt_level"])
        keys = (value["products"] == "flat", level >= 3, value["layout"])
        if keys not in self._laid_out:
            self._laid_out[keys] = self._lay_out(*keys)
        graph = self._laid_out[keys]
        groups = _groups(graph, level, str(value["fusion"]))
        return _marked(with_kernels(graph, groups), level, value)

    def _lay_out(self, merges: bool, folds: bool, layout: Value) -> OpGraph:
        sourced = self.graph, tuple(range(len(self.graph)))
        if merges:
            sourced = merge_matmuls(*sourced)
        sourced = fold_batch_norm(*sourced, folds)
        if layout != _DEFAULTS["layout"]:
            sourced = convert_layout(*sourced, str(layout), {})
        return sourced[0]


def _groups(graph: OpGraph, level: int, fusion: str) -> list[int]:
    if level == 0:
        return list(range(len(graph)))
    return Fusion(graph).kernels(most_operators(fusion))


def _marked(graph: OpGraph, level: int, value: dict[str, Value]) -> OpGraph:
    """The graph with a mark on each operator for every decision that concerns it."""
    read = Counter((o.op, o.inputs[0]) for o in graph.operators if o.inputs)
    of_one_input = {i for members in mergeable_matmuls(graph) for i in members}
    everywhere = ["compiled by relay"]
    everywhere += [f"opt level {level}"] if level < 3 else []
    depth = str(value["fusion"]).removeprefix("depth")  # operators are split by Relay once more
    everywhere += [f"kernels of {depth}"] if level and depth.isdigit() else []
    everywhere += ["half precision"] if value["precision"] == "float16" else []
    operators = []
    for i, operator in enumerate(graph.operators):
        marks = list(everywhere)
        siblings = bool(operator.inputs) and read[operator.op, operator.inputs[0]] > 1
        if level == 3:
            marks += _of_level_3(operator, value)
        if value["fast_math"] == "fast" and operator.op in APPROXIMATED:
            marks.append("fast math")
        if value["convolutions"] == "joined" and operator.op == "conv2d" and siblings:
            marks.append("joined convolutions")
        if value["batched_products"] == "joined" and operator.op == "matmul" and siblings:
            marks.append("joined batched products")
        if value["products"] == "batch" and i in of_one_input:
            marks.append("products as a batch")
        if value["products"] == "flat" and operator.op == "dense":
            marks.append("products as one")
        operators.append(replace(operator, attrs={**operator.attrs, ATTRIBUTE: tuple(marks)}))
    return OpGraph(tuple(operators), graph.outputs, graph.name)


def _of_level_3(operator: Operator, value: dict[str, Value]) -> list[str]:
    """Marks of passes that run at Relay's highest usual level alone."""
    marks = []
    in_rows = str(operator.attrs.get("data_layout", "NCHW")) == "NCHW"
    if value["alter_layout"] == "on" and operator.op in _PACKED and operator.weights and in_rows:
        marks.append("packed channels")
    if value["canonical"] == "off" and operator.op == "add" and operator.weights:
        marks.append("bias additions kept")
    return marks
