"""ShuffleNet v1 (grouped 1x1 convolutions) and v2 (channel split), both with channel shuffle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import choose, classes, form, image

#: ShuffleNet v1: channels of the first stage for each number of groups.
V1_WIDTHS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
#: ShuffleNet v2: channels of the three stages and the head for each size.
V2_WIDTHS = (
    (48, 96, 192, 1024),
    (116, 232, 464, 1024),
    (176, 352, 704, 1024),
    (244, 488, 976, 2048),
)


def shuffle(net: Layers, x: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of ``groups`` groups."""
    n, c, h, w = x.shape
    y = net.reshape(x, (n, groups, c // groups, h, w))
    return net.reshape(net.transpose(y, (0, 2, 1, 3, 4)), x.shape)


def _v1_unit(net: Layers, x: Tensor, channels: int, stride: int, groups: int, first: int) -> Tensor:
    inner = channels // 4 // groups * groups
    y = net.conv_bn(x, inner, 1, groups=first)
    y = shuffle(net, y, groups) if groups > 1 else y
    y = net.conv_bn(y, inner, 3, stride, act=None, groups=inner)
    if stride == 1:
        y = net.add(net.conv_bn(y, channels, 1, act=None, groups=groups), x)
    else:
        y = net.conv_bn(y, channels - x.shape[1], 1, act=None, groups=groups)
        y = net.concat([net.avg_pool(x, 3, 2, 1), y])
    return net.activation(y, "relu")


def write_v1(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Units of grouped 1x1, shuffle, depthwise 3x3, grouped 1x1."""
    groups = p["groups"]
    x = net.max_pool(net.conv_bn(x, p["stem"], 3, 2), 3, 2, 1)
    for stage, repeats in enumerate(p["repeats"]):
        channels = p["width"] * 2**stage
        for i in range(repeats):
            first = 1 if stage == i == 0 else groups
            x = _v1_unit(net, x, channels, 2 if i == 0 else 1, groups, first)
    return net.classifier(x, p["classes"])


def _sample_v1(rng: np.random.Generator, size: str) -> Params:
    groups = choose(rng, (1, 2, 3, 4, 4, 8))
    scale = choose(rng, (1.0, 1.5, 2.0)) if size == "large" else choose(rng, (0.25, 0.5, 0.5, 1.0))
    unit = 4 * groups * choose(rng, (1, 2))
    width = max(unit, round(V1_WIDTHS[groups] * scale / unit) * unit)
    repeats = choose(rng, ([4, 8, 4], [4, 8, 4], [2, 4, 2], [2, 2, 2], [4, 8]))
    return {
        "image": image(rng, size, least=48),
        "classes": classes(rng),
        "groups": groups,
        "stem": min(24, width // 8 * 4),
        "width": width,
        "repeats": [1, 1] if size == "tiny" else repeats,
    } | form(rng)


def _v2_branch(net: Layers, x: Tensor, channels: int, stride: int) -> Tensor:
    y = net.conv_bn(x, channels, 1)
    y = net.conv_bn(y, channels, 3, stride, act=None, groups=channels)
    return net.conv_bn(y, channels, 1)


def write_v2(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Units that leave half the channels alone and convolve the other half."""
    x = net.conv_bn(x, p["stem"], 3, 2)
    x = net.max_pool(x, 3, 2, 1) if p["stem_pool"] else x
    *stages, head = p["widths"]
    for channels, repeats in zip(stages, p["repeats"], strict=True):
        half = channels // 2
        for i in range(repeats):
            if i == 0:
                left = net.conv_bn(x, x.shape[1], 3, 2, act=None, groups=x.shape[1])
                left, right = net.conv_bn(left, half, 1), _v2_branch(net, x, half, 2)
            else:
                left, right = net.split(x, 2)
                right = _v2_branch(net, right, half, 1)
            x = shuffle(net, net.concat([left, right]), 2)
    return net.classifier(net.conv_bn(x, head, 1), p["classes"])


def _sample_v2(rng: np.random.Generator, size: str) -> Params:
    pixels = image(rng, size)
    widths = choose(rng, V2_WIDTHS[1:] if size == "large" else V2_WIDTHS[:3])
    if rng.random() < 0.4:
        first = int(rng.integers(4, 16)) * 8
        widths = (first, 2 * first, 4 * first, choose(rng, (512, 1024)))
    repeats = choose(rng, ([4, 8, 4], [4, 8, 4], [2, 4, 2], [3, 3, 3]))
    return {
        "image": pixels,
        "classes": classes(rng),
        "stem": 24,
        "stem_pool": pixels > 48,
        "widths": [16, 32, 64, 128] if size == "tiny" else list(widths),
        "repeats": [1, 2, 1] if size == "tiny" else repeats,
    } | form(rng)


SHUFFLENET_V1 = Family(
    name="shufflenet_v1",
    reference="Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for "
    "Mobile Devices, CVPR 2018, arXiv 1707.01083",
    sampler=_sample_v1,
    writer=write_v1,
    reference_params={**IMAGENET, "groups": 3, "stem": 24, "width": 240, "repeats": [4, 8, 4]},
    reference_macs=0.137e9,
    reference_parameters=None,
    arithmetic=0.2,
)
SHUFFLENET_V2 = Family(
    name="shufflenet_v2",
    reference="Ma et al., ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture "
    "Design, ECCV 2018, arXiv 1807.11164",
    sampler=_sample_v2,
    writer=write_v2,
    reference_params={
        **IMAGENET,
        "stem": 24,
        "stem_pool": True,
        "widths": [116, 232, 464, 1024],
        "repeats": [4, 8, 4],
    },
    reference_macs=0.1455e9,
    reference_parameters=2.28e6,
    arithmetic=0.25,
)
