"""MobileNetV3, MnasNet and EfficientNet: inverted residuals arranged by architecture search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import Family, Params
from tvm_costmodel.profiling.workloads.mobilenet import (
    PUBLISHED,
    inverted_residual,
    vary_stages,
    width_multiplier,
)
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import choose, classes, divisible, form, image

#: MobileNetV3: kernel, expanded channels, channels, squeeze-and-excite, activation, stride.
V3_LARGE = [
    [3, 16, 16, False, "relu", 1],
    [3, 64, 24, False, "relu", 2],
    [3, 72, 24, False, "relu", 1],
    [5, 72, 40, True, "relu", 2],
    [5, 120, 40, True, "relu", 1],
    [5, 120, 40, True, "relu", 1],
    [3, 240, 80, False, "hardswish", 2],
    [3, 200, 80, False, "hardswish", 1],
    [3, 184, 80, False, "hardswish", 1],
    [3, 184, 80, False, "hardswish", 1],
    [3, 480, 112, True, "hardswish", 1],
    [3, 672, 112, True, "hardswish", 1],
    [5, 672, 160, True, "hardswish", 2],
    [5, 960, 160, True, "hardswish", 1],
    [5, 960, 160, True, "hardswish", 1],
]
V3_SMALL = [
    [3, 16, 16, True, "relu", 2],
    [3, 72, 24, False, "relu", 2],
    [3, 88, 24, False, "relu", 1],
    [5, 96, 40, True, "hardswish", 2],
    [5, 240, 40, True, "hardswish", 1],
    [5, 240, 40, True, "hardswish", 1],
    [5, 120, 48, True, "hardswish", 1],
    [5, 144, 48, True, "hardswish", 1],
    [5, 288, 96, True, "hardswish", 2],
    [5, 576, 96, True, "hardswish", 1],
    [5, 576, 96, True, "hardswish", 1],
]
#: MnasNet and EfficientNet: kernel, stride, expansion, channels, repeats of each stage.
MNASNET_STAGES = [[3, 2, 3, 24, 3], [5, 2, 3, 40, 3], [5, 2, 6, 80, 3], [3, 1, 6, 96, 2]]
MNASNET_STAGES += [[5, 2, 6, 192, 4], [3, 1, 6, 320, 1]]
EFFICIENTNET_STAGES = [[3, 1, 1, 16, 1], [3, 2, 6, 24, 2], [5, 2, 6, 40, 2], [3, 2, 6, 80, 3]]
EFFICIENTNET_STAGES += [[5, 1, 6, 112, 3], [5, 2, 6, 192, 4], [3, 1, 6, 320, 1]]


def write_v3(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Inverted residuals with hard swish and squeeze-and-excite, then a two-layer classifier."""
    scale = p["multiplier"]
    x = net.conv_bn(x, divisible(16 * scale), 3, p["stem_stride"], act="hardswish")
    for kernel, expanded, channels, squeezes, act, stride in p["blocks"]:
        inner = divisible(expanded * scale)
        x = inverted_residual(
            net,
            x,
            divisible(channels * scale),
            inner,
            kernel,
            stride,
            act,
            squeeze=divisible(inner / 4) if squeezes else 0,
            gate="hardsigmoid",
        )
    x = net.conv_bn(x, 6 * x.shape[1], 1, act="hardswish")
    x = net.dense(net.flatten(net.global_pool(x)), p["features"])
    return net.finish(net.dense(net.activation(x, "hardswish"), p["classes"]))


def _sample_v3(rng: np.random.Generator, size: str) -> Params:
    blocks = [list(b) for b in (V3_LARGE if size == "large" else choose(rng, (V3_LARGE, V3_SMALL)))]
    if size == "tiny":
        blocks = blocks[:4]
    elif rng.random() < 0.7 and size != "large":
        blocks = blocks[: choose(rng, (4, 5, 6, 8))]
    kernels = choose(rng, (None, None, 3, 5))
    blocks = [[kernels or block[0], *block[1:]] for block in blocks]
    pixels = image(rng, size)
    return {
        "image": pixels,
        "classes": classes(rng),
        "multiplier": width_multiplier(rng, size),
        "stem_stride": 1 if pixels <= 40 and rng.random() < 0.5 else 2,
        "blocks": blocks,
        "features": choose(rng, (1024, 1280)),
    } | form(rng, headed=False)


