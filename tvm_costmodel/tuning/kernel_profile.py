"""Kernels of a network as timed in place: what each computes, and how far that is from the limits.

The operators of a kernel are those that the annotated graph of the default build has in one group;
groups and calls are matched in their order, by the type of the result.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher

from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.ops import CATALOGUE
from tvm_costmodel.predictors.loading import Predictor
from tvm_costmodel.profiling.in_place_profiler import InPlaceTimes
from tvm_costmodel.tokenizer.kernel_graph import KernelGraph
from tvm_costmodel.tuning.annotate.relax import Annotator
from tvm_costmodel.tuning.space.candidate import Candidate

_WEIGHTED = ("convolution", "matmul")  # categories whose weights say what they compute


@dataclass(frozen=True)
class KernelRow:
    """One kernel.

    Attributes:
        kernel: Its name in the library.
        operators: What it computes, in words; its name where that is not known.
        template: The schedule template of its code.
        calls: How often a run calls it.
        ms: Milliseconds of a run that it takes, in place.
        share: That over the sum of all kernels.
        gflops: Billions of floating-point operations a second that it reaches.
        gb_s: Billions of bytes a second that it reads and writes.
        bound: What limits it: ``arithmetic`` or ``bytes``.
        of_roofline: The least time that its arithmetic and bytes take over its time.
        predicted_ms: The predictor's share of the network's latency; None without predictor.
    """

    kernel: str
    operators: str
    template: str
    calls: int
    ms: float
    share: float
    gflops: float
    gb_s: float
    bound: str
    of_roofline: float
    predicted_ms: float | None

    def to_dict(self) -> dict[str, object]:
        """JSON-able values."""
        return asdict(self)


@dataclass(frozen=True)
class _Group:
    """Operators of one kernel: in words, their work, and the predictor's seconds."""

    words: str
    result: TensorType
    flops: float
    bytes: float
    predicted_s: float


def kernel_rows(times: InPlaceTimes, predictor: Predictor | None = None) -> list[KernelRow]:
    """One row for each kernel, that which takes longest first.

    Args:
        times: The measurement.
        predictor: One that reads annotated graphs and has shares of operators; None for none.
    """
    groups = _groups(times, predictor)
    names = [name for name, _ in times.calls]
    results = [TensorType(*times.kernels[name].parameters[-1]) for name in names]
    matched = _matched([group.result for group in groups], results)
    seconds: dict[str, float] = defaultdict(float)
    of_kernel: dict[str, list[_Group]] = defaultdict(list)
    for call, (name, took) in enumerate(times.calls):
        seconds[name] += took
        if call in matched:
            of_kernel[name].append(groups[matched[call]])
    total = sum(seconds.values())
    slowest_first = sorted(seconds, key=lambda name: -seconds[name])
    return [
        _row(times, name, seconds[name], total, of_kernel[name], predictor is not None)
        for name in slowest_first
    ]


def _row(
    times: InPlaceTimes,
    name: str,
    seconds: float,
    total: float,
    groups: Sequence[_Group],
    is_predicted: bool,
) -> KernelRow:
    kernel = times.kernels[name]
    calls = sum(called == name for called, _ in times.calls)
    flops = max((group.flops for group in groups), default=0.0)
    moved = max((group.bytes for group in groups), default=0.0)
    moved = moved or sum(TensorType(*parameter).bytes for parameter in kernel.parameters)
    peaks, each = times.peaks, max(seconds / calls, 1e-9)
    return KernelRow(
        kernel=name,
        operators=groups[0].words if groups else name,
        template=kernel.template,
        calls=calls,
        ms=seconds * 1e3,
        share=seconds / total if total else 0.0,
        gflops=flops / each / 1e9,
        gb_s=moved / each / 1e9,
        bound="arithmetic" if flops / peaks.flops > moved / peaks.bandwidth(moved) else "bytes",
        of_roofline=peaks.least_s(flops, moved) / each,
        predicted_ms=sum(g.predicted_s for g in groups) * 1e3 if is_predicted and groups else None,
    )


def _groups(times: InPlaceTimes, predictor: Predictor | None) -> list[_Group]:
    """The groups of operators of the default build, in the order of their last operators."""
    base = Annotator(times.graph).base(Candidate())
    members: dict[int, list[int]] = defaultdict(list)
    for i, group in enumerate(base.groups):
        if base.graph.operators[i].op != "input":
            members[group].append(i)
    kernels = KernelGraph(base.graph)
    shares = predictor.predict(base.graph).per_op if predictor is not None else None
    predicted = {share.operator: share.latency_s for share in shares or ()}
    groups = []
    for inside in sorted(members.values(), key=max):
        operators = [base.graph.operators[i] for i in inside]
        result, token = operators[-1].outputs[-1], kernels.token_of[inside[0]]
        words = f"{' + '.join(map(_words, operators))} -> {_extents(result) or 'scalar'}"
        gmacs, gbytes, _ = kernels.row(token)[1] if token >= 0 else (0.0, 0.0, 0.0)
        predicted_s = sum(predicted.get(i, 0.0) for i in inside)
        groups.append(_Group(words, result, 2e9 * gmacs, 1e9 * gbytes, predicted_s))
    return groups


def _words(operator: Operator) -> str:
    """An operator's name, with the extents of a matrix or kernel of weights."""
    spec = CATALOGUE.get(operator.op)
    if spec is None or spec.category not in _WEIGHTED:
        return operator.op
    shown = [_extents(weight) for weight in operator.weights if len(weight.shape) > 1]
    return " ".join([operator.op, *shown[:1]])


def _extents(value: TensorType) -> str:
    return "x".join(map(str, value.shape))


def _matched(groups: Sequence[TensorType], calls: Sequence[TensorType]) -> Mapping[int, int]:
    """The group of each call that has one: in order, and then by type alone."""
    group_of: dict[int, int] = {}
    for block in SequenceMatcher(None, groups, calls, autojunk=False).get_matching_blocks():
        group_of |= {block.b + i: block.a + i for i in range(block.size)}
    left = [i for i in range(len(groups)) if i not in set(group_of.values())]
    for call in range(len(calls)):
        fitting = next((i for i in left if groups[i] == calls[call]), None)
        if call not in group_of and fitting is not None:
            group_of[call] = fitting
            left.remove(fitting)
    return group_of
