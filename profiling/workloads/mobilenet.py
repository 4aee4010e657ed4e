"""MobileNetV1, V2, V3 and MnasNet: depthwise-separable convolutions and inverted residuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import choose, classes, divisible, form, image

#: MobileNetV1: channels and stride of each separable convolution.
V1_BLOCKS = [[64, 1], [128, 2], [128, 1], [256, 2], [256, 1], [512, 2], *[[512, 1]] * 5]
V1_BLOCKS += [[1024, 2], [1024, 1]]
#: MobileNetV2: expansion, channels, repeats, stride of each stage.
V2_STAGES = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 3, 2], [6, 64, 4, 2], [6, 96, 3, 1]]
V2_STAGES += [[6, 160, 3, 2], [6, 320, 1, 1]]
#: Parameters that every published network here has.
PUBLISHED = {**IMAGENET, "multiplier": 1.0, "stem_stride": 2}


def width_multiplier(rng: np.random.Generator, size: str) -> float:
    """Width multiplier for a size class."""
    options = {
        "tiny": (0.25, 0.35),
        "small": (0.25, 0.35, 0.5, 0.75, 1.0),
        "medium": (0.35, 0.5, 0.75, 1.0, 1.0, 1.0, 1.25, 1.4),
        "large": (1.0, 1.0, 1.3, 1.4, 1.5),
    }[size]
    return float(choose(rng, options))


def squeeze_excite(net: Layers, x: Tensor, squeeze: int, act: str, gate: str) -> Tensor:
    """Scales channels by a gate computed from their means."""
    s = net.conv(net.global_pool(x), squeeze, 1, bias=True)
    s = net.conv(net.activation(s, act), x.shape[1], 1, bias=True)
    return net.multiply(x, net.activation(s, gate))


def inverted_residual(
    net: Layers,
    x: Tensor,
    channels: int,
    expanded: int,
    kernel: int = 3,
    stride: int = 1,
    act: str = "relu6",
    squeeze: int = 0,
    gate: str = "sigmoid",
) -> Tensor:
    """Expand 1x1, depthwise, optional squeeze-and-excite, project 1x1, residual if it fits."""
    y = x if expanded == x.shape[1] else net.conv_bn(x, expanded, 1, act=act)
    y = net.conv_bn(y, expanded, kernel, stride, act=act, groups=expanded)
    if squeeze:
        y = squeeze_excite(net, y, squeeze, "relu" if gate == "hardsigmoid" else act, gate)
    y = net.conv_bn(y, channels, 1, act=None)
    return net.add(x, y) if stride == 1 and x.shape[1] == channels else y


def write_v1(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Depthwise 3x3 then pointwise, thirteen times in the published network."""
    scale = p["multiplier"]
    x = net.conv_bn(x, divisible(32 * scale), 3, p["stem_stride"], act=p["act"])
    for channels, stride in p["blocks"]:
        x = net.conv_bn(x, x.shape[1], 3, stride, act=p["act"], groups=x.shape[1])
        x = net.conv_bn(x, divisible(channels * scale), 1, act=p["act"])
    return net.classifier(x, p["classes"])


def _sample_v1(rng: np.random.Generator, size: str) -> Params:
    blocks = V1_BLOCKS
    if size == "tiny":
        blocks = [[64, 1], [128, 2], [256, 2]]
    elif size != "large" and rng.random() < 0.4:
        blocks = V1_BLOCKS[: choose(rng, (5, 7, 9))]
    pixels = image(rng, size)
    return {
        "image": pixels,
        "classes": classes(rng),
        "multiplier": width_multiplier(rng, size),
        "stem_stride": 1 if pixels <= 40 and rng.random() < 0.5 else 2,
        "blocks": [list(block) for block in blocks],
        "act": choose(rng, ("relu", "relu6")),
    } | form(rng)


def write_v2(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stages of inverted residuals between a 3x3 stem and a 1x1 head."""
    scale = p["multiplier"]
    x = net.conv_bn(x, divisible(32 * scale), 3, p["stem_stride"], act="relu6")
    for expansion, channels, repeats, stride in p["stages"]:
        for i in range(repeats):
            x = inverted_residual(
                net,
                x,
                divisible(channels * scale),
                x.shape[1] * expansion,
                kernel=p["kernel"],
                stride=stride if i == 0 else 1,
            )
    x = net.conv_bn(x, divisible(1280 * max(1.0, scale)), 1, act="relu6")
    return net.classifier(x, p["classes"])


def vary_stages(
    rng: np.random.Generator, stages: Sequence[Sequence[Any]], size: str, repeats_at: int
) -> list[list[Any]]:
    """Stages with fewer or more repeats; the published ones a third of the time."""
    varied = [list(stage) for stage in stages]
    if size == "tiny":
        varied = varied[:3]
    elif size != "large" and rng.random() < 0.6:
        varied = varied[: choose(rng, (3, 4, 4, 5))]
    if rng.random() < 0.33 and size != "tiny":
        return varied
    for stage in varied:
        stage[repeats_at] = max(1, stage[repeats_at] + choose(rng, (-1, 0, 0, 1)))
    return varied


def _sample_v2(rng: np.random.Generator, size: str) -> Params:
    pixels = image(rng, size)
    stages = vary_stages(rng, V2_STAGES, size, 2)
    if rng.random() < 0.3:
        expansion = choose(rng, (3, 4))
        stages = [[min(stage[0], expansion), *stage[1:]] for stage in stages]
    return {
        "image": pixels,
        "classes": classes(rng),
        "multiplier": width_multiplier(rng, size),
        "stem_stride": 1 if pixels <= 40 and rng.random() < 0.5 else 2,
        "kernel": choose(rng, (3, 3, 3, 5)),
        "stages": stages,
    } | form(rng)


MOBILENET_V1 = Family(
    name="mobilenet_v1",
    reference="Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile "
    "Vision Applications, 2017, arXiv 1704.04861",
    sampler=_sample_v1,
    writer=write_v1,
    reference_params={**PUBLISHED, "blocks": V1_BLOCKS, "act": "relu"},
    reference_macs=0.569e9,
    reference_parameters=4.23e6,
    arithmetic=0.5,
)
MOBILENET_V2 = Family(
    name="mobilenet_v2",
    reference="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, "
    "arXiv 1801.04381",
    sampler=_sample_v2,
    writer=write_v2,
    reference_params={**PUBLISHED, "kernel": 3, "stages": V2_STAGES},
    reference_macs=0.300e9,
    reference_parameters=3.50e6,
    arithmetic=0.35,
)
