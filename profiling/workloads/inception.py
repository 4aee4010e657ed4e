"""GoogLeNet and Inception v2: parallel branches of 1x1, 3x3, 5x5 or double 3x3, and pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import IMAGENET, Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import choose, classes, form, image

#: GoogLeNet: 1x1; 3x3 reduced, 3x3; 5x5 reduced, 5x5; pool projection. None is a maximum.
GOOGLENET_MODULES = [
    [64, 96, 128, 16, 32, 32],
    [128, 128, 192, 32, 96, 64],
    None,
    [192, 96, 208, 16, 48, 64],
    [160, 112, 224, 24, 64, 64],
    [128, 128, 256, 24, 64, 64],
    [112, 144, 288, 32, 64, 64],
    [256, 160, 320, 32, 128, 128],
    None,
    [256, 160, 320, 32, 128, 128],
    [384, 192, 384, 48, 128, 128],
]
#: Inception v2: 1x1; 3x3 reduced, 3x3; double 3x3 reduced, both 3x3; pool projection; pool. The
#: modules without 1x1 halve the image.
V2_MODULES = [
    [64, 64, 64, 64, 96, 32, "avg"],
    [64, 64, 96, 64, 96, 64, "avg"],
    [0, 128, 160, 64, 96, 0, "max"],
    [224, 64, 96, 96, 128, 128, "avg"],
    [192, 96, 128, 96, 128, 128, "avg"],
    [160, 128, 160, 128, 160, 128, "avg"],
    [96, 128, 192, 160, 192, 128, "avg"],
    [0, 128, 192, 192, 256, 0, "max"],
    [352, 192, 320, 160, 224, 128, "avg"],
    [352, 192, 320, 192, 224, 128, "max"],
]


def _conv(
    net: Layers, x: Tensor, width: int, kernel: int, p: Mapping[str, Any], stride: int = 1
) -> Tensor:
    if p["batch_norm"]:
        return net.conv_bn(x, width, kernel, stride)
    return net.activation(net.conv(x, width, kernel, stride, bias=True), "relu")


def _stem(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    w = p["stem"]
    x = net.max_pool(_conv(net, x, w, 7, p, 2), 3, 2, rounding=p["rounding"])
    x = net.local_response_norm(x) if p["local_norm"] else x
    x = _conv(net, _conv(net, x, w, 1, p), 3 * w, 3, p)
    x = net.local_response_norm(x) if p["local_norm"] else x
    return net.max_pool(x, 3, 2, rounding=p["rounding"])


def write_googlenet(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stem, inception modules of four branches, classifier."""
    x = _stem(net, x, p)
    for module in p["modules"]:
        if module is None:
            x = net.max_pool(x, 3, 2, rounding=p["rounding"])
            continue
        one, reduced3, three, reduced5, five, projected = module
        branches = [
            _conv(net, x, one, 1, p),
            _conv(net, _conv(net, x, reduced3, 1, p), three, 3, p),
            _conv(net, _conv(net, x, reduced5, 1, p), five, p["wide_kernel"], p),
            _conv(net, net.max_pool(x, 3, 1, 1), projected, 1, p),
        ]
        x = net.concat(branches)
    return net.classifier(x, p["classes"])


def _v2_module(net: Layers, x: Tensor, module: Sequence[Any], p: Mapping[str, Any]) -> Tensor:
    one, reduced3, three, reduced33, double3, projected, pool = module
    stride = 1 if one else 2
    branches = [_conv(net, x, one, 1, p)] if one else []
    branches.append(_conv(net, _conv(net, x, reduced3, 1, p), three, 3, p, stride))
    y = _conv(net, _conv(net, x, reduced33, 1, p), double3, 3, p)
    branches.append(_conv(net, y, double3, 3, p, stride))
    if pool == "max":
        pooled = net.max_pool(x, 3, stride, 1)
    else:
        pooled = net.avg_pool(x, 3, stride, 1, count_padding=False)
    branches.append(_conv(net, pooled, projected, 1, p) if projected else pooled)
    return net.concat(branches)


def write_inception_v2(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stem, inception modules with a double 3x3 in the place of 5x5, classifier."""
    x = _stem(net, x, p)
    for module in p["modules"]:
        x = _v2_module(net, x, module, p)
    return net.classifier(x, p["classes"])


def _scale(rng: np.random.Generator, size: str) -> float:
    if size == "large":
        return choose(rng, (1.0, 1.0, 1.0, 1.25, 0.75))
    return choose(rng, (0.25, 0.375, 0.5, 0.5, 0.75, 1.0))


def _scaled(module: Sequence[Any] | None, scale: float) -> list[Any] | None:
    if module is None:
        return None
    return [max(8, round(w * scale / 8) * 8) if isinstance(w, int) and w else w for w in module]


def _sample(rng: np.random.Generator, size: str, modules: Sequence[Any]) -> Params:
    scale = 0.25 if size == "tiny" else _scale(rng, size)
    depth = len(modules)
    if size == "tiny":
        depth = 2
    elif size != "large":
        depth = choose(rng, (2, 5, 7, depth))
    return {
        "image": image(rng, size, least=64),
        "classes": classes(rng),
        "stem": max(8, int(64 * scale / 8) * 8),
        "modules": [_scaled(module, scale) for module in modules[:depth]],
        "rounding": choose(rng, ("floor", "ceil", "pad")),
    } | form(rng)


def _sample_googlenet(rng: np.random.Generator, size: str) -> Params:
    return _sample(rng, size, GOOGLENET_MODULES) | {
        "wide_kernel": choose(rng, (3, 5)),
        "batch_norm": bool(rng.random() < 0.5),
        "local_norm": bool(rng.random() < 0.25),
    }


def _sample_inception_v2(rng: np.random.Generator, size: str) -> Params:
    return _sample(rng, size, V2_MODULES) | {"batch_norm": True, "local_norm": False}


GOOGLENET = Family(
    name="googlenet",
    reference="Szegedy et al., Going Deeper with Convolutions, CVPR 2015, arXiv 1409.4842",
    sampler=_sample_googlenet,
    writer=write_googlenet,
    reference_params={
        **IMAGENET,
        "stem": 64,
        "modules": GOOGLENET_MODULES,
        "wide_kernel": 3,
        "batch_norm": True,
        "local_norm": False,
        "rounding": "ceil",
    },
    reference_macs=1.50e9,
    reference_parameters=6.62e6,
    max_kernels=48,
)
INCEPTION_V2 = Family(
    name="inception_v2",
    reference="Ioffe and Szegedy, Batch Normalization: Accelerating Deep Network Training, ICML "
    "2015, arXiv 1502.03167",
    sampler=_sample_inception_v2,
    writer=write_inception_v2,
    reference_params={
        **IMAGENET,
        "stem": 64,
        "modules": V2_MODULES,
        "batch_norm": True,
        "local_norm": False,
        "rounding": "ceil",
    },
    reference_macs=2.04e9,
    reference_parameters=11.3e6,
    max_kernels=48,
)
