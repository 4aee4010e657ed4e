"""DenseNet: every layer of a block reads the outputs of all layers before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import channels, choose, classes, form, image


def write_densenet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stem, dense blocks, between them 1x1 transitions that halve the image, classifier."""
    growth = p["growth"]
    if p["stem"] == "large":
        x = net.max_pool(net.conv_bn(x, 2 * growth, 7, 2), 3, 2, 1)
    else:
        x = net.conv(x, 2 * growth, 3)
    for block, layers in enumerate(p["blocks"]):
        if block:
            x = net.activation(net.batch_norm(x), "relu")
            x = net.avg_pool(net.conv(x, x.shape[1] // 2, 1), 2, 2)
        parts = [x]
        for _ in range(layers):
            y = net.concat(parts) if p["join"] == "all" else parts[-1]
            y = net.activation(net.batch_norm(y), "relu")
            if p["bottleneck"]:
                y = net.conv_bn(y, p["bottleneck"] * growth, 1)
            y = net.conv(y, growth, 3)
            parts = [*parts, y] if p["join"] == "all" else [net.concat([parts[-1], y])]
        x = net.concat(parts)
    x = net.activation(net.batch_norm(x), "relu")
    return net.classifier(x, p["classes"])


def _sample(rng: np.random.Generator, size: str) -> Params:
    blocks = choose(rng, ((2, 2, 2), (2, 4, 4), (3, 4, 6), (4, 4, 4), (3, 3, 3, 3), (2, 4, 6, 4)))
    growth = channels(rng, 8, 32)
    if size == "tiny":
        blocks, growth = (1, 2), 8
    elif size == "large":
        blocks = choose(rng, ((6, 12, 24, 16), (6, 12, 24, 16), (6, 8, 12, 8), (4, 6, 8, 6)))
        growth = choose(rng, (24, 32, 32, 48))
    pixels = image(rng, size)
    return {
        "image": pixels,
        "classes": classes(rng),
        "growth": growth,
        "blocks": list(blocks),
        "bottleneck": 4 if size == "large" else choose(rng, (0, 2, 4, 4, 4)),
        "stem": "large" if pixels > 64 else choose(rng, ("large", "small")),
        "join": choose(rng, ("all", "last")),
    } | form(rng)


DENSENET = Family(
    name="densenet",
    reference="Huang et al., Densely Connected Convolutional Networks, CVPR 2017, arXiv 1608.06993",
    sampler=_sample,
    writer=write_densenet,
    reference_params={
        **IMAGENET,
        "growth": 32,
        "blocks": [6, 12, 24, 16],
        "bottleneck": 4,
        "stem": "large",
        "join": "all",
    },
    reference_macs=2.865e9,
    reference_parameters=7.98e6,
    max_kernels=48,
)
