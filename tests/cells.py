"""Cells for tests, which need no published file."""

from __future__ import annotations

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType

SCALAR = (TensorType((), "float32"),)


def cell_graph(operations: list[str], edges: list[tuple[int, int]]) -> OpGraph:
    """A cell from its nodes' operations and its directed edges."""
    operators = tuple(
        Operator(name, tuple((a, 0) for a, b in sorted(edges) if b == i), SCALAR)
        for i, name in enumerate(operations)
    )
    return OpGraph(operators, ((len(operators) - 1, 0),))


def names(cell: OpGraph) -> list[str]:
    """Operations of a cell's nodes, in order."""
    return [node.op for node in cell.operators]


def diamond() -> OpGraph:
    """input -> 1x1 and 3x3 -> pool -> output, and a shortcut."""
    operations = ["input", "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3", "output"]
    return cell_graph(operations, [(0, 1), (0, 2), (1, 3), (2, 3), (0, 4), (3, 4)])


def random_cells(count: int, seed: int = 0) -> list[OpGraph]:
    """Random NAS-Bench-101 cells of 3 to 7 nodes, every inner node on some path."""
    rng = np.random.default_rng(seed)
    operations = ["conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"]
    cells = []
    for _ in range(count):
        nodes = int(rng.integers(3, 8))
        edges = {(int(rng.integers(0, i)), i) for i in range(1, nodes)}
        edges |= {(a, b) for a in range(nodes) for b in range(a + 1, nodes) if rng.random() < 0.25}
        inner = [str(rng.choice(operations)) for _ in range(nodes - 2)]
        cells.append(cell_graph(["input", *inner, "output"], sorted(edges)))
    return cells
