"""RegNet (X and Y) and ConvNeXt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.mobilenet import squeeze_excite
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import channels, choose, classes, form, image
from tvm_costmodel.profiling.workloads.transformer_layers import gelu, layer_norm, linear


def _regnet_block(net: Layers, x: Tensor, width: int, stride: int, p: Mapping[str, Any]) -> Tensor:
    y = net.conv_bn(x, width, 1)
    y = net.conv_bn(y, width, 3, stride, groups=width // p["group_width"])
    if p["squeeze"]:
        y = squeeze_excite(net, y, x.shape[1] // 4, "relu", "sigmoid")
    y = net.conv_bn(y, width, 1, act=None)
    if stride > 1 or x.shape[1] != width:
        x = net.conv_bn(x, width, 1, stride, act=None)
    return net.activation(net.add(x, y), "relu")


def write_regnet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """A 3x3 stem, four stages of bottlenecks with grouped 3x3, classifier."""
    x = net.conv_bn(x, 32, 3, 2)
    for width, depth in zip(p["widths"], p["depths"], strict=True):
        for block in range(depth):
            x = _regnet_block(net, x, width, 2 if block == 0 else 1, p)
    return net.classifier(x, p["classes"])


#: Published widths, depths, group width: X-200MF, X-400MF, X-800MF, Y-400MF, X-1.6GF, X-3.2GF.
_REGNETS = (
    ([24, 56, 152, 368], [1, 1, 4, 7], 8),
    ([32, 64, 160, 400], [1, 2, 7, 12], 16),
    ([64, 128, 288, 672], [1, 3, 7, 5], 16),
    ([48, 104, 208, 440], [1, 3, 6, 6], 8),
    ([72, 168, 408, 912], [2, 4, 10, 2], 24),
    ([96, 192, 432, 1008], [2, 6, 15, 2], 48),
)


def _sample_regnet(rng: np.random.Generator, size: str) -> Params:
    widths, depths, group_width = choose(rng, _REGNETS[1:] if size == "large" else _REGNETS)
    if rng.random() < 0.6 and size != "large":
        group_width = choose(rng, (8, 8, 16, 24))
        first = group_width * choose(rng, (2, 3, 4))
        widths = [first, 2 * first, 4 * first, 8 * first]
        depths = choose(rng, ([1, 1, 2, 1], [1, 2, 4, 2], [1, 2, 6, 4], [2, 2, 2, 2]))
    if size == "tiny":
        widths, depths, group_width = [16, 32, 64, 64], [1, 1, 1, 1], 8
    return {
        "image": image(rng, size),
        "classes": classes(rng),
        "widths": list(widths),
        "depths": list(depths),
        "group_width": group_width,
        "squeeze": bool(rng.random() < 0.4),
    } | form(rng)


def _to_tokens(net: Layers, x: Tensor) -> Tensor:
    return net.transpose(x, (0, 2, 3, 1))


def _to_image(net: Layers, x: Tensor) -> Tensor:
    return net.transpose(x, (0, 3, 1, 2))


def _image_norm(net: Layers, x: Tensor) -> Tensor:
    return _to_image(net, layer_norm(net, _to_tokens(net, x)))


def _convnext_block(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    c = x.shape[1]
    y = net.conv(x, c, p["kernel"], groups=c, bias=True)
    y = layer_norm(net, _to_tokens(net, y))
    y = linear(net, gelu(net, linear(net, y, 4 * c), p["gelu"]), c)
    branch = _to_image(net, y)
    scale = net.weight((c, 1, 1), 0.1, 1.0)
    return net.add(net.write(x.shape, lambda op: op.multiply(scale, branch.expr)), x)


def write_convnext(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Patch stem, stages of depthwise 7x7 and two linear maps, classifier."""
    width = p["width"]
    x = _image_norm(net, net.conv(x, width, 4, 4, padding=0, bias=True))
    for stage, depth in enumerate(p["depths"]):
        if stage:
            x = net.conv(_image_norm(net, x), width * 2**stage, 2, 2, padding=0, bias=True)
        for _ in range(depth):
            x = _convnext_block(net, x, p)
    x = _image_norm(net, net.global_pool(x))
    return net.finish(net.dense(net.flatten(x), p["classes"]))


def _sample_convnext(rng: np.random.Generator, size: str) -> Params:
    depths = choose(rng, ([1, 1, 3, 1], [2, 2, 6, 2], [1, 2, 2, 1], [1, 1, 2]))
    width = channels(rng, 8, 64)
    if size == "tiny":
        depths, width = [1, 1, 1], 16
    elif size == "large":
        depths = choose(rng, ([3, 3, 9, 3], [3, 3, 9, 3], [2, 2, 6, 2]))
        width = choose(rng, (40, 64, 80, 96, 96))
    written = form(rng, normed=False, headed=False)
    return {
        "image": image(rng, size, least=64 if size != "tiny" else 32) // 32 * 32,
        "classes": classes(rng),
        "depths": depths,
        "width": width,
        "kernel": choose(rng, (7, 7, 5)),
        "gelu": "op" if written["importer"] == "torch" else choose(rng, ("op", "erf")),
    } | written


REGNET = Family(
    name="regnet",
    reference="Radosavovic et al., Designing Network Design Spaces, CVPR 2020, arXiv 2003.13678",
    sampler=_sample_regnet,
    writer=write_regnet,
    reference_params={
        **IMAGENET,
        "widths": [32, 64, 160, 400],
        "depths": [1, 2, 7, 12],
        "group_width": 16,
        "squeeze": False,
    },
    reference_macs=0.414e9,
    reference_parameters=5.50e6,
)
CONVNEXT = Family(
    name="convnext",
    reference="Liu et al., A ConvNet for the 2020s, CVPR 2022, arXiv 2201.03545",
    sampler=_sample_convnext,
    writer=write_convnext,
    reference_params={**IMAGENET, "depths": [3, 3, 9, 3], "width": 96, "kernel": 7, "gelu": "op"},
    reference_macs=4.456e9,
    reference_parameters=28.59e6,
)
