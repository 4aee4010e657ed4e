"""Relay's calls converted to the forms that the Relax front end produces.

Relay and Relax spell the same operator differently: a dense layer's weight is transposed, a bias
has an axis instead of a shape, bounds have other names. This module holds the differences;
everything after it is shared by both front ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm_costmodel.graph.types import TensorType

Attributes = dict[str, Any]
Adapt = Callable[[Attributes, Sequence[TensorType], Sequence[TensorType]], None]

LITERALS: Mapping[str, Mapping[int, str]] = {
    "nn.pad": {1: "pad_value"},
    "dyn.nn.pad": {2: "pad_value"},
    "one_hot": {1: "on_value", 2: "off_value"},
    "dyn.one_hot": {1: "on_value", 2: "off_value"},
    "trilu": {1: "k"},
    "dyn.topk": {1: "k"},
}
"""Positions of scalar constants that parametrise an operator, and the attributes they become."""

READ = frozenset(
    "strides padding dilation groups data_layout kernel_layout out_layout output_padding "
    "pool_size layout dst_layout ceil_mode count_include_pad output_size axis axes num_newaxis "
    "epsilon eps center scale size alpha beta bias rate keepdims exclude a_min a_max "
    "indices_or_sections begin end slice_mode mode pad_mode pad_width pad_value reps repeats "
    "shifts indexing upper seq_axis batch_axis block_size batch_dims reduction depth dtype "
    "out_dtype is_ascend k ret_type exclusive method coordinate_transformation_mode "
    "rounding_method align_corners scale_h scale_w num_groups equation target_shape "
    "padding_mode pooled_size spatial_scale sample_ratio right ignore_index transpose_a "
    "transpose_b accumulate".split()
)
"""Attributes that are read of operators that the catalogue has; reading one takes microseconds."""

BOOLEANS = frozenset(
    "ceil_mode count_include_pad center scale keepdims exclude upper exclusive align_corners right "
    "is_ascend transpose_a transpose_b accumulate".split()
)
"""Attributes that are true or false."""

TRANSPOSED: Mapping[str, tuple[bool, bool]] = {
    "nn.dense": (False, True),
    "qnn.dense": (False, True),
    "nn.batch_matmul": (False, True),
    "qnn.batch_matmul": (False, True),
    "nn.matmul": (False, False),
}
"""Matrix products, and which operands are stored transposed unless an attribute differs."""

_ENLARGING = {"nearest_neighbor": "nearest_neighbor", "bilinear": "linear", "bicubic": "cubic"}


def adapted(
    raw: str,
    op: str,
    attrs: Attributes,
    operands: Sequence[TensorType],
    outputs: Sequence[TensorType],
) -> tuple[str, Attributes]:
    """The canonical name of a call, and its attributes by Relax's or the catalogue's names.

    Args:
        raw: Relay's name.
        op: The catalogue's name of it.
        attrs: Attributes by Relay's names; not to be used afterwards.
        operands: Types of all tensor arguments.
        outputs: Types of its results.
    """
    adapt = _ADAPT.get(raw) or _ADAPT.get(op)
    if adapt is not None:
        adapt(attrs, operands, outputs)
    if attrs.get("exclude"):
        rank = len(operands[0].shape)
        named = attrs.get("axis")
        listed = named if isinstance(named, tuple) else (named,)
        excluded = {axis % rank for axis in listed if axis is not None}
        attrs["axis"] = tuple(axis for axis in range(rank) if axis not in excluded)
    if op == "tril" and attrs.get("upper", False):
        op = "triu"
    return op, attrs


def bias_shape(bias: tuple[int, ...], axis: int, rank: int) -> tuple[int, ...]:
    """Shape in which a bias of one axis broadcasts, as Relax's importers write it."""
    axis = axis % rank
    return bias if axis == rank - 1 else (1,) * axis + bias + (1,) * (rank - axis - 1)


