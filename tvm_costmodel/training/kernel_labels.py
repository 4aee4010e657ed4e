"""Measured times of a network's kernels, as training targets for the operators they compute.

The label of a whole network is the sum over its operators; the measured time of each kernel says
which of them it comes from. A kernel is matched with operators of the graph by properties that no
compiler pass changes: whether it is a convolution, a matmul or a pooling, and how many elements it
reads and writes. Operators with equal properties form one group, and the sum of their predicted
latencies is compared with the time of the group's kernels. A group is left out unless it has as
many operators as kernel calls.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens

_KINDS = {
    "conv2d": ("conv2d", "conv1d", "conv3d"),
    "matmul": ("dense", "matmul"),
    "pool": ("max_pool2d", "avg_pool2d"),
}
_KIND_OF_OPERATOR = {op: kind for kind, ops in _KINDS.items() for op in ops}
_IN_NAME = re.compile(r"conv[123]d|dense|matmul|max_pool2d|avg_pool2d")

Key = tuple[str, int, int]


class Kernel(Protocol):
    """The fields of a measured kernel, such as `profiling.measuring.record.KernelTime`."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def calls(self) -> int: ...  # noqa: D102
    @property
    def latency_s(self) -> float: ...  # noqa: D102
    @property
    def parameters(self) -> tuple[tuple[tuple[int, ...], str], ...]: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class KernelTargets:
    """Groups of one graph's tokens with their measured times.

    Attributes:
        group: int64 [N], group of each token, -1 for none.
        target_ms: float64 [K], measured time of each group's kernels.
    """

    group: np.ndarray
    target_ms: np.ndarray


def kernel_targets(
    graph: OpGraph, tokens: PhysicalTokens, kernels: Sequence[Kernel]
) -> KernelTargets:
    """Groups tokens by the kernels that compute them.

    Args:
        graph: The network.
        tokens: Its tokens.
        kernels: Measured kernels; without any there are no groups.
    """
    calls: dict[Key, int] = defaultdict(int)
    measured_ms: dict[Key, float] = defaultdict(float)
    for kernel in kernels:
        kind_in_name = _IN_NAME.search(kernel.name)
        if kind_in_name and len(kernel.parameters) >= 2:
            shapes = [shape for shape, _ in kernel.parameters]
            kind = _KIND_OF_OPERATOR[kind_in_name.group()]
            key = (kind, math.prod(shapes[0]), math.prod(shapes[-1]))
            calls[key] += kernel.calls
            measured_ms[key] += kernel.calls * kernel.latency_s * 1e3
    members: dict[Key, list[int]] = defaultdict(list)
    for token, i in enumerate(tokens.anchor.tolist()):
        kind = _KIND_OF_OPERATOR.get(graph.operators[i].op, "")
        reads = graph.input_types(i)
        if kind and reads:
            written = graph.operators[i].outputs[0].elements
            members[kind, reads[0].elements, written].append(token)
    group = np.full(len(tokens), -1, dtype=np.int64)
    target: list[float] = []
    for key, at in members.items():
        if calls.get(key) == len(at):
            group[at] = len(target)
            target.append(measured_ms[key])
    return KernelTargets(group, np.array(target))
