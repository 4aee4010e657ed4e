"""The decisions that can be made for a network, declared one entry each.

To add a decision, add an entry to `DECISIONS`: where it applies, what its values are, and which
field of ``PipelineConfig`` (and so which pass) each value becomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator
from tvm_costmodel.graph_passes.tunable_ops import (
    STAGES,
    convolution_stages,
    image_size,
    mergeable_matmuls,
)
from tvm_costmodel.tuning.space.candidate import Value

Fields = dict[str, Any]

# A matmul of fewer rows reads its weights from memory, whatever its tile.
_FEWEST_ROWS = 4

# Kernels of convolutions that Winograd's algorithm takes in tiles of 2x2 and 4x4 outputs.
_WINOGRAD_KERNELS = {2: ((3, 3), (5, 5)), 4: ((3, 3),)}
# Weights below this many bytes are cheap to read in any type.
_LARGE_WEIGHTS = 1 << 18


@dataclass(frozen=True)
class Setting:
    """What bounds a space besides the graph.

    Attributes:
        tolerance: Largest difference from the outputs of the default build that the user accepts,
            relative to the largest magnitude of each output.
        lanes: float32 values in one vector of the machine.
        half_arithmetic: Whether the machine computes in half precision by itself.
        runtime_weights: Ids of operators whose weights are passed to the network, so that a
            build cannot transform them.
    """

    tolerance: float = 1e-3
    lanes: int = 16
    half_arithmetic: bool = False
    runtime_weights: frozenset[int] = frozenset()


Applies = Callable[[OpGraph, int, Value, Setting], bool]
Effect = Callable[[Fields, Value], None]


@dataclass(frozen=True)
class Decision:
    """One decision: its values, where it applies and what carries it out.

    Attributes:
        name: Its name in candidates, stores and JSON reports.
        values: Every value; the first is the default.
        scope: Whether it is made once for a network or for single operators.
        applies: Whether a value makes sense for the graph (network) or for its operator ``i``.
        effect: Writes a value that is not the default into the fields of ``PipelineConfig``, or
            into those of one operator's ``KernelDecision``.
        becomes: The pass or schedule that carries it out, for people. It is part of the key of
            tuned networks in stores: a network is tuned anew where this text changes.
        errors: Relative error of the outputs to be expected of a value; a value above the user's
            tolerance is not offered.
        needs: Values of network decisions without which a value cannot be carried out, by value;
            ``""`` stands for all values but the default.
        explored: How often label making departs from the default: often where a departure may
            gain, seldom where it mostly loses and only has to be known as such.
        title: Its name in tables for people; ``name`` where empty.
        words: Names of values in tables for people, where they are not the values themselves.
    """

    name: str
    values: tuple[Value, ...]
    scope: Literal["network", "operator"]
    applies: Applies
    effect: Effect
    becomes: str
    errors: Mapping[Value, float] = field(default_factory=dict)
    needs: Mapping[Value, Mapping[str, tuple[Value, ...]]] = field(default_factory=dict)
    explored: float = 0.1
    title: str = ""
    words: Mapping[Value, str] = field(default_factory=dict)

    @property
    def default(self) -> Value:
        """The value of the default build."""
        return self.values[0]

    def label(self, value: Value) -> str:
        """A value as tables for people show it."""
        return self.words.get(value, str(value))

    def needed(self, value: Value) -> Mapping[str, tuple[Value, ...]]:
        """Values of network decisions that a value needs."""
        if value == self.default:
            return {}
        return self.needs.get(value, self.needs.get("", {}))


def set_field(name: str) -> Effect:
    """The value becomes a field as it is."""

    def effect(fields: Fields, value: Value) -> None:
        fields[name] = value

    return effect


def set_flag(name: str, true: Value) -> Effect:
    """The value becomes a field that is true where the value is ``true``."""

    def effect(fields: Fields, value: Value) -> None:
        fields[name] = value == true

    return effect


def set_fuse_depth(fields: Fields, value: Value) -> None:
    """``depth`` and a number becomes the field ``fuse_depth``."""
    fields["fuse_depth"] = int(str(value).removeprefix("depth"))


def _set_fusion(fields: Fields, value: Value) -> None:
    if value == "off":
        fields["fuse"] = False
    else:
        set_fuse_depth(fields, value)


def any_of(*names: str) -> Applies:
    """Applies to networks with one of these operators."""

    def applies(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
        return any(operator.op in names for operator in graph.operators)

    return applies


def has_mergeable_matmuls(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    """Applies to networks with dense layers of one input."""
    return bool(mergeable_matmuls(graph))


def has_several(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    """Applies to networks of more than one operator besides their input."""
    return len(graph) > 2


def _set_stage_layout(stage: int) -> Effect:
    def effect(fields: Fields, value: Value) -> None:
        fields.setdefault("stage_layouts", {})[str(stage)] = value

    return effect


def _has_stage(stage: int) -> Applies:
    """Applies to networks of several stages, this one among them."""

    def applies(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
        stages = set(convolution_stages(graph).values())
        return len(stages) > 1 and stage in stages

    return applies


def _gains_by_float16(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    return setting.half_arithmetic and any(map(_sums_products, graph.operators))


def _sums_products(operator: Operator) -> bool:
    """Whether an operator is a float32 matmul or a convolution that sums over channels."""
    if operator.outputs[0].dtype != "float32":
        return False
    if operator.op == "conv2d":
        return int(str(operator.attrs["in_channels"])) >= 2 * _groups(operator)
    return operator.op in ("dense", "matmul")


def _groups(operator: Operator) -> int:
    return int(str(operator.attrs["groups"]))


def _algorithm(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    operator = graph.operators[i]
    attrs = operator.attrs
    if operator.op != "conv2d" or not operator.weights or not _sums_products(operator):
        return False
    if i in setting.runtime_weights:
        return False
    if value == "im2col":
        return _groups(operator) == 1 and attrs["kernel"] != (1, 1)
    edge = int(str(value).removeprefix("winograd"))
    plain = attrs["strides"] == (1, 1) and attrs.get("dilation", (1, 1)) == (1, 1)
    fits = attrs["kernel"] in _WINOGRAD_KERNELS[edge] and min(image_size(operator)) >= edge
    return plain and fits


def _lanes(operator: Operator) -> int:
    """Extent of the axis that kernels put into vectors: output channels of a group."""
    if operator.op == "conv2d":
        return int(str(operator.attrs["out_channels"])) // _groups(operator)
    return operator.outputs[0].shape[-1]


def _tile(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    operator = graph.operators[i]
    if not _sums_products(operator) or _lanes(operator) < setting.lanes:
        return False
    return operator.outputs[0].elements >= _FEWEST_ROWS * _lanes(operator)


def _vectors(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    whole = -(-_lanes(graph.operators[i]) // setting.lanes)
    return _tile(graph, i, value, setting) and int(value) <= whole


def _large_weights(graph: OpGraph, i: int, value: Value, setting: Setting) -> bool:
    operator = graph.operators[i]
    if not _sums_products(operator) or len(operator.weights) != 1 or not operator.inputs:
        return False
    if i in setting.runtime_weights:
        return False
    weights = operator.weights[0]
    follows = "weight_positions" not in operator.attrs
    return follows and weights.dtype == "float32" and weights.bytes >= _LARGE_WEIGHTS


_CHANNELS_LAST: Mapping[Value, Mapping[str, tuple[Value, ...]]] = {
    "": {"layout": ("NHWC",), "precision": ("float32",)}
}

STAGE_LAYOUTS: tuple[str, ...] = tuple(f"stage{n}_layout" for n in range(1, STAGES + 1))
"""Names of the decisions about the layouts of single stages, in the order of the stages."""


def _stage_layout(stage: int) -> Decision:
    """The layout of the convolutions of one size of image, where it is not the network's."""
    return Decision(
        STAGE_LAYOUTS[stage - 1],
        ("same", "NCHW"),
        "network",
        _has_stage(stage),
        _set_stage_layout(stage),
        f"relax.transform.ConvertLayout by stage: stage {stage} of the sizes of images, which "
        "halve from one to the next",
        needs={"NCHW": {"layout": ("NHWC",)}},
        explored=0.04,
    )


