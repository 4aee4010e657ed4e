"""Every operator that the package knows, with its category, attributes and arithmetic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

CATEGORIES = (
    "input",
    "convolution",
    "matmul",
    "attention",
    "elementwise",
    "activation",
    "reduction",
    "normalisation",
    "pooling",
    "movement",
    "indexing",
    "creation",
    "scan",
    "sorting",
    "vision",
    "quantisation",
    "loss",
)
"""Every category, in the order that encoders may rely on; new ones are added at the end."""


@dataclass(frozen=True)
class OpSpec:
    """Catalogue entry of one operator.

    Attributes:
        name: Canonical name.
        category: One of `CATEGORIES`.
        attrs: Canonical attribute names, besides ``weight_positions`` (argument positions of the
            weights, on any operator whose weights do not follow all its activations).
        flops_per_element: Floating-point operations per output element for elementwise,
            activation and normalisation operators, per input element for reductions; a
            transcendental function counts as 4. Convolutions, matmuls, attention and
            pooling have formulas of their own in `operator_cost`.
        is_view: Whether compilers turn it into another view of the same memory, so that it moves
            no bytes.
    """

    name: str
    category: str
    attrs: tuple[str, ...] = ()
    flops_per_element: int = 0
    is_view: bool = False


_CONV = tuple(
    "kernel strides padding dilation groups data_layout kernel_layout in_channels out_channels "
    "out_dtype".split()
)
_POOL = ("kernel", "strides", "padding", "dilation", "ceil_mode", "count_include_pad", "layout")
_RESIZE = ("layout", "method", "coordinate_transformation_mode", "rounding_method")


def _named(category: str, names: str, attrs: tuple[str, ...] = (), flops: int = 0) -> list[OpSpec]:
    return [OpSpec(name, category, attrs, flops) for name in names.split()]


def _arithmetic() -> Iterable[OpSpec]:
    yield OpSpec("input", "input")
    for rank in "123":
        yield OpSpec(f"conv{rank}d", "convolution", _CONV)
        yield OpSpec(f"conv{rank}d_transpose", "convolution", (*_CONV, "output_padding"))
    yield OpSpec("dense", "matmul", ("in_features", "out_features", "out_dtype"))
    yield OpSpec("matmul", "matmul", ("k", "out_dtype"))
    yield OpSpec("einsum", "matmul", ("subscripts",))
    yield OpSpec("outer", "matmul")
    yield OpSpec("attention", "attention", ("scale", "causal_mask", "window_size"))
    yield OpSpec("attention_var_len", "attention", ("scale", "causal_mask", "window_size"))


def _elementwise() -> Iterable[OpSpec]:
    yield from _named("elementwise", "add subtract multiply divide maximum minimum", (), 1)
    yield from _named("elementwise", "mod floor_mod floor_divide negative abs sign square", (), 1)
    yield from _named("elementwise", "floor ceil round trunc", (), 1)
    yield from _named("elementwise", "equal not_equal less less_equal greater greater_equal", (), 1)
    yield from _named("elementwise", "logical_and logical_or logical_xor logical_not", (), 1)
    yield from _named("elementwise", "bitwise_and bitwise_or bitwise_xor bitwise_not", (), 1)
    yield from _named("elementwise", "left_shift right_shift isnan isinf isfinite where", (), 1)
    yield OpSpec("ewise_fma", "elementwise", (), 2)
    yield from _named("elementwise", "power exp log sqrt rsqrt erf log_add_exp", (), 4)
    yield from _named("elementwise", "sin cos tan sinh cosh asin acos atan atan2", (), 4)
    yield from _named("elementwise", "asinh acosh atanh", (), 4)
    yield OpSpec("cast", "elementwise", ("dtype",), 1)
    yield OpSpec("clip", "elementwise", ("min", "max"), 2)
    yield from _named("activation", "relu", (), 1)
    yield OpSpec("leaky_relu", "activation", ("alpha",), 2)
    yield OpSpec("prelu", "activation", ("axis",), 2)
    yield from _named("activation", "sigmoid tanh", (), 6)
    yield OpSpec("silu", "activation", (), 7)
    yield from _named("activation", "hardsigmoid", (), 4)
    yield from _named("activation", "hardswish", (), 5)
    yield from _named("activation", "selu mish", (), 8)
    yield OpSpec("elu", "activation", ("alpha",), 6)
    yield from _named("activation", "gelu", (), 8)
    yield from _named("activation", "gelu_tanh", (), 12)
    yield OpSpec("softplus", "activation", ("beta", "threshold"), 8)
    yield OpSpec("dropout", "activation", ("rate",), 0)


def _normalisation() -> Iterable[OpSpec]:
    yield OpSpec("softmax", "normalisation", ("axis",), 8)
    yield OpSpec("log_softmax", "normalisation", ("axis",), 8)
    yield OpSpec("batch_norm", "normalisation", ("axis", "epsilon", "center", "scale"), 2)
    yield OpSpec("layer_norm", "normalisation", ("axes", "epsilon", "center", "scale"), 8)
    group = ("groups", "channel_axis", "axes", "epsilon", "center", "scale")
    yield OpSpec("group_norm", "normalisation", group, 8)
    yield OpSpec("instance_norm", "normalisation", group[1:], 8)
    yield OpSpec("rms_norm", "normalisation", ("axes", "epsilon"), 4)
    yield OpSpec("l2_normalize", "normalisation", ("axes", "epsilon"), 3)
    yield OpSpec("lrn", "normalisation", ("size", "axis", "alpha", "beta", "bias"), 12)


def _reduction_and_pooling() -> Iterable[OpSpec]:
    yield from _named("reduction", "mean sum max min prod", ("axes", "keepdims"), 1)
    yield from _named("reduction", "variance std", ("axes", "keepdims"), 4)
    yield from _named("reduction", "argmax argmin", ("axes", "keepdims"), 1)
    yield from _named("reduction", "median", ("axes", "keepdims"), 8)
    yield from _named("reduction", "collapse_sum", (), 1)
    for rank in "123":
        yield OpSpec(f"max_pool{rank}d", "pooling", _POOL)
        yield OpSpec(f"avg_pool{rank}d", "pooling", _POOL)
        yield OpSpec(f"adaptive_avg_pool{rank}d", "pooling", ("output_size", "layout"))
        yield OpSpec(f"adaptive_max_pool{rank}d", "pooling", ("output_size", "layout"))
    yield OpSpec("cumsum", "scan", ("axis", "exclusive", "dtype"), 1)
    yield OpSpec("cumprod", "scan", ("axis", "exclusive", "dtype"), 1)


def _movement() -> Iterable[OpSpec]:
    for name in ("reshape", "flatten", "batch_flatten", "memory_view"):
        yield OpSpec(name, "movement", (), is_view=True)
    for name in ("squeeze", "expand_dims"):
        yield OpSpec(name, "movement", ("axes",), is_view=True)
    yield OpSpec("transpose", "movement", ("axes",))
    yield OpSpec("broadcast_to", "movement")
    yield OpSpec("concat", "movement", ("axis",))
    yield OpSpec("stack", "movement", ("axis",))
    yield OpSpec("split", "movement", ("axis", "sections"))
    yield OpSpec("strided_slice", "movement", ("axes", "begin", "end", "strides"))
    yield OpSpec("dynamic_strided_slice", "movement")
    yield OpSpec("pad", "movement", ("pad_width", "pad_value", "mode"))
    yield OpSpec("tile", "movement", ("repeats",))
    yield OpSpec("repeat", "movement", ("repeats", "axis"))
    yield OpSpec("flip", "movement", ("axis",))
    yield OpSpec("roll", "movement", ("shifts", "axes"))
    yield OpSpec("meshgrid", "movement", ("indexing",))
    yield OpSpec("tril", "movement", ("k",))
    yield OpSpec("triu", "movement", ("k",))
    yield OpSpec("reverse_sequence", "movement", ("seq_axis", "batch_axis"))
    yield OpSpec("layout_transform", "movement", ("index_map", "pad_value"))
    yield OpSpec("pixel_shuffle", "movement", ("upscale_factor",))
    yield OpSpec("depth_to_space", "movement", ("block_size", "layout", "mode"))
    yield OpSpec("space_to_depth", "movement", ("block_size", "layout"))
    yield OpSpec("copy", "movement")
    yield OpSpec("channel_shuffle", "movement", ("groups", "axis"))
    yield OpSpec("resize2d", "movement", _RESIZE, 7)
    yield OpSpec("resize3d", "movement", _RESIZE, 15)
    yield OpSpec("take", "indexing", ("axis", "mode"))
    yield OpSpec("gather", "indexing", ("axis",))
    yield OpSpec("gather_nd", "indexing", ("batch_dims",))
    yield OpSpec("scatter", "indexing", ("axis", "reduction"))
    yield OpSpec("scatter_nd", "indexing", ("reduction",))
    yield OpSpec("slice_scatter", "indexing", ("axis", "begin", "end", "strides"))
    yield OpSpec("index_tensor", "indexing")
    yield OpSpec("index_put", "indexing", ("accumulate",))
    yield OpSpec("one_hot", "indexing", ("depth", "axis"))
    yield OpSpec("nonzero", "indexing")


def _rest() -> Iterable[OpSpec]:
    yield from _named("creation", "constant shape_of size shape_to_tensor tensor_to_shape")
    yield from _named("creation", "arange eye full zeros ones hamming_window", ("dtype",))
    yield OpSpec("random_multinomial", "creation", ("dtype",), 8)
    yield OpSpec("sort", "sorting", ("axis", "descending"))
    yield OpSpec("argsort", "sorting", ("axis", "descending", "dtype"))
    yield OpSpec("topk", "sorting", ("k", "axis", "ret_type", "largest", "dtype"))
    yield OpSpec("unique", "sorting", ("axis",))
    yield OpSpec("bucketize", "sorting", ("right",))
    yield OpSpec("roi_align", "vision", ("pooled_size", "spatial_scale", "sample_ratio", "layout"))
    yield OpSpec("roi_pool", "vision", ("pooled_size", "spatial_scale", "layout"))
    yield OpSpec("affine_grid", "vision", ("size",), 6)
    yield OpSpec("grid_sample", "vision", ("method", "layout", "padding_mode"), 10)
    yield from _named("vision", "non_max_suppression all_class_non_max_suppression", ())
    yield from _named("vision", "get_valid_counts multibox_transform_loc", ())
    yield OpSpec("quantize", "quantisation", ("axis", "dtype"), 4)
    yield OpSpec("dequantize", "quantisation", ("axis", "dtype"), 2)
    yield from _named("loss", "nll_loss", ("reduction", "ignore_index"), 1)
    yield from _named("loss", "cross_entropy", (), 8)


def _catalogue() -> Mapping[str, OpSpec]:
    parts = (_arithmetic, _elementwise, _normalisation, _reduction_and_pooling, _movement, _rest)
    specs = [spec for part in parts for spec in part()]
    return MappingProxyType({spec.name: spec for spec in specs})


CATALOGUE: Mapping[str, OpSpec] = _catalogue()
"""Every known operator by canonical name. Vocabularies take their order from it."""

ANNOTATIONS: tuple[str, ...] = ("fused", "algorithm", "tile")
"""Attributes that decisions add to an operator of any kind, never a front end: ``fused``, positions
of the activations that it reads from within its own kernel; ``algorithm`` of a convolution where it
is not direct; ``tile`` of its kernel as (accumulators, vectors, loop order), 0 and ``auto`` where
that is left to the schedule rule. Layout, element types and inserted transposes need no attribute
of their own."""
