"""AlexNet and VGG: convolutions in a row, then wide dense layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import channels, choose, classes, form, image

#: VGG's configurations: convolutions per stage.
VGG_DEPTHS = {
    11: [1, 1, 2, 2, 2],
    13: [2, 2, 2, 2, 2],
    16: [2, 2, 3, 3, 3],
    19: [2, 2, 4, 4, 4],
}


def _dense_head(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    x = net.flatten(x)
    for units in p["dense"]:
        x = net.activation(net.dense(x, units), "relu")
    return net.finish(net.dense(x, p["classes"]))


def write_vgg(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stages of 3x3 convolutions, each ended by 2x2 max pooling."""
    for stage, depth in enumerate(p["depths"]):
        width = min(p["width"] * 2**stage, p["width"] * 8)
        for _ in range(depth):
            if p["batch_norm"]:
                x = net.conv_bn(x, width, 3)
            else:
                x = net.activation(net.conv(x, width, 3, bias=True), "relu")
        x = net.max_pool(x, 2, 2)
    return _dense_head(net, x, p)


def _sample_vgg(rng: np.random.Generator, size: str) -> Params:
    large = size == "large"
    depths = list(VGG_DEPTHS[choose(rng, (11, 13, 16, 16, 19))])
    stages = 5 if large else choose(rng, (3, 4, 5))
    pixels = image(rng, size)
    if size == "tiny":
        depths, stages = [1, 1, 1], 3
    dense = [choose(rng, (128, 256, 512, 1024))] * choose(rng, (0, 1, 1, 2))
    if large:
        dense = [choose(rng, (512, 1024, 2048, 4096))] * choose(rng, (1, 2, 2))
    return {
        "image": pixels,
        "classes": classes(rng),
        "depths": depths[:stages],
        "width": choose(rng, (64, 64, 32, 48)) if large else channels(rng, 8, 48),
        "dense": dense,
        "batch_norm": bool(rng.random() < 0.4),
    } | form(rng, headed=False)


def write_alexnet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Five convolutions, the first one wide and strided, with max pooling between them."""
    w = p["widths"]
    x = _alexnet_conv(net, x, w[0], p["kernel"], p["stride"], 2, p["local_norm"])
    x = net.max_pool(x, 3, 2, rounding=p["rounding"])
    x = _alexnet_conv(net, x, w[1], 5, p["second_stride"], None, p["local_norm"], p["groups"])
    x = net.max_pool(x, 3, 2, rounding=p["rounding"])
    x = _alexnet_conv(net, x, w[2], 3, 1, None, False)
    x = _alexnet_conv(net, x, w[3], 3, 1, None, False, p["groups"])
    x = _alexnet_conv(net, x, w[4], 3, 1, None, False, p["groups"])
    return _dense_head(net, net.max_pool(x, 3, 2, rounding=p["rounding"]), p)


def _alexnet_conv(
    net: Layers,
    x: Tensor,
    width: int,
    kernel: int,
    stride: int,
    padding: int | None,
    local_norm: bool,
    groups: int = 1,
) -> Tensor:
    y = net.conv(x, width, kernel, stride, padding, groups, bias=True)
    y = net.activation(y, "relu")
    return net.local_response_norm(y) if local_norm else y


def _sample_alexnet(rng: np.random.Generator, size: str) -> Params:
    pixels = image(rng, size, least=64)
    kernel, stride = choose(rng, ((11, 4), (11, 4), (7, 2), (5, 2)))
    scale = choose(rng, (1.0, 1.0, 1.5)) if size == "large" else rng.uniform(0.2, 1.0)
    widths = choose(rng, ([64, 192, 384, 256, 256], [96, 256, 384, 384, 256]))
    if size == "large" and rng.random() < 0.3:
        widths = [96, 256, 512, 1024, 512]
    dense = choose(rng, ((512,), (1024,), (1024, 1024), (2048, 1024)))
    if size == "large":
        dense = choose(rng, ((4096, 4096), (2048, 2048), (1024,)))
    return {
        "image": pixels,
        "classes": classes(rng),
        "kernel": kernel,
        "stride": stride,
        "widths": [max(8, int(w * scale / 8) * 8) for w in widths],
        "groups": choose(rng, (1, 1, 2)),
        "local_norm": bool(rng.random() < 0.25),
        "rounding": choose(rng, ("floor", "floor", "floor", "ceil", "pad")),
        "second_stride": 2 if stride == 2 and rng.random() < 0.5 else 1,
        "dense": list(dense),
    } | form(rng, normed=False, headed=False)


VGG = Family(
    name="vgg",
    reference="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image "
    "Recognition, ICLR 2015, arXiv 1409.1556",
    sampler=_sample_vgg,
    writer=write_vgg,
    reference_params={
        **IMAGENET,
        "depths": VGG_DEPTHS[16],
        "width": 64,
        "dense": [4096, 4096],
        "batch_norm": False,
    },
    reference_macs=15.47e9,
    reference_parameters=138.36e6,
)
ALEXNET = Family(
    name="alexnet",
    reference="Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014, "
    "arXiv 1404.5997; with groups and local norms as in Krizhevsky et al., NeurIPS 2012",
    sampler=_sample_alexnet,
    writer=write_alexnet,
    reference_params={
        **IMAGENET,
        "kernel": 11,
        "stride": 4,
        "widths": [64, 192, 384, 256, 256],
        "groups": 1,
        "local_norm": False,
        "rounding": "floor",
        "second_stride": 1,
        "dense": [4096, 4096],
    },
    reference_macs=0.714e9,
    reference_parameters=61.1e6,
)