DECISIONS: tuple[Decision, ...] = (
    Decision(
        "layout",
        ("NHWC", "NCHW"),
        "network",
        any_of("conv2d"),
        set_field("layout"),
        "relax.transform.ConvertLayout and the transposes left by it moved and cancelled",
    ),
    Decision(
        "fusion",
        ("full", "depth2", "depth4", "off"),
        "network",
        has_several,
        _set_fusion,
        "relax.transform.FuseOps, at most that many operators in a kernel",
    ),
    Decision(
        "batch_norm",
        ("fold", "decompose"),
        "network",
        any_of("batch_norm"),
        set_flag("fold_batch_norm", "fold"),
        "scales folded into the weights of convolutions, or left as operators",
    ),
    Decision(
        "products",
        ("apart", "joined"),
        "network",
        has_mergeable_matmuls,
        set_flag("join_products", "joined"),
        "matrix products of one input with constant weights, joined into one and slices of it",
        errors={"joined": 1e-5},
        explored=0.5,
        title="parallel matmuls",
        words={"apart": "separate", "joined": "merged"},
    ),
    Decision(
        "transposes",
        ("cancel", "keep"),
        "network",
        any_of("conv2d", "transpose"),
        set_flag("cancel_transposes", "cancel"),
        "transposes moved through element-wise operators until they meet their inverse, or left",
    ),
    *(_stage_layout(stage) for stage in range(1, STAGES + 1)),
    Decision(
        "precision",
        ("float32", "float16"),
        "network",
        _gains_by_float16,
        set_field("precision"),
        "what convolutions and matrix products read, stored as halves; sums stay in float32",
        errors={"float16": 5e-3},
        explored=0.25,
    ),
    Decision(
        "algorithm",
        ("direct", "winograd2", "winograd4", "im2col"),
        "operator",
        _algorithm,
        set_field("algorithm"),
        "the CPU rule's template for the convolution",
        errors={"winograd2": 2e-5, "winograd4": 2e-4},
        needs=_CHANNELS_LAST,
        explored=0.6,
    ),
    Decision(
        "accumulators",
        (0, 12, 16, 20, 24, 28),
        "operator",
        _tile,
        set_field("accumulators"),
        "registers of the CPU rule's tile that hold sums",
    ),
    Decision(
        "vectors",
        (0, 2, 4),
        "operator",
        _vectors,
        set_field("vectors_per_tile"),
        "vectors along the output channels of the CPU rule's tile",
    ),
    Decision(
        "loop_order",
        ("auto", "channels", "pixels"),
        "operator",
        _tile,
        set_field("loop_order"),
        "which of the CPU rule's loops are outermost",
    ),
    Decision(
        "weight_dtype",
        ("float32", "float16"),
        "operator",
        _large_weights,
        set_field("weight_dtype"),
        "the type in which the CPU rule stores packed weights; sums stay in float32",
        errors={"float16": 2e-3},
        needs=_CHANNELS_LAST,
        explored=0.25,
    ),
)
"""Every decision there is, in the order of reports."""
