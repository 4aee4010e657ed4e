"""Layers over tokens: linear maps, layer norm, GELU, multi-head attention.

Shape legend: T tokens, D width of a token, H heads, E = D / H width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Any

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.network import Tensor


def linear(net: Layers, x: Tensor, units: int) -> Tensor:
    """``[..., D] -> [..., units]`` with a bias, as the importer writes a linear layer on tokens."""
    if net.importer == "torch":
        flat = net.reshape(x, (_tokens(x), x.shape[-1])) if len(x.shape) > 2 else x
        y = net.dense(flat, units)
        return net.reshape(y, (*x.shape[:-1], units)) if len(x.shape) > 2 else y
    width, shape = x.shape[-1], (*x.shape[:-1], units)
    weight = net.weight((width, units), sqrt(1.0 / width))
    net.kernel("dense", x.shape, units, macs=_tokens(x) * width * units)
    y = net.write(shape, lambda op: op.matmul(x.expr, weight, out_dtype=net.out_dtype))
    bias = net.weight((units,), 0.1)
    return net.write(shape, lambda op: op.add(bias, y.expr))


def _tokens(x: Tensor) -> int:
    count = 1
    for size in x.shape[:-1]:
        count *= size
    return count


def layer_norm(net: Layers, x: Tensor) -> Tensor:
    """Normalises the last axis."""
    gamma, beta = net.weight(x.shape[-1:], 0.1, 1.0), net.weight(x.shape[-1:], 0.1)
    net.kernel("layer_norm", x.shape)
    return net.write(x.shape, lambda op: op.nn.layer_norm(x.expr, gamma, beta, axes=[-1]))


def offset(net: Layers, x: Tensor) -> Tensor:
    """Adds learned numbers of the shape of ``x``, such as position embeddings."""
    numbers = net.weight(x.shape, 0.1)
    return net.write(x.shape, lambda op: op.add(x.expr, numbers))


def scaled(net: Layers, x: Tensor, scale: float) -> Tensor:
    """Multiplies by a number."""
    number = net.scalar(scale)
    return net.write(x.shape, lambda op: op.multiply(x.expr, number))


def gelu(net: Layers, x: Tensor, form: str) -> Tensor:
    """GELU as one operator ("op") or as exporters before opset 20 write it ("erf")."""
    if form == "op":
        return net.activation(x, "gelu")
    root, one, half = net.scalar(sqrt(2.0)), net.scalar(1.0), net.scalar(0.5)
    divided = net.write(x.shape, lambda op: op.divide(x.expr, root))
    erf = net.write(x.shape, lambda op: op.erf(divided.expr))
    plus = net.write(x.shape, lambda op: op.add(erf.expr, one))
    product = net.multiply(x, plus)
    return net.write(x.shape, lambda op: op.multiply(product.expr, half))


def take(net: Layers, x: Tensor, index: int, axis: int) -> Tensor:
    """Takes entry ``index`` along ``axis``, which is removed."""
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    net.kernel("take", x.shape, axis)
    return net.write(shape, lambda op: op.take(x.expr, net.index(index), axis=axis))


def attention(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Multi-head self-attention of ``x [1, T, D]``, output projection included."""
    _, t, d = x.shape
    heads = p["heads"]
    scale = 1.0 / sqrt(d // heads)
    transposed = net.importer == "onnx"
    q, k, v = _heads(net, x, heads, p["fused_qkv"], transposed)
    if net.importer == "torch":
        y = _torch_attention(net, q, k, v, sqrt(scale))
    else:
        scores = net.matmul(q, k)  # [1, H, T, T]
        y = net.matmul(net.softmax(scaled(net, scores, scale)), v)
    y = net.reshape(net.transpose(y, (0, 2, 1, 3)), (1, t, d))
    return linear(net, y, d)


def _heads(net: Layers, x: Tensor, heads: int, fused: bool, transposed: bool) -> list[Tensor]:
    """Queries, keys and values ``[1, H, T, E]``; keys are ``[1, H, E, T]`` where ``transposed``."""
    _, t, d = x.shape
    if fused:
        y = net.reshape(linear(net, x, 3 * d), (1, t, 3, heads, d // heads))
        y = net.transpose(y, (2, 0, 3, 1, 4))
        q, k, v = (take(net, y, i, 0) for i in range(3))
        return [q, net.transpose(k, (0, 1, 3, 2)) if transposed else k, v]
    parts = [net.reshape(linear(net, x, d), (1, t, heads, d // heads)) for _ in range(3)]
    orders = ((0, 2, 1, 3), (0, 2, 3, 1) if transposed else (0, 2, 1, 3), (0, 2, 1, 3))
    return [net.transpose(part, order) for part, order in zip(parts, orders, strict=True)]


def _torch_attention(net: Layers, q: Tensor, k: Tensor, v: Tensor, root: float) -> Tensor:
    """``scaled_dot_product_attention`` as torch.export decomposes it, in three dimensions.

    The scale is split over both factors, and rows that are masked throughout become zero.
    """
    _, h, t, e = q.shape
    q = _batch(net, scaled(net, q, root), (h, t, e))
    k = _batch(net, scaled(net, net.transpose(k, (0, 1, 3, 2)), root), (h, e, t))
    scores = net.reshape(net.matmul(q, k), (1, h, t, t))
    weights = _zero_masked_rows(net, scores, net.softmax(scores))
    y = net.matmul(_batch(net, weights, (h, t, t)), _batch(net, v, (h, t, e)))
    y = net.transpose(net.reshape(y, (1, h, t, e)), (2, 0, 1, 3))
    return net.transpose(y, (1, 2, 0, 3))


def _batch(net: Layers, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    same = net.write(x.shape, lambda op: op.broadcast_to(x.expr, x.shape))
    return net.reshape(same, shape)


def _zero_masked_rows(net: Layers, scores: Tensor, weights: Tensor) -> Tensor:
    shape, row = scores.shape, (*scores.shape[:-1], 1)
    minus, zero = net.scalar(float("-inf")), net.scalar(0.0)
    y = net.write(shape, lambda op: op.equal(scores.expr, minus))
    y = _then(net, y, shape, lambda op, y: op.logical_not(y))
    y = _then(net, y, shape, lambda op, y: op.astype(y, "int8"))
    y = _then(net, y, row, lambda op, y: op.max(y, axis=[-1], keepdims=True))
    y = _then(net, y, row, lambda op, y: op.astype(y, "bool"))
    y = _then(net, y, row, lambda op, y: op.logical_not(y))
    zeros = net.write(shape, lambda op: op.full_like(weights.expr, zero))
    net.kernel("mask", shape)
    return net.write(shape, lambda op: op.where(y.expr, zeros.expr, weights.expr))


def _then(net: Layers, x: Tensor, shape: tuple[int, ...], make: Any) -> Tensor:
    return net.write(shape, lambda op: make(op, x.expr))


def feed_forward(net: Layers, x: Tensor, inner: int, act: str, form: str) -> Tensor:
    """Two linear maps with an activation between them."""
    y = linear(net, x, inner)
    y = gelu(net, y, form) if act == "gelu" else net.activation(y, act)
    return linear(net, y, x.shape[-1])
