"""NAS-Bench-201: random cells of four nodes in the benchmark's macro skeleton."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.family import Family, Params
from tvm_costmodel.profiling.workloads.network import Tensor
from tvm_costmodel.profiling.workloads.sampling import channels, choose, classes, form, image

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
#: Edges of a cell in the order of the benchmark's architecture strings: (from, to).
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def _relu_conv_bn(net: Layers, x: Tensor, width: int, kernel: int, stride: int = 1) -> Tensor:
    return net.conv_bn(net.activation(x, "relu"), width, kernel, stride, act=None)


def _operate(net: Layers, x: Tensor, operation: str) -> Tensor:
    if operation == "skip_connect":
        return x
    if operation == "avg_pool_3x3":
        return net.avg_pool(x, 3, 1, 1, count_padding=False)
    return _relu_conv_bn(net, x, x.shape[1], 1 if operation == "nor_conv_1x1" else 3)


def _cell(net: Layers, x: Tensor, operations: Sequence[str]) -> Tensor:
    """Each node sums what its live edges bring; a cell without any is zero."""
    nodes = {0: x}
    for (source, target), operation in _live_edges(operations):
        term = _operate(net, nodes[source], operation)
        nodes[target] = net.add(nodes[target], term) if target in nodes else term
    if 3 in nodes:
        return nodes[3]
    zero = net.scalar(0.0)
    return net.write(x.shape, lambda op: op.multiply(x.expr, zero))


def _live_edges(operations: Sequence[str]) -> list[tuple[tuple[int, int], str]]:
    """Edges on a way from input to output, by target; exporters drop the others."""
    edges = [e for e in zip(EDGES, operations, strict=True) if e[1] != "none"]
    fed, needed = {0}, {3}
    for (source, target), _ in edges:
        fed |= {target} if source in fed else set()
    for (source, target), _ in reversed(edges):
        needed |= {source} if target in needed else set()
    return [e for e in edges if e[0][0] in fed and e[0][1] in needed]


def _reduction(net: Layers, x: Tensor, width: int) -> Tensor:
    y = _relu_conv_bn(net, _relu_conv_bn(net, x, width, 3, 2), width, 3)
    return net.add(net.conv(net.avg_pool(x, 2, 2), width, 1), y)


def write_nasbench201(net: Layers, x: Tensor, p: Mapping[str, Any]) -> Tensor:
    """Stem, stages of equal cells with residual reductions between them, classifier."""
    x = net.conv_bn(x, p["width"], 3, act=None)
    for stage in range(p["stages"]):
        if stage:
            x = _reduction(net, x, p["width"] * 2**stage)
        for _ in range(p["cells"]):
            x = _cell(net, x, p["operations"])
    return net.classifier(net.activation(net.batch_norm(x), "relu"), p["classes"])


def _sample(rng: np.random.Generator, size: str) -> Params:
    width, cells = channels(rng, 8, 48), choose(rng, (1, 2, 3, 5, 5))
    if size == "tiny":
        width, cells = 8, 1
    elif size == "large":
        width = channels(rng, 32, 64)
    return {
        "image": image(rng, "tiny" if size == "tiny" else "small"),
        "classes": classes(rng),
        "width": width,
        "stages": 3,
        "cells": cells,
        "operations": [choose(rng, OPERATIONS) for _ in EDGES],
    } | form(rng)


NASBENCH201 = Family(
    name="nasbench201",
    reference="Dong and Yang, NAS-Bench-201: Extending the Scope of Reproducible Neural "
    "Architecture Search, ICLR 2020, arXiv 2001.00326",
    sampler=_sample,
    writer=write_nasbench201,
    reference_params={
        "image": 32,
        "classes": 10,
        "width": 16,
        "stages": 3,
        "cells": 5,
        "operations": ["nor_conv_3x3"] * 6,
    },
    reference_macs=0.2201e9,
    reference_parameters=1.53e6,
)
