"""The decisions that can be made for a network in Relay, declared one entry each.

To add a decision, add an entry to `RELAY_DECISIONS`: where it applies, what its values are, and
which field of ``RelayConfig`` (and so which pass) each value becomes. A space of them is
``DecisionSpace.for_graph(graph, compiler="relay")``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tuning.space.candidate import Value
from tvm_costmodel.tuning.space.decisions import (
    Applies,
    Decision,
    Setting,
    any_of,
    has_mergeable_matmuls,
    has_several,
    set_field,
    set_flag,
    set_fuse_depth,
)

APPROXIMATED = ("exp", "tanh", "erf", "softmax", "gelu", "gelu_tanh")
"""Operators that FastMath approximates."""

# ``PassContext`` leaves passes above its level out: a decision about one of these has no effect.
_LEVEL_3: Mapping[Value, Mapping[str, tuple[Value, ...]]] = {"": {"opt_level": (3,)}}
_LEVEL_1: Mapping[Value, Mapping[str, tuple[Value, ...]]] = {"": {"opt_level": (3, 1, 2)}}


def _other_layout(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    layouts = {o.attrs.get("data_layout") for o in graph.operators if o.op == "conv2d"}
    return bool(layouts - {value})


def _siblings(op: str) -> Applies:
    """Whether two operators of a kind read the same value first."""

    def applies(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
        read = Counter(o.inputs[0] for o in graph.operators if o.op == op and o.inputs)
        return any(count > 1 for count in read.values())

    return applies


RELAY_DECISIONS: tuple[Decision, ...] = (
    Decision(
        "opt_level",
        (3, 0, 1, 2),
        "network",
        has_several,
        set_field("opt_level"),
        "PassContext(opt_level): which of Relay's own passes run",
        explored=0.3,
    ),
    Decision(
        "alter_layout",
        ("on", "off"),
        "network",
        any_of("conv2d", "dense", "matmul"),
        set_flag("alter_layout", "on"),
        "relay.transform.AlterOpLayout, or not",
        needs=_LEVEL_3,
        explored=0.3,
    ),
    Decision(
        "fusion",
        ("full", "depth1", "depth2", "depth4"),
        "network",
        has_several,
        set_fuse_depth,
        "relay.FuseOps.max_depth, at most that many operators in a kernel",
        needs=_LEVEL_1,
        explored=0.5,
    ),
    Decision(
        "layout",
        ("imported", "NHWC", "NCHW"),
        "network",
        _other_layout,
        set_field("layout"),
        "relay.transform.ConvertLayout of convolutions and pools",
    ),
    Decision(
        "fast_math",
        ("exact", "fast"),
        "network",
        any_of(*APPROXIMATED),
        set_flag("fast_math", "fast"),
        "relay.transform.FastMath: exponentials, tanh and erf by polynomials",
        errors={"fast": 5e-4},
        explored=0.5,
    ),
    Decision(
        "canonical",
        ("on", "off"),
        "network",
        any_of("conv2d", "dense"),
        set_flag("canonicalize_ops", "on"),
        "relay.transform.CanonicalizeOps: bias additions as plain ones, or as they are",
        needs=_LEVEL_3,
        explored=0.2,
    ),
    Decision(
        "products",
        ("apart", "flat", "batch"),
        "network",
        has_mergeable_matmuls,
        set_field("combine_dense"),
        "relay.transform.CombineParallelDense, into one product or one batch of products",
        errors={"flat": 1e-5, "batch": 1e-5},
        explored=0.4,
        title="parallel matmuls",
        words={"apart": "separate", "flat": "merged", "batch": "batched"},
    ),
    Decision(
        "convolutions",
        ("apart", "joined"),
        "network",
        _siblings("conv2d"),
        set_flag("combine_conv2d", "joined"),
        "relay.transform.CombineParallelConv2D",
        errors={"joined": 1e-5},
        explored=0.4,
        title="parallel convolutions",
        words={"apart": "separate", "joined": "merged"},
    ),
    Decision(
        "batched_products",
        ("apart", "joined"),
        "network",
        _siblings("matmul"),
        set_flag("combine_matmul", "joined"),
        "relay.transform.CombineParallelBatchMatmul",
        errors={"joined": 1e-5},
        explored=0.4,
        title="parallel batch matmuls",
        words={"apart": "separate", "joined": "merged"},
    ),
    Decision(
        "precision",
        ("float32", "float16"),
        "network",
        has_several,
        set_field("precision"),
        "relay.transform.ToMixedPrecision",
        errors={"float16": 5e-3},
    ),
)
"""Every decision there is on Relay, in the order of reports; any of them may fail on a network."""
