"""Cells of NAS-Bench-101, NAS-Bench-201 and DARTS as operator graphs.

A cell's graph holds its structure alone: operators carry the benchmark's own operation names in
the benchmark's node order, every value is a scalar, and the first node is the cell's input, the
last its output. What shape a cell's values have depends on where the network repeats it.

* NAS-Bench-101 (Ying et al., ICML 2019): operations on nodes, up to 7 nodes and 9 edges.
* NAS-Bench-201 (Dong and Yang, ICLR 2020): operations on the 6 edges of 4 states; each is a node
  here, so that a cell has 8 nodes.
* DARTS (Liu et al., ICLR 2019): 8 operations on edges into 4 states, which are ``add`` nodes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType

_SCALAR = (TensorType((), "float32"),)

DARTS_OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
"""Operations of DARTS in NASLib's order of codes."""

NONE = "none"
"""Operation of NAS-Bench-201 for an edge that is not there."""

_OPERATIONS_201 = (NONE, "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_SOURCES_201 = (0, 0, 1, 0, 1, 2)  # source state of each edge, in the order of the arch string
_EDGES_201 = ((), (0,), (0,), (1,), (0,), (1,), (2, 3), (4, 5, 6))  # what each of 8 nodes reads


def nasbench101_cell(adjacency: Sequence[Sequence[int]], operations: Sequence[str]) -> OpGraph:
    """A NAS-Bench-101 cell, without the nodes that lie on no path from input to output.

    Nodes add what they read (the output concatenates it), so the order of their operands is free;
    it is the same here for every order in which the matrix may list the nodes, and so is the
    graph's hash.

    Args:
        adjacency: Upper-triangular 0/1 matrix, row = producer.
        operations: One per node, ``input`` first and ``output`` last.

    Raises:
        GraphError: The matrix is not square, not upper-triangular or not of that many nodes, or no
            path leads from input to output.
    """
    count = len(operations)
    if len(adjacency) != count or any(len(row) != count for row in adjacency):
        raise GraphError(f"{count} operations need a {count} x {count} adjacency matrix")
    edges = [(a, b) for a, row in enumerate(adjacency) for b, value in enumerate(row) if value]
    if any(a >= b for a, b in edges):
        raise GraphError("the adjacency matrix is not upper-triangular: an edge points backwards")
    ahead, back = {0}, {count - 1}
    for a, b in edges:  # row by row, so every path to ``a`` is known
        if a in ahead:
            ahead.add(b)
    for a, b in reversed(edges):
        if b in back:
            back.add(a)
    live = sorted(ahead & back)
    if not live or live[0] != 0 or live[-1] != count - 1:
        raise GraphError("no path leads from the cell's input to its output: leave the cell out")
    place = {old: new for new, old in enumerate(live)}
    reads = [[place[a] for a, b in edges if b == node and a in place] for node in live]
    names = [operations[node] for node in live]
    return _cell(names, _canonical_reads(names, reads))


def nasbench201_cell(arch: str) -> OpGraph:
    """A NAS-Bench-201 cell from its string, such as ``|none~0|+|none~0|none~1|+|...|``.

    Raises:
        GraphError: The string does not name six operations of the benchmark with their sources.
    """
    tokens = [token.rpartition("~") for token in arch.replace("+", "").split("|") if token]
    names, sources = [name for name, _, _ in tokens], [source for _, _, source in tokens]
    if sources != [str(source) for source in _SOURCES_201]:
        raise GraphError(
            f"{arch!r} is no NAS-Bench-201 cell: six operations from the states "
            f"{', '.join(map(str, _SOURCES_201))}, such as "
            "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
        )
    for name in names:
        if name not in _OPERATIONS_201:
            raise GraphError(f"operation {name!r} is none of {', '.join(_OPERATIONS_201)}")
    return _cell(["input", *names, "output"], _EDGES_201)


def darts_cell(choices: Sequence[tuple[int, str]]) -> OpGraph:
    """A DARTS cell from its eight choices: two inputs, eight operations, four sums, one output.

    Args:
        choices: ``(source, operation)``, two for each of the states 2 to 5; sources 0 and 1 are
            the outputs of the two cells before.

    Raises:
        GraphError: Not eight choices, or a state reads itself or a later one.
    """
    if len(choices) != 8:
        raise GraphError(f"a DARTS cell has 8 choices, two for each of its 4 states: {choices!r}")
    operations, states = ["input", "input"], [0, 1]
    reads: list[list[int]] = [[], []]
    for first in range(0, 8, 2):
        summands = []
        for source, operation in choices[first : first + 2]:
            if not 0 <= source < len(states):
                raise GraphError(f"state {len(states)} reads state {source}: give an earlier one")
            summands.append(len(operations))
            operations.append(operation)
            reads.append([states[source]])
        states.append(len(operations))
        operations.append("add")
        reads.append(summands)
    return _cell([*operations, "output"], [*reads, states[2:]])


def live_nodes(cell: OpGraph) -> list[bool]:
    """For each node, whether it lies on a path from the input to the output without ``none``."""
    nodes = cell.operators
    ahead = [node.op == "input" for node in nodes]
    for i, node in enumerate(nodes):
        if node.op != NONE and any(ahead[source] for source, _ in node.inputs):
            ahead[i] = True
    back = [False] * len(nodes)
    back[-1] = True
    for i in range(len(nodes) - 1, 0, -1):
        if back[i] and ahead[i]:
            for source, _ in nodes[i].inputs:
                back[source] = back[source] or nodes[source].op != NONE
    return [a and b for a, b in zip(ahead, back, strict=True)]


def _canonical_reads(operations: Sequence[str], reads: Sequence[Sequence[int]]) -> list[list[int]]:
    """Each node's operands, ordered by what leads to them."""
    labels: list[str] = []
    for operation, sources in zip(operations, reads, strict=True):
        text = repr((operation, sorted(labels[source] for source in sources)))
        labels.append(hashlib.blake2b(text.encode(), digest_size=16).hexdigest())
    return [sorted(sources, key=labels.__getitem__) for sources in reads]


def _cell(operations: Sequence[str], reads: Sequence[Sequence[int]]) -> OpGraph:
    operators = tuple(
        Operator(operation, tuple((source, 0) for source in sources), _SCALAR)
        for operation, sources in zip(operations, reads, strict=True)
    )
    return OpGraph(operators, ((len(operators) - 1, 0),))