def swapped(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A matrix's shape transposed, leading axes kept."""
    return (*shape[:-2], shape[-1], shape[-2]) if len(shape) > 1 else shape


def is_folded(op: str | None, outputs: Sequence[TensorType]) -> bool:
    """Whether an operator of constants alone is computed before the network runs."""
    static = all(-1 not in t.shape for t in outputs)
    return static and op is not None and op != "random_multinomial"


def _rename(**names: str) -> Adapt:
    def adapt(
        attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> None:
        for old, new in names.items():
            if old in attrs:
                attrs[new] = attrs.pop(old)

    return adapt


def _expand_dims(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    axis, count = attrs.get("axis"), attrs.get("num_newaxis", 1)
    if isinstance(axis, int):
        axis = axis if axis >= 0 else axis + len(outputs[0].shape) - count + 1
        attrs["axis"] = tuple(range(axis, axis + count))


def _transpose(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    attrs["axes"] = attrs.get("axes") or None


def _pad(attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]) -> None:
    widths = attrs.get("pad_width")
    if isinstance(widths, tuple):
        attrs["pad_width"] = tuple(w for pair in widths for w in pair)
    if "mode" in attrs:
        attrs["mode"] = str(attrs["mode"]).lower()


def _strided_slice(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    begin, end = attrs.get("begin"), attrs.get("end")
    if not isinstance(begin, tuple) or not isinstance(end, tuple):
        return
    count = len(begin)
    axes = attrs.get("axes") or tuple(range(count))
    strides = attrs.get("strides") or (1,)
    strides = strides * count if len(strides) == 1 else strides
    if attrs.get("slice_mode") == "size":
        extents = [operands[0].shape[axis] for axis in axes]
        end = tuple(
            extent if size < 0 else start + size
            for start, size, extent in zip(begin, end, extents, strict=False)
        )
        strides = (1,) * count
    if attrs.get("axes") is None:  # all axes are named: keep those that are cut
        cut = [
            i
            for i in range(count)
            if outputs[0].shape[i] != operands[0].shape[i] or strides[i] != 1
        ]
        axes, begin, end, strides = (
            tuple(values[i] for i in cut) for values in (axes, begin, end, strides)
        )
    attrs.update(axes=axes, begin=begin, end=end, strides=strides)


def _channel_norm(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    rank = len(operands[0].shape)
    channel = attrs.pop("axis", 1) % rank
    attrs["channel_axis"] = channel
    attrs["axes"] = tuple(axis for axis in range(1, rank) if axis != channel)


def _enlarge(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    attrs["method"] = _ENLARGING.get(str(attrs.get("method")), "nearest_neighbor")
    corners = bool(attrs.get("align_corners"))
    attrs["coordinate_transformation_mode"] = "align_corners" if corners else "asymmetric"


def _max_pool(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    attrs.setdefault("count_include_pad", False)


def _requantize(
    attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
) -> None:
    attrs["out_dtype"] = outputs[0].dtype


def _order(key: str, ascending_means: bool) -> Adapt:
    def adapt(
        attrs: Attributes, operands: Sequence[TensorType], outputs: Sequence[TensorType]
    ) -> None:
        if "is_ascend" in attrs:
            attrs[key] = bool(attrs.pop("is_ascend")) is ascending_means

    return adapt


_ADAPT: Mapping[str, Adapt] = {
    "clip": _rename(a_min="min", a_max="max"),
    "einsum": _rename(equation="subscripts"),
    "tile": _rename(reps="repeats"),
    "scatter_nd": _rename(mode="reduction"),
    "affine_grid": _rename(target_shape="size"),
    "l2_normalize": _rename(eps="epsilon"),
    "expand_dims": _expand_dims,
    "transpose": _transpose,
    "pad": _pad,
    "strided_slice": _strided_slice,
    "group_norm": _channel_norm,
    "instance_norm": _channel_norm,
    "nn.upsampling": _enlarge,
    "nn.upsampling3d": _enlarge,
    "dyn.nn.upsampling": _enlarge,
    "dyn.nn.upsampling3d": _enlarge,
    "quantize": _requantize,
    "dequantize": _requantize,
    "sort": _order("descending", False),
    "argsort": _order("descending", False),
    "topk": _order("largest", False),
    **{f"max_pool{rank}d": _max_pool for rank in "123"},
}
"""By Relay's name or by the catalogue's."""