def _stages(
    net: Layers, x: Tensor, p: Mapping[str, Any], act: str, squeeze: Callable[[int, int], int]
) -> Tensor:
    """Stages of inverted residuals; ``squeeze`` takes a block's channels and kernel."""
    for kernel, stride, expansion, channels, repeats in p["stages"]:
        out = divisible(channels * p["multiplier"])
        for i in range(repeats):
            c, step = x.shape[1], stride if i == 0 else 1
            gate = squeeze(c, kernel)
            x = inverted_residual(net, x, out, c * expansion, kernel, step, act, squeeze=gate)
    return x


def write_mnasnet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """A separable convolution, then stages of inverted residuals."""
    scale = p["multiplier"]
    x = net.conv_bn(x, divisible(32 * scale), 3, p["stem_stride"])
    x = net.conv_bn(x, x.shape[1], 3, groups=x.shape[1])
    x = net.conv_bn(x, divisible(16 * scale), 1, act=None)
    x = _stages(
        net, x, p, "relu", lambda c, kernel: divisible(c / 4) if p["squeeze"] and kernel == 5 else 0
    )
    return net.classifier(net.conv_bn(x, 1280, 1), p["classes"])


def write_efficientnet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stages of inverted residuals with squeeze-and-excite and SiLU."""
    scale = p["multiplier"]
    x = net.conv_bn(x, divisible(32 * scale), 3, p["stem_stride"], act="silu")
    x = _stages(net, x, p, "silu", lambda c, kernel: max(1, c // 4))
    x = net.conv_bn(x, divisible(1280 * scale), 1, act="silu")
    return net.classifier(x, p["classes"])


def _sample_stages(rng: np.random.Generator, size: str, stages: list[list[int]]) -> Params:
    pixels = image(rng, size)
    drawn = vary_stages(rng, stages, size, 4)
    kernels = choose(rng, (None, None, 3, 5))
    return {
        "image": pixels,
        "classes": classes(rng),
        "multiplier": width_multiplier(rng, size),
        "stem_stride": 1 if pixels <= 40 and rng.random() < 0.5 else 2,
        "stages": [[kernels or stage[0], *stage[1:]] for stage in drawn],
    } | form(rng)


def _sample_mnasnet(rng: np.random.Generator, size: str) -> Params:
    squeeze = bool(rng.random() < 0.4)
    return _sample_stages(rng, size, MNASNET_STAGES) | {"squeeze": squeeze}


MOBILENET_V3 = Family(
    name="mobilenet_v3",
    reference="Howard et al., Searching for MobileNetV3, ICCV 2019, arXiv 1905.02244",
    sampler=_sample_v3,
    writer=write_v3,
    reference_params={**PUBLISHED, "blocks": V3_LARGE, "features": 1280},
    reference_macs=0.2165e9,
    reference_parameters=5.48e6,
    arithmetic=0.25,
    max_kernels=48,
)
MNASNET = Family(
    name="mnasnet",
    reference="Tan et al., MnasNet: Platform-Aware Neural Architecture Search for Mobile, CVPR "
    "2019, arXiv 1807.11626",
    sampler=_sample_mnasnet,
    writer=write_mnasnet,
    reference_params={**PUBLISHED, "stages": MNASNET_STAGES, "squeeze": False},
    reference_macs=0.314e9,
    reference_parameters=4.38e6,
    arithmetic=0.35,
)
EFFICIENTNET = Family(
    name="efficientnet",
    reference="Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural "
    "Networks, ICML 2019, arXiv 1905.11946",
    sampler=lambda rng, size: _sample_stages(rng, size, EFFICIENTNET_STAGES),
    writer=write_efficientnet,
    reference_params={**PUBLISHED, "stages": EFFICIENTNET_STAGES},
    reference_macs=0.386e9,
    reference_parameters=5.29e6,
    arithmetic=0.4,
    max_kernels=48,
)
