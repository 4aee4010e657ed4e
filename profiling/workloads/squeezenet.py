"""SqueezeNet: fire modules that squeeze with 1x1 and expand with 1x1 and 3x3 in parallel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import channels, choose, classes, form, image


def _fire(net: Layers, x: Tensor, squeeze: int, expand: int) -> Tensor:
    y = net.activation(net.conv(x, squeeze, 1, bias=True), "relu")
    left = net.activation(net.conv(y, expand, 1, bias=True), "relu")
    right = net.activation(net.conv(y, expand, 3, bias=True), "relu")
    return net.concat([left, right])


def write_squeezenet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stem, fire modules with maxima before those in ``pool_before``, 1x1 classifier."""
    x = net.conv(x, p["stem"], p["kernel"], 2, padding=0, bias=True)
    x = net.max_pool(net.activation(x, "relu"), 3, 2, rounding=p["rounding"])
    for i in range(p["modules"]):
        if i in p["pool_before"]:
            x = net.max_pool(x, 3, 2, rounding=p["rounding"])
        step = 1 + i // 2
        x = _fire(net, x, p["squeeze"] * step, p["expand"] * step)
    x = net.activation(net.conv(x, p["classes"], 1, bias=True), "relu")
    return net.finish(net.flatten(net.global_pool(x)))


def _sample(rng: np.random.Generator, size: str) -> Params:
    expand = channels(rng, 16, 40) if size in ("tiny", "small") else channels(rng, 32, 128)
    if size == "large":
        expand = choose(rng, (64, 64, 96, 128, 192))
    stem_kernel, pool_before = choose(rng, ((7, [3, 7]), (3, [2, 4])))
    modules = 2 if size == "tiny" else choose(rng, (4, 6, 8, 8))
    return {
        "image": image(rng, size, least=48),
        "classes": classes(rng),
        "stem": choose(rng, (96, 64)) if size == "large" else channels(rng, 16, 96),
        "kernel": stem_kernel,
        "modules": modules,
        "pool_before": pool_before,
        "squeeze": max(4, int(expand * choose(rng, (0.125, 0.25, 0.25, 0.5)))),
        "expand": expand,
        "rounding": choose(rng, ("floor", "ceil", "pad")),
    } | form(rng, normed=False, headed=False)


SQUEEZENET = Family(
    name="squeezenet",
    reference="Iandola et al., SqueezeNet: AlexNet-level accuracy with 50x fewer parameters, 2016, "
    "arXiv 1602.07360",
    sampler=_sample,
    writer=write_squeezenet,
    reference_params={
        **IMAGENET,
        "stem": 96,
        "kernel": 7,
        "modules": 8,
        "pool_before": [3, 7],
        "squeeze": 16,
        "expand": 64,
        "rounding": "ceil",
    },
    reference_macs=0.82e9,
    reference_parameters=1.248e6,
    arithmetic=0.6,
)
