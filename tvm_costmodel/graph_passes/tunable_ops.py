"""The operators of a graph that can be tuned, one by one or by stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator

# Tunable operators -> their names in Relax.
COUNTED = {
    "conv2d": "relax.nn.conv2d",
    "dense": "relax.matmul",
    "matmul": "relax.matmul",
}

STAGES = 6
"""Most stages that a network's convolutions are divided into."""

_Key = TypeVar("_Key")


def needed_operators(graph: OpGraph) -> list[bool]:
    """Whether some output needs each operator; the others are not compiled."""
    needed = [False] * len(graph)
    for src, _ in graph.outputs:
        needed[src] = True
    for i in reversed(range(len(graph))):
        if needed[i]:
            for src, _ in graph.operators[i].inputs:
                needed[src] = True
    return needed


def tunable_operators(graph: OpGraph) -> dict[str, list[int]]:
    """Ids of the tunable operators, in order, by their name in Relax."""
    ids: dict[str, list[int]] = {name: [] for name in COUNTED.values()}
    needed = needed_operators(graph)
    for i, operator in enumerate(graph.operators):
        if operator.op in COUNTED and needed[i]:
            ids[COUNTED[operator.op]].append(i)
    return ids


def mergeable_matmuls(graph: OpGraph) -> list[list[int]]:
    """Ids of dense layers that read one input through constant weights, two or more together."""
    needed = needed_operators(graph)
    groups: dict[tuple[tuple[int, int], int], list[int]] = {}
    for i, operator in enumerate(graph.operators):
        plain = operator.op == "dense" and needed[i] and len(operator.inputs) == 1
        if not plain or "weight_positions" in operator.attrs:
            continue
        (weights,) = operator.weights
        if weights.dtype == operator.outputs[0].dtype == "float32":
            groups.setdefault((operator.inputs[0], weights.shape[0]), []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def merged_matmuls(graph: OpGraph) -> list[list[int]]:
    """``mergeable_matmuls`` with positions among all matrix products in place of ids."""
    position = {i: n for n, i in enumerate(tunable_operators(graph)["relax.matmul"])}
    return [[position[i] for i in group] for group in mergeable_matmuls(graph)]


def image_size(operator: Operator) -> tuple[int, int]:
    """Rows and columns of a two-dimensional convolution's output."""
    layout = str(operator.attrs.get("data_layout", "NCHW"))
    shape = operator.outputs[0].shape
    return shape[layout.index("H")], shape[layout.index("W")]


def stages_of(pixels: Mapping[_Key, int]) -> dict[_Key, int]:
    """Stages of a network, from 1 on: images are half as wide and high as a stage before.

    Images of one pixel are in no stage, as no layout changes how they lie in memory; the last of
    `STAGES` takes all smaller images.

    Args:
        pixels: Pixels of the output image by convolution.
    """
    images = {key: count for key, count in pixels.items() if count > 1}
    largest = max(images.values(), default=1)
    scale = {key: round(math.log2(largest / count) / 2) for key, count in images.items()}
    numbers = {level: n for n, level in enumerate(sorted(set(scale.values())), start=1)}
    return {key: min(STAGES, numbers[level]) for key, level in scale.items()}


def convolution_stages(graph: OpGraph) -> dict[int, int]:
    """Stage of each two-dimensional convolution by its id, see `stages_of`."""
    ids = tunable_operators(graph)["relax.nn.conv2d"]
    return stages_of({i: math.prod(image_size(graph.operators[i])) for i in ids})
