"""ResNet with basic blocks and with bottlenecks, ResNeXt and wide variants included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import channels, choose, classes, form, image

PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016, arXiv 1512.03385"


def _stem(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    if p["stem"] == "small":
        return net.conv_bn(x, p["width"], 3)
    return net.max_pool(net.conv_bn(x, p["width"], 7, 2), 3, 2, 1)


def _shortcut(net: Layers, x: Tensor, channels: int, stride: int) -> Tensor:
    if stride == 1 and x.shape[1] == channels:
        return x
    return net.conv_bn(x, channels, 1, stride, act=None)


def _basic(net: Layers, x: Tensor, width: int, stride: int) -> Tensor:
    y = net.conv_bn(x, width, 3, stride)
    y = net.conv_bn(y, width, 3, act=None)
    return net.activation(net.add(y, _shortcut(net, x, width, stride)), "relu")


def _bottleneck(net: Layers, x: Tensor, width: int, stride: int, p: Mapping[str, Any]) -> Tensor:
    inner = width * p["inner_width"] // 64
    y = net.conv_bn(x, inner, 1)
    y = net.conv_bn(y, inner, 3, stride, groups=p["groups"])
    y = net.conv_bn(y, 4 * width, 1, act=None)
    return net.activation(net.add(y, _shortcut(net, x, 4 * width, stride)), "relu")


def write_resnet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stem, stages of basic blocks (two 3x3) or bottlenecks (1x1, 3x3, 1x1), classifier."""
    x = _stem(net, x, p)
    for stage, depth in enumerate(p["depths"]):
        width = p["width"] * 2**stage
        for block in range(depth):
            stride = 2 if stage > 0 and block == 0 else 1
            if p["block"] == "basic":
                x = _basic(net, x, width, stride)
            else:
                x = _bottleneck(net, x, width, stride, p)
    return net.classifier(x, p["classes"])


def _sample(rng: np.random.Generator, size: str, block: str) -> Params:
    pixels = image(rng, size)
    large = size == "large"
    depths = {
        "basic": [(2, 2, 2, 2), (1, 1, 1, 1), (3, 4, 6, 3), (2, 2, 2), (3, 3, 3), (5, 5, 5)],
        "bottleneck": [(3, 4, 6, 3), (2, 2, 2, 2), (1, 1, 1, 1), (3, 4, 23, 3), (3, 3, 3)],
    }[block]
    if size == "tiny":
        depths = [(1, 1, 1), (1, 1)]
    elif large:
        depths = [d for d in depths if len(d) == 4] + [depths[0]] * 2
    drawn: Params = {
        "block": block,
        "image": pixels,
        "classes": classes(rng),
        "depths": list(choose(rng, depths)),
        "width": channels(rng, 40, 96) if large else channels(rng, 8, 24 if size == "tiny" else 72),
        "stem": "small" if pixels <= 48 else choose(rng, ("large", "large", "large", "small")),
    }
    if large:
        drawn |= {"stem": "large", "width": choose(rng, (64, 64, drawn["width"]))}
    if block == "bottleneck":
        drawn |= {"groups": 1, "inner_width": choose(rng, (64, 64, 64, 64, 32, 128))}
        if drawn["width"] % 16 == 0 and rng.random() < 0.15:
            drawn |= {"groups": choose(rng, (2, 4, 8, 16)), "inner_width": 128}
    return drawn | form(rng)


RESNET = Family(
    name="resnet",
    reference=PAPER,
    sampler=lambda rng, size: _sample(rng, size, "basic"),
    writer=write_resnet,
    reference_params={
        **IMAGENET,
        "block": "basic",
        "depths": [2, 2, 2, 2],
        "width": 64,
        "stem": "large",
    },
    reference_macs=1.814e9,
    reference_parameters=11.69e6,
)
RESNET_BOTTLENECK = Family(
    name="resnet_bottleneck",
    reference=PAPER,
    sampler=lambda rng, size: _sample(rng, size, "bottleneck"),
    writer=write_resnet,
    reference_params={
        **IMAGENET,
        "block": "bottleneck",
        "depths": [3, 4, 6, 3],
        "width": 64,
        "stem": "large",
        "groups": 1,
        "inner_width": 64,
    },
    reference_macs=4.089e9,
    reference_parameters=25.56e6,
)
