"""How each source calls the catalogue's operators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tvm_costmodel.ops.catalogue import CATALOGUE

Source = Literal["relax", "relay", "onnx"]

_RELAX: Mapping[str, str] = {
    "astype": "cast",
    "permute_dims": "transpose",
    "nn.leakyrelu": "leaky_relu",
    "nn.attention_bias": "attention",
    "nn.cross_entropy_with_logits": "cross_entropy",
    "gather_elements": "gather",
    "scatter_elements": "scatter",
    "full_like": "full",
    "zeros_like": "zeros",
    "ones_like": "ones",
    "eye_like": "eye",
    "collapse_sum_like": "collapse_sum",
    "collapse_sum_to": "collapse_sum",
    "multinomial_from_uniform": "random_multinomial",
    "memory.view": "memory_view",
    "memory.ensure_zero_offset": "memory_view",
    "to_vdevice": "copy",
    "hint_on_device": "memory_view",
    "wrap_param": "cast",
}
"""Names after ``relax.`` that differ from the canonical one; a namespace alone does not count."""

_RELAX_NAMESPACES = ("nn.", "image.", "vision.")

_RELAY: Mapping[str, str] = {
    "nn.batch_matmul": "matmul",
    "nn.bias_add": "add",
    "nn.global_avg_pool2d": "adaptive_avg_pool2d",
    "nn.global_max_pool2d": "adaptive_max_pool2d",
    "nn.fast_softmax": "softmax",
    "nn.conv2d_winograd_without_weight_transform": "conv2d",
    "nn.contrib_conv2d_NCHWc": "conv2d",
    "nn.contrib_depthwise_conv2d_NCHWc": "conv2d",
    "concatenate": "concat",
    "fast_tanh": "tanh",
    "fast_exp": "exp",
    "fast_erf": "erf",
    "scatter_elements": "scatter",
    "scatter_nd": "scatter_nd",
    "nn.mirror_pad": "pad",
    "qnn.quantize": "quantize",
    "qnn.dequantize": "dequantize",
    "reverse": "flip",
    "broadcast_to_like": "broadcast_to",
    "reshape_like": "reshape",
    "variance": "variance",
    "device_copy": "copy",
}

_ONNX: Mapping[str, str] = {
    "Conv": "conv2d",
    "ConvTranspose": "conv2d_transpose",
    "Gemm": "dense",
    "MatMul": "matmul",
    "Einsum": "einsum",
    "Attention": "attention",
    "Add": "add",
    "Sum": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Max": "maximum",
    "Min": "minimum",
    "Mod": "mod",
    "Pow": "power",
    "Neg": "negative",
    "Abs": "abs",
    "Sign": "sign",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Exp": "exp",
    "Log": "log",
    "Sqrt": "sqrt",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Asin": "asin",
    "Acos": "acos",
    "Atan": "atan",
    "Asinh": "asinh",
    "Acosh": "acosh",
    "Atanh": "atanh",
    "Equal": "equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Xor": "logical_xor",
    "Not": "logical_not",
    "IsNaN": "isnan",
    "IsInf": "isinf",
    "Where": "where",
    "Cast": "cast",
    "Clip": "clip",
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "PRelu": "prelu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Selu": "selu",
    "Elu": "elu",
    "Mish": "mish",
    "Gelu": "gelu",
    "Softplus": "softplus",
    "Dropout": "dropout",
    "Softmax": "softmax",
    "LogSoftmax": "log_softmax",
    "BatchNormalization": "batch_norm",
    "LayerNormalization": "layer_norm",
    "GroupNormalization": "group_norm",
    "InstanceNormalization": "instance_norm",
    "RMSNormalization": "rms_norm",
    "LpNormalization": "l2_normalize",
    "LRN": "lrn",
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ArgMax": "argmax",
    "ArgMin": "argmin",
    "MaxPool": "max_pool2d",
    "AveragePool": "avg_pool2d",
    "GlobalAveragePool": "adaptive_avg_pool2d",
    "GlobalMaxPool": "adaptive_max_pool2d",
    "CumSum": "cumsum",
    "Reshape": "reshape",
    "Flatten": "flatten",
    "Squeeze": "squeeze",
    "Unsqueeze": "expand_dims",
    "Transpose": "transpose",
    "Expand": "broadcast_to",
    "Concat": "concat",
    "Split": "split",
    "Slice": "strided_slice",
    "Pad": "pad",
    "Tile": "tile",
    "Trilu": "tril",
    "DepthToSpace": "depth_to_space",
    "SpaceToDepth": "space_to_depth",
    "Identity": "copy",
    "Resize": "resize2d",
    "Upsample": "resize2d",
    "Gather": "take",
    "GatherElements": "gather",
    "GatherND": "gather_nd",
    "ScatterElements": "scatter",
    "ScatterND": "scatter_nd",
    "OneHot": "one_hot",
    "NonZero": "nonzero",
    "Constant": "constant",
    "ConstantOfShape": "full",
    "Shape": "shape_of",
    "Size": "size",
    "Range": "arange",
    "EyeLike": "eye",
    "TopK": "topk",
    "Unique": "unique",
    "RoiAlign": "roi_align",
    "MaxRoiPool": "roi_pool",
    "NonMaxSuppression": "all_class_non_max_suppression",
    "AffineGrid": "affine_grid",
    "GridSample": "grid_sample",
    "QuantizeLinear": "quantize",
    "DequantizeLinear": "dequantize",
}


def canonical_name(source: Source, raw: str) -> str | None:
    """The catalogue's name of an operator, or None where the catalogue has none.

    Args:
        source: Whose name ``raw`` is. ONNX names do not tell the rank of a convolution or a pool;
            they are taken as two-dimensional.
        raw: The source's name, such as ``"relax.nn.conv2d"``, ``"nn.conv2d"`` or ``"Conv"``.
    """
    if source == "onnx":
        return _ONNX.get(raw)
    bare = raw.removeprefix(f"{source}.")
    known = (_RELAX if source == "relax" else _RELAY).get(bare)
    if known:
        return known
    for namespace in _RELAX_NAMESPACES:
        bare = bare.removeprefix(namespace)
    return bare if bare in CATALOGUE and bare != "input" else None
