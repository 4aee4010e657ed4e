"""Graphs written by hand, so that tests of everything behind the front ends need no TVM."""

from __future__ import annotations

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType


def tensor(*shape: int) -> TensorType:
    return TensorType(shape, "float32")


class GraphBuilder:
    """Appends operators; each method returns the new operator's id."""

    def __init__(self, *shape: int) -> None:
        self.operators = [Operator("input", (), (tensor(*shape),))]

    def shape(self, operator: int) -> tuple[int, ...]:
        return self.operators[operator].outputs[0].shape

    def add(self, op: str, sources: list[int], shape: tuple[int, ...], weights=(), **attrs) -> int:
        self.operators.append(
            Operator(
                op,
                tuple((source, 0) for source in sources),
                (tensor(*shape),),
                tuple(tensor(*weight) for weight in weights),
                attrs,
            )
        )
        return len(self.operators) - 1

    def conv(self, x: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> int:
        n, c, h, w = self.shape(x)
        return self.add(
            "conv2d",
            [x],
            (n, out, -(-h // stride), -(-w // stride)),
            [(out, c // groups, kernel, kernel)],
            kernel=(kernel, kernel),
            strides=(stride, stride),
            padding=(kernel // 2,) * 4,
            dilation=(1, 1),
            groups=groups,
            in_channels=c,
            out_channels=out,
            data_layout="NCHW",
            kernel_layout="OIHW",
        )

    def norm(self, x: int) -> int:
        channels = self.shape(x)[1]
        return self.add("batch_norm", [x], self.shape(x), [(channels,)] * 4, axis=1)

    def relu(self, x: int) -> int:
        return self.add("relu", [x], self.shape(x))

    def sum(self, a: int, b: int) -> int:
        return self.add("add", [a, b], self.shape(a))

    def classify(self, x: int, classes: int = 1000) -> int:
        n, c = self.shape(x)[:2]
        x = self.add("adaptive_avg_pool2d", [x], (n, c, 1, 1), output_size=(1, 1))
        x = self.add("flatten", [x], (n, c))
        weight = [(c, classes)]
        return self.add("dense", [x], (n, classes), weight, in_features=c, out_features=classes)

    def graph(self, output: int, name: str = "") -> OpGraph:
        return OpGraph(tuple(self.operators), ((output, 0),), name)


def resnet_graph(
    layers: tuple[int, ...] = (3, 4, 6, 3), width: int = 64, image: int = 224, classes: int = 1000
) -> OpGraph:
    """A bottleneck ResNet with separate batch normalisation; the default is ResNet-50."""
    b = GraphBuilder(1, 3, image, image)
    x = b.relu(b.norm(b.conv(0, width, 7, 2)))
    n, c, h, w = b.shape(x)
    x = b.add("max_pool2d", [x], (n, c, h // 2, w // 2), kernel=(3, 3), strides=(2, 2))
    for stage, blocks in enumerate(layers):
        narrow, wide = width * 2**stage, width * 2 ** (stage + 2)
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            y = b.relu(b.norm(b.conv(x, narrow, 1)))
            y = b.relu(b.norm(b.conv(y, narrow, 3, stride)))
            y = b.norm(b.conv(y, wide, 1))
            shortcut = x if block else b.norm(b.conv(x, wide, 1, stride))
            x = b.relu(b.sum(y, shortcut))
    return b.graph(b.classify(x, classes), f"resnet{layers}x{width}@{image}")


def plain_graph(rng: np.random.Generator) -> OpGraph:
    """A small chain of convolutions of random widths, some with a shortcut."""
    b = GraphBuilder(1, 3, *[int(rng.choice([16, 24, 32, 48]))] * 2)
    x = 0
    for _ in range(int(rng.integers(1, 6))):
        y = b.conv(x, int(rng.integers(4, 65)), int(rng.choice([1, 3, 5])), int(rng.choice([1, 2])))
        x = b.relu(y)
        if rng.random() < 0.3:
            x = b.sum(x, y)
    return b.graph(b.classify(x, int(rng.integers(10, 200))))


def unknown_graph(op: str = "com.acme.magic") -> OpGraph:
    """A graph with an operator that the catalogue does not know."""
    b = GraphBuilder(1, 8, 16, 16)
    return b.graph(b.relu(b.add(op, [b.conv(0, 8)], (1, 8, 16, 16))))


def synthetic_latency(graph: OpGraph) -> float:
    """Seconds on an imaginary machine of 50 GFLOP/s and 10 GB/s, each operator alone."""
    return sum(2e-6 + max(cost.flops / 50e9, cost.bytes / 10e9) for cost in graph.costs)


def labelled_graphs(count: int, seed: int = 0) -> tuple[list[OpGraph], np.ndarray]:
    """Distinct small graphs and their synthetic latencies in seconds."""
    rng = np.random.default_rng(seed)
    graphs: dict[str, OpGraph] = {}
    while len(graphs) < count:
        graph = plain_graph(rng)
        graphs[graph.hash] = graph
    distinct = list(graphs.values())
    return distinct, np.array([synthetic_latency(graph) for graph in distinct])
