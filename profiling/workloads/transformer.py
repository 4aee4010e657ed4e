"""Vision Transformer, sequence encoder (BERT) and MLP-Mixer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import choose, classes, form, image
from tvm_costmodel.profiling.workloads.transformer_layers import (
    attention,
    feed_forward,
    layer_norm,
    linear,
    offset,
    take,
)


def _block(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Attention and feed-forward with residuals, norm before (pre) or after (post) each."""
    inner = int(p["width"] * p["ratio"])
    if p["norm_first"]:
        x = net.add(x, attention(net, layer_norm(net, x), p))
        y = feed_forward(net, layer_norm(net, x), inner, p["act"], p["gelu"])
        return net.add(x, y)
    x = layer_norm(net, net.add(x, attention(net, x, p)))
    return layer_norm(net, net.add(x, feed_forward(net, x, inner, p["act"], p["gelu"])))


def patches(net: Layers, x: Tensor, width: int, patch: int) -> Tensor:
    """``[1, 3, S, S] -> [1, (S / patch)^2, width]`` by a strided convolution."""
    y = net.conv(x, width, patch, patch, padding=0, bias=True)
    y = net.reshape(y, (1, width, y.shape[2] * y.shape[3]))
    return net.transpose(y, (0, 2, 1))


def write_vit(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Patches, class token, position embedding, pre-norm blocks, classifier."""
    x = patches(net, x, p["width"], p["patch"])
    if p["class_token"]:
        token = Tensor((1, 1, p["width"]), net.weight((1, 1, p["width"]), 0.1))
        x = net.concat([token, x])
    x = offset(net, x)
    for _ in range(p["depth"]):
        x = _block(net, x, p)
    x = layer_norm(net, x)
    x = take(net, x, 0, 1) if p["class_token"] else mean_tokens(net, x)
    return net.finish(net.dense(x, p["classes"]))


def mean_tokens(net: Layers, x: Tensor) -> Tensor:
    """``[1, T, D] -> [1, D]``."""
    net.kernel("mean", x.shape)
    return net.write((1, x.shape[-1]), lambda op: op.mean(x.expr, axis=[1], keepdims=False))


def write_encoder(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Blocks over embedded tokens ``[1, T, D]``, then a pooler on the first token or all."""
    for _ in range(p["depth"]):
        x = _block(net, x, p)
    if p["output"] == "tokens":
        return x
    first = net.activation(linear(net, take(net, x, 0, 1), p["width"]), "tanh")
    return net.finish(net.dense(first, p["classes"]))


def write_mixer(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Patches, then blocks of one perceptron across tokens and one across channels."""
    x = patches(net, x, p["width"], p["patch"])
    for _ in range(p["depth"]):
        y = net.transpose(layer_norm(net, x), (0, 2, 1))
        y = feed_forward(net, y, p["token_inner"], "gelu", p["gelu"])
        x = net.add(x, net.transpose(y, (0, 2, 1)))
        y = feed_forward(net, layer_norm(net, x), p["channel_inner"], "gelu", p["gelu"])
        x = net.add(x, y)
    return net.finish(net.dense(mean_tokens(net, layer_norm(net, x)), p["classes"]))


def _sample_blocks(rng: np.random.Generator, size: str) -> Params:
    heads, head = choose(rng, (2, 3, 4, 6, 8)), choose(rng, (16, 32, 32, 48, 64))
    depth = choose(rng, (1, 2, 3, 4, 6, 8, 12))
    if size == "tiny":
        heads, head, depth = 2, 16, 1
    elif size == "large":
        heads, head, depth = choose(rng, (6, 8, 12, 12)), 64, choose(rng, (6, 8, 12, 12))
    written = form(rng, normed=False, headed=False)
    return {
        "width": heads * head,
        "heads": heads,
        "depth": depth,
        "ratio": float(choose(rng, (2.0, 3.0, 4.0, 4.0, 4.0))),
        "norm_first": True,
        "act": "gelu",
        "gelu": "op" if written["importer"] == "torch" else choose(rng, ("op", "erf")),
        "fused_qkv": bool(rng.random() < 0.5),
        "classes": classes(rng),
    } | written


def _patch(rng: np.random.Generator, pixels: int) -> int:
    return choose(rng, [patch for patch in (4, 8, 16, 16, 32) if 4 <= pixels // patch <= 16])


def _patched_image(rng: np.random.Generator, size: str) -> Params:
    pixels = image(rng, size) // 32 * 32
    return {"image": pixels, "patch": _patch(rng, pixels)}


def _sample_vit(rng: np.random.Generator, size: str) -> Params:
    drawn = _sample_blocks(rng, size) | _patched_image(rng, size)
    return drawn | {"class_token": bool(rng.random() < 0.7)}


def _sample_encoder(rng: np.random.Generator, size: str) -> Params:
    drawn = _sample_blocks(rng, size)
    lengths = {
        "tiny": (8, 16),
        "small": (8, 16, 24, 32, 48, 64, 100),
        "medium": (16, 32, 50, 64, 96, 128, 200, 256),
        "large": (64, 128, 128, 256, 384),
    }[size]
    act = choose(rng, ("gelu", "gelu", "relu"))
    return drawn | {
        "tokens": choose(rng, lengths),
        "norm_first": choose(rng, (True, False, False)),
        "act": act,
        "output": choose(rng, ("tokens", "pooled")),
    }


def _sample_mixer(rng: np.random.Generator, size: str) -> Params:
    blocks = _sample_blocks(rng, size)
    names = ("width", "depth", "gelu", "classes", "importer", "softmax")
    width = blocks["width"]
    return {name: blocks[name] for name in names} | {
        "token_inner": max(8, width // choose(rng, (2, 2, 4))),
        "channel_inner": width * choose(rng, (2, 4, 4)),
        **_patched_image(rng, size),
    }


VIT = Family(
    name="vit",
    reference="Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv 2010.11929",
    sampler=_sample_vit,
    writer=write_vit,
    reference_params={
        **IMAGENET,
        "patch": 16,
        "width": 768,
        "heads": 12,
        "depth": 12,
        "ratio": 4.0,
        "norm_first": True,
        "act": "gelu",
        "gelu": "op",
        "fused_qkv": True,
        "class_token": True,
    },
    reference_macs=17.56e9,
    reference_parameters=86.57e6,
)
ENCODER = Family(
    name="encoder",
    reference="Vaswani et al., Attention Is All You Need, NeurIPS 2017, arXiv 1706.03762; "
    "configuration of BERT-base, Devlin et al., NAACL 2019, arXiv 1810.04805",
    sampler=_sample_encoder,
    writer=write_encoder,
    reference_params={
        "tokens": 128,
        "classes": 2,
        "width": 768,
        "heads": 12,
        "depth": 12,
        "ratio": 4.0,
        "norm_first": False,
        "act": "gelu",
        "gelu": "erf",
        "fused_qkv": False,
        "output": "tokens",
    },
    reference_macs=11.2e9,
    reference_parameters=85.05e6,
    input_shape=lambda params: (1, int(params["tokens"]), int(params["width"])),
)
MIXER = Family(
    name="mixer",
    reference="Tolstikhin et al., MLP-Mixer: An all-MLP Architecture for Vision, NeurIPS 2021, "
    "arXiv 2105.01601",
    sampler=_sample_mixer,
    writer=write_mixer,
    reference_params={
        **IMAGENET,
        "patch": 16,
        "width": 768,
        "depth": 12,
        "token_inner": 384,
        "channel_inner": 3072,
        "gelu": "op",
    },
    reference_macs=12.6e9,
    reference_parameters=59.88e6,
)
