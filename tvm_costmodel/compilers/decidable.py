"""Which operators of a graph decisions can name, one by one or by stages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from tvm_costmodel.graph import Operator, OpGraph

# Operators that decisions can name, by what they are called in Relax.
COUNTED = {
    "conv2d": "relax.nn.conv2d",
    "dense": "relax.matmul",
    "matmul": "relax.matmul",
}

STAGES = 6
"""Most stages that a network's convolutions are told apart by."""

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


def decidable_operators(graph: OpGraph) -> dict[str, list[int]]:
    """Ids of the operators that decisions can name, in order, by their name in Relax."""
    found: dict[str, list[int]] = {name: [] for name in COUNTED.values()}
    needed = needed_operators(graph)
    for i, operator in enumerate(graph.operators):
        if operator.op in COUNTED and needed[i]:
            found[COUNTED[operator.op]].append(i)
    return found


def joinable(graph: OpGraph) -> list[list[int]]:
    """Ids of dense layers that read one input through constant weights, two or more together."""
    needed = needed_operators(graph)
    found: dict[tuple[tuple[int, int], int], list[int]] = {}
    for i, operator in enumerate(graph.operators):
        plain = operator.op == "dense" and needed[i] and len(operator.inputs) == 1
        if not plain or "weight_positions" in operator.attrs:
            continue
        (weights,) = operator.weights
        if weights.dtype == operator.outputs[0].dtype == "float32":
            found.setdefault((operator.inputs[0], weights.shape[0]), []).append(i)
    return [members for members in found.values() if len(members) > 1]


def joined_products(graph: OpGraph) -> list[list[int]]:
    """``joinable`` with the position among all matrix products in place of the id."""
    position = {i: n for n, i in enumerate(decidable_operators(graph)["relax.matmul"])}
    return [[position[i] for i in members] for members in joinable(graph)]


def image_size(operator: Operator) -> tuple[int, int]:
    """Rows and columns of a two-dimensional convolution's output."""
    layout = str(operator.attrs.get("data_layout", "NCHW"))
    shape = operator.outputs[0].shape
    return shape[layout.index("H")], shape[layout.index("W")]


def stages_of(pixels: Mapping[_Key, int]) -> dict[_Key, int]:
    """Stages of a network, from 1 on: images of like size, which halves from one to the next.

    Images of one pixel are in no stage, as no layout changes how they lie in memory; the last of
    `STAGES` takes all that are smaller still.

    Args:
        pixels: Pixels of the output image by convolution.
    """
    found = {key: count for key, count in pixels.items() if count > 1}
    largest = max(found.values(), default=1)
    halvings = {key: round(math.log2(largest / count) / 2) for key, count in found.items()}
    numbers = {times: n for n, times in enumerate(sorted(set(halvings.values())), start=1)}
    return {key: min(STAGES, numbers[times]) for key, times in halvings.items()}


def convolution_stages(graph: OpGraph) -> dict[int, int]:
    """Stage of each two-dimensional convolution by its id, see `stages_of`."""
    ids = decidable_operators(graph)["relax.nn.conv2d"]
    return stages_of({i: math.prod(image_size(graph.operators[i])) for i in ids})
