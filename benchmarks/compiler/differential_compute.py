"""Random operators that compute: convolutions, products, reductions, element-wise work."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tvm import relax

from benchmarks.compiler.differential_draws import (
    EXTENTS,
    INTEGERS,
    REALS,
    SMALL,
    Case,
    Emit,
    Source,
    as_tensor,
    shape_of,
    tolerance_of,
    values,
)

nn, op = relax.op.nn, relax.op


def convolution(source: Source, kernels: Sequence[tuple[int, int]] = (), **fixed: Any) -> Case:
    """2-D convolution: strides, dilations, groups, uneven padding, with and without a bias."""
    groups = fixed.get("groups") or source.pick((1, 1, 1, 2, 3))
    per_group, filters = source.pick(SMALL[:9]), source.pick(SMALL[:9]) * groups
    if fixed.get("plain"):
        per_group, filters = source.pick(SMALL[1:]), source.pick(EXTENTS[:18])
    kernel = source.pick(kernels or ((1, 1), (3, 3), (2, 3), (1, 5), (5, 5), (3, 1)))
    strides = (1, 1) if fixed.get("plain") else (source.pick((1, 1, 2, 3)), source.pick((1, 2)))
    dilation = (1, 1) if fixed.get("plain") else (source.pick((1, 1, 2)), source.pick((1, 1, 3)))
    pads = [source.integer(0, 2) for _ in range(4)]  # top, left, bottom, right
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    reach = [r + fixed.get("least", 1) - 1 for r in reach]
    size = [max(source.pick(SMALL), r - pads[i] - pads[i + 2], 1) for i, r in enumerate(reach)]
    x = values(source, (source.pick((1, 1, 2)), per_group * groups, *size))
    return _convolution(source, x, (filters, per_group, *kernel), strides, dilation, pads, groups)


def _convolution(
    source: Source,
    x: np.ndarray,
    shape: tuple[int, ...],
    strides: tuple[int, int],
    dilation: tuple[int, int],
    pads: list[int],
    groups: int,
) -> Case:
    weight = values(source, shape)
    bias = values(source, (1, shape[0], 1, 1)) if source.integer(0, 1) else None
    padded = F.pad(as_tensor(x), (pads[1], pads[3], pads[0], pads[2]))
    expected = F.conv2d(
        padded, as_tensor(weight), stride=strides, dilation=dilation, groups=groups
    ).numpy()
    if bias is not None:
        expected = np.maximum(expected + bias, 0)

    def make(emit: Emit, a: relax.Expr) -> relax.Expr:
        attrs = {"strides": strides, "padding": pads, "dilation": dilation, "groups": groups}
        y = emit(nn.conv2d(a, relax.const(weight), **attrs))
        return y if bias is None else nn.relu(emit(op.add(y, relax.const(bias))))

    text = f"{x.shape} * {shape} strides {strides} dilation {dilation} pads {pads} groups {groups}"
    return Case(text, (x,), make, expected.astype("float32"), 3e-5)


def depthwise(source: Source) -> Case:
    """One filter, or two, for each channel."""
    channels, each = source.pick(EXTENTS), source.pick((1, 1, 1, 2))
    kernel = source.pick(((3, 3), (5, 5), (1, 3), (2, 2), (7, 7)))
    strides, dilation = source.pick(((1, 1), (2, 2), (1, 2))), source.pick(((1, 1), (1, 1), (2, 2)))
    pads = [source.integer(0, 3) for _ in range(4)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [max(source.pick(SMALL), r - pads[i] - pads[i + 2], 1) for i, r in enumerate(reach)]
    x = values(source, (source.pick((1, 1, 2)), channels, *size))
    shape = (channels * each, 1, *kernel)
    return _convolution(source, x, shape, strides, dilation, pads, channels)


def winograd2(source: Source) -> Case:
    """Stride 1, kernels of 3x3 and 5x5."""
    case = convolution(source, ((3, 3), (5, 5)), plain=True, groups=1, least=2)
    return dataclasses.replace(case, rtol=1e-4)


def winograd4(source: Source) -> Case:
    """Stride 1, kernels of 3x3."""
    case = convolution(source, ((3, 3),), plain=True, groups=1, least=4)
    return dataclasses.replace(case, rtol=3e-4)


def im2col(source: Source) -> Case:
    """Convolutions without groups."""
    return convolution(source, ((3, 3), (2, 3), (5, 5)), groups=1)


def pooling(source: Source) -> Case:
    """Largest and mean value of windows, with padding and strides."""
    kernel = source.pick(((2, 2), (3, 3), (3, 2), (5, 5), (1, 3)))
    strides = source.pick(((1, 1), (2, 2), (3, 2)))
    pads = [source.integer(0, (k - 1) // 2) for k in (*kernel, *kernel)]
    size = [max(source.pick(SMALL), k) for k in kernel]
    x = values(source, (source.pick((1, 2)), source.pick(EXTENTS), *size))
    kind = source.pick(("max", "average", "average all"))
    sides = (pads[1], pads[3], pads[0], pads[2])
    largest = F.pad(as_tensor(x), sides, value=-math.inf)
    if kind == "max":
        expected = F.max_pool2d(largest, kernel, strides).numpy()
    else:
        total = F.avg_pool2d(F.pad(as_tensor(x), sides), kernel, strides) * math.prod(kernel)
        ones = F.pad(torch.ones_like(as_tensor(x)), sides, value=float(kind != "average"))
        expected = (total / (F.avg_pool2d(ones, kernel, strides) * math.prod(kernel))).numpy()
    attrs = {"strides": strides, "padding": pads}

    def make(emit: Emit, a: relax.Expr) -> relax.Expr:
        if kind == "max":
            return nn.max_pool2d(a, kernel, **attrs)
        return nn.avg_pool2d(a, kernel, **attrs, count_include_pad=kind != "average")

    return Case(f"{kind} {x.shape} {kernel} {attrs}", (x,), make, expected.astype("float32"))


_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "variance": np.var,
    "std": np.std,
}


def reduction(source: Source) -> Case:
    """Sums, means, extremes over some axes, and the place of an extreme along one."""
    rank = source.integer(1, 4)
    name = source.pick((*_REDUCTIONS, "argmax", "argmin"))
    whole = name in ("sum", "max", "min", "argmax", "argmin")
    dtype = source.pick((*REALS, *INTEGERS)) if whole else "float32"
    x = values(source, shape_of(source, rank), dtype)
    keep = bool(source.integer(0, 1))
    if name.startswith("arg"):
        axis = source.integer(0, rank - 1)
        arg = getattr(np, name)(x, axis=axis, keepdims=keep)
        return Case(
            f"{name} {dtype}{x.shape} axis {axis}",
            (x,),
            lambda emit, a: getattr(op, name)(a, axis, keepdims=keep),
            arg.astype("int64"),
            0,
        )
    axes = sorted({source.integer(0, rank - 1) for _ in range(source.integer(1, rank))})
    wide = x.astype("float64") if dtype.startswith("float") else x
    if name == "prod":
        x = wide = (1 + 0.1 * x).astype("float32")
    expected = _REDUCTIONS[name](wide, axis=tuple(axes), keepdims=keep).astype(x.dtype)
    return Case(
        f"{name} {dtype}{x.shape} axes {axes} keep {keep}",
        (x,),
        lambda emit, a: getattr(op, name)(a, axes, keepdims=keep),
        expected,
        {"float32": 1e-4, "float16": 1.6e-2}.get(dtype, 0),
    )


def normalisation(source: Source) -> Case:
    """Softmax (also of masked rows), log-softmax, layer, RMS, group and instance norm."""
    name = source.pick(("softmax", "log_softmax", "masked", "layer_norm", "rms_norm", "group_norm"))
    rank = source.integer(3, 4) if name == "group_norm" else source.integer(1, 4)
    x = values(source, shape_of(source, rank)) * np.float32(3)
    axis = rank - 1 if name.endswith("norm") else source.integer(0, rank - 1)
    wide, text = x.astype("float64"), f"{name} {x.shape} axis {axis}"
    if name == "masked":
        masked = np.random.default_rng(x.size).random(x.shape) < 0.5
        np.moveaxis(masked, axis, 0)[0] = False
        x = np.where(masked, np.float32(source.pick((-math.inf, -1e9, -3.4028235e38))), x)
        wide = x.astype("float64")
    if name in ("softmax", "masked", "log_softmax"):
        power = np.exp(wide - wide.max(axis, keepdims=True))
        expected = power / power.sum(axis, keepdims=True)
        if name == "log_softmax":
            expected = np.log(expected)
        function = nn.log_softmax if name == "log_softmax" else nn.softmax
        make = lambda emit, a: function(a, axis)  # noqa: E731
        return Case(text, (x,), make, expected.astype("float32"), 2e-6)
    return _norm(source, name, x, text)


def _norm(source: Source, name: str, x: np.ndarray, text: str) -> Case:
    wide, last = x.astype("float64"), x.shape[-1]
    if name == "group_norm":
        channels = x.shape[1]
        groups = source.pick([g for g in range(1, channels + 1) if channels % g == 0])
        scale, shift = values(source, (channels,)), values(source, (channels,))
        expected = F.group_norm(
            as_tensor(x), groups, as_tensor(scale), as_tensor(shift), 1e-5
        ).numpy()
        axes = list(range(2, x.ndim))

        def group(emit: Emit, a: relax.Expr) -> relax.Expr:
            return nn.group_norm(a, relax.const(scale), relax.const(shift), groups, 1, axes)

        return Case(f"{text} groups {groups}", (x,), group, expected.astype("float32"), 1e-4)
    scale, shift = values(source, (last,)), values(source, (last,))
    if name == "rms_norm":
        expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * scale
        make = lambda emit, a: nn.rms_norm(a, relax.const(scale), [-1], 1e-5)  # noqa: E731
    else:
        expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(
            wide.var(-1, keepdims=True) + 1e-5
        ) * scale + shift
        make = lambda emit, a: nn.layer_norm(  # noqa: E731
            a, relax.const(scale), relax.const(shift), [-1], 1e-5
        )
    return Case(text, (x,), make, expected.astype("float32"), 2e-4)


_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sqrt": lambda x: np.sqrt(x),
    "abs": np.abs,
    "negative": np.negative,
    "floor": np.floor,
    "erf": lambda x: torch.erf(torch.from_numpy(x)).numpy(),
    "square": np.square,
    "round": np.round,
}
_BINARY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "less": np.less,
    "equal": np.equal,
    "greater_equal": np.greater_equal,
}


def elementwise(source: Source) -> Case:
    """One-operand functions, comparisons, selections and conversions."""
    x = values(source, shape_of(source, source.integer(1, 4)), source.pick(REALS))
    name = source.pick((*_UNARY, "cast", "where", "clip"))
    dtype = str(x.dtype)
    text = f"{name} {dtype}{x.shape}"
    if name == "cast":
        kinds = ("float32", "float16", "int32", "int64", "int8", "bool")
        start, end = source.pick(kinds), source.pick(kinds)
        y = values(source, x.shape, start)
        make = lambda emit, a: op.astype(a, end)  # noqa: E731
        return Case(f"cast {start} {end} {x.shape}", (y,), make, y.astype(end), 0)
    if name == "where":
        mask = values(source, x.shape, "bool")
        make = lambda emit, m, a: op.where(m, a, emit(op.negative(a)))  # noqa: E731
        return Case(text, (mask, x), make, np.where(mask, x, -x), 0)
    if name == "clip":
        make = lambda emit, a: op.clip(a, -0.5, 0.75)  # noqa: E731
        return Case(text, (x,), make, np.clip(x, np.array(-0.5, dtype), np.array(0.75, dtype)), 0)
    if name == "sqrt":
        x = np.abs(x)
    expected = _UNARY[name](x.astype("float64")).astype(dtype)
    return Case(text, (x,), lambda emit, a: getattr(op, name)(a), expected, tolerance_of(dtype))


def broadcast(source: Source) -> Case:
    """Two operands of which either may repeat along any axis."""
    shape = shape_of(source, source.integer(1, 4))
    left = [1 if source.integer(0, 3) == 0 else e for e in shape]
    right = [1 if source.integer(0, 2) == 0 else e for e in shape]
    right = right[source.integer(0, len(right) - 1) :]
    dtype = source.pick((*REALS, *INTEGERS))
    x, y = values(source, left, dtype), values(source, right, dtype)
    name = source.pick(tuple(_BINARY))
    expected = _BINARY[name](x, y)
    text = f"{name} {dtype}{x.shape} {y.shape}"
    tolerance = 2e-3 if dtype == "float16" else 0
    return Case(text, (x, y), lambda emit, a, b: getattr(op, name)(a, b), expected, tolerance)


def matmul(source: Source) -> Case:
    """Products of matrices, vectors and batches; constant right sides; with a bias."""
    rows, steps, columns = (source.pick(EXTENTS) for _ in range(3))
    batch = shape_of(source, source.integer(0, 2), 6, (1, 2, 3))
    other = batch if source.integer(0, 1) else []
    if math.prod(batch) * rows * steps * columns > 200_000:
        batch = other = []
    x, y = values(source, (*batch, rows, steps)), values(source, (*other, steps, columns))
    expected = (x.astype("float64") @ y.astype("float64")).astype("float32")
    text, constant = f"{x.shape} @ {y.shape}", bool(source.integer(0, 1))
    if constant:
        bias = values(source, (columns,))

        def dense(emit: Emit, a: relax.Expr) -> relax.Expr:
            return op.add(emit(op.matmul(a, relax.const(y))), relax.const(bias))

        return Case(f"{text} constant", (x,), dense, expected + bias, 2e-5)
    if source.integer(0, 1):
        swapped = np.ascontiguousarray(np.swapaxes(y, -1, -2))
        axes = [*range(y.ndim - 2), y.ndim - 1, y.ndim - 2]
        make = lambda emit, a, b: op.matmul(a, emit(op.permute_dims(b, axes)))  # noqa: E731
        return Case(f"{text} transposed", (x, swapped), make, expected, 2e-5)
    return Case(text, (x, y), lambda emit, a, b: op.matmul(a, b), expected, 2e-5)
