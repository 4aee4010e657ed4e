"""How operators map to the 32 one-hot slots of a token, and which attributes each slot encodes.

NAR-Former V2's released code names 28 ONNX operators and leaves 4 of its 32 slots empty. The
catalogue here is larger, so the operators that take the most time keep a slot of their own and the
rest share one by what they do to memory: two operators share a slot only when equal shapes cost
about the same. The last slot is for operators that the catalogue does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tvm_costmodel.ops import CATALOGUE

UNKNOWN = "unknown"

_SLOTS: tuple[tuple[str, str], ...] = (
    ("input", "input"),
    ("conv2d", "conv2d conv1d conv3d"),
    ("conv2d_transpose", "conv2d_transpose conv1d_transpose conv3d_transpose"),
    ("dense", "dense"),
    ("matmul", "matmul"),
    ("attention", "attention attention_var_len"),
    ("batch_norm", "batch_norm"),
    ("layer_norm", "layer_norm rms_norm l2_normalize"),
    ("group_norm", "group_norm instance_norm lrn"),
    ("softmax", "softmax log_softmax"),
    ("relu", "relu leaky_relu prelu"),
    ("clip", "clip"),
    ("sigmoid", "sigmoid hardsigmoid"),
    ("silu", "silu hardswish"),
    ("tanh", "tanh"),
    ("gelu", "gelu gelu_tanh erf"),
    ("add", "add"),
    ("subtract", "subtract"),
    ("multiply", "multiply"),
    ("divide", "divide"),
    ("elementwise", ""),
    ("max_pool2d", "max_pool2d max_pool1d max_pool3d"),
    ("avg_pool2d", "avg_pool2d avg_pool1d avg_pool3d"),
    ("reduction", ""),
    ("view", "reshape flatten batch_flatten memory_view squeeze expand_dims dropout"),
    ("transpose", "transpose layout_transform"),
    ("concat", "concat stack"),
    ("split", "split strided_slice dynamic_strided_slice"),
    ("movement", ""),
    ("indexing", ""),
    ("other", ""),
    (UNKNOWN, ""),
)

VOCABULARY: tuple[str, ...] = tuple(name for name, _ in _SLOTS)
"""Names of the 32 slots, in one-hot order."""

_SLOT_OF_CATEGORY = {
    "matmul": "matmul",
    "attention": "attention",
    "normalisation": "layer_norm",
    "elementwise": "elementwise",
    "activation": "gelu",
    "reduction": "reduction",
    "pooling": "reduction",
    "scan": "reduction",
    "movement": "movement",
    "indexing": "indexing",
}


def _slot_of_each_operator() -> Mapping[str, int]:
    named = {op: slot for slot, operators in _SLOTS for op in operators.split()}
    slots = {
        spec.name: VOCABULARY.index(
            named.get(spec.name) or _SLOT_OF_CATEGORY.get(spec.category, "other")
        )
        for spec in CATALOGUE.values()
    }
    return MappingProxyType(slots)


SLOT_OF_OPERATOR: Mapping[str, int] = _slot_of_each_operator()
"""Slot of every operator of the catalogue: by its name above, else by its category."""

_KERNEL = ("kernel.0", "strides.0", "padding.0")
_BY_BYTES = ("operands", "constants", "results", "read_mb", "weight_mb", "written_mb")
_CONVOLUTION = (*_KERNEL, "dilation.0", "groups", "bias", "kernel.1", "in_channels")

ATTRIBUTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # The first six as published; the two that the paper leaves empty hold the kernel's second
        # extent, for 1x7 and 7x1 kernels, and the input channels.
        "conv2d": _CONVOLUTION,
        "conv2d_transpose": _CONVOLUTION,
        "dense": ("bias", "in_features"),
        "matmul": ("bias", "k"),
        "max_pool2d": (*_KERNEL, "kernel.1"),
        "avg_pool2d": (*_KERNEL, "kernel.1"),
        "reduction": ("read_ratio",),
        "group_norm": ("groups", "size"),
        "transpose": tuple(f"axes.{i}" for i in range(8)),
        "concat": ("axis", "operands"),
        "split": ("axis", "results"),
        **dict.fromkeys(("add", "subtract", "multiply", "divide", "elementwise"), ("constants",)),
        "movement": ("read_ratio",),
        "indexing": ("read_ratio",),
        "other": _BY_BYTES,
        # Nothing is known of it but its operands and the megabytes that it moves.
        UNKNOWN: _BY_BYTES,
    }
)
"""For each slot, what its (at most 8) attribute places hold: ``name`` or ``name.index`` of a
canonical attribute, or one of the derived numbers of `nar_former.DERIVED`. Others are empty."""
