"""Cells of the NAS benchmarks as graphs, and the published files that label them.

A cell's graph holds its structure alone: operators carry the benchmark's own operation names in
the benchmark's node order, every value is a scalar, and the first node is the cell's input, the
last its output. What shape a cell's values have depends on where the network repeats it.

* NAS-Bench-101 (Ying et al., ICML 2019): operations on nodes, up to 7 nodes and 9 edges.
* NAS-Bench-201 (Dong and Yang, ICLR 2020): operations on the 6 edges of 4 states; each is a node
  here, so that a cell has 8 nodes.
* DARTS (Liu et al., ICLR 2019): 8 operations on edges into 4 states, which are ``add`` nodes here.
"""

from __future__ import annotations

import csv
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.frontends.label_files import located, positive, read_json, read_text, short
from tvm_costmodel.graph import Operator, OpGraph, TensorType

_SCALAR = (TensorType((), "float32"),)

# Codes of NASLib's compact form, which differ from those of the benchmark's own tools.
_NASLIB_101 = ("input", "output", "maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")
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


@dataclass(frozen=True)
class LabelledCell:
    """One trained cell.

    Attributes:
        graph: The cell.
        accuracy: Validation accuracy in percent.
        parameters: Millions of parameters of the whole network; NaN where not told.
    """

    graph: OpGraph
    accuracy: float
    parameters: float = math.nan


@dataclass(frozen=True)
class Cell201:
    """One cell of NAS-Bench-201 with everything measured on it.

    Attributes:
        index: Its number in the benchmark.
        graph: The cell.
        accuracy: Data set -> validation accuracy in percent.
        latency_s: Device setting -> seconds; settings without a measurement are left out.
    """

    index: int
    graph: OpGraph
    accuracy: Mapping[str, float]
    latency_s: Mapping[str, float]


@dataclass(frozen=True)
class DartsGenotype:
    """One DARTS network.

    Attributes:
        normal: Cell that keeps the resolution.
        reduction: Cell that halves it.
        accuracy: Validation accuracy in percent, as a surrogate model predicts it.
    """

    normal: OpGraph
    reduction: OpGraph
    accuracy: float


def nasbench101_cell(adjacency: Sequence[Sequence[int]], operations: Sequence[str]) -> OpGraph:
    """A NAS-Bench-101 cell, without the nodes that lie on no path from input to output.

    Nodes add (the output: join) what they read, so the order of their operands is free; it is the
    same here for every order in which the matrix may list the nodes, and so is the graph's hash.

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
    for a, b in edges:  # row by row, so every way to ``a`` is known
        if a in ahead:
            ahead.add(b)
    for a, b in reversed(edges):
        if b in back:
            back.add(a)
    kept = sorted(ahead & back)
    if not kept or kept[0] != 0 or kept[-1] != count - 1:
        raise GraphError("no path leads from the cell's input to its output: leave the cell out")
    place = {old: new for new, old in enumerate(kept)}
    reads = [[place[a] for a, b in edges if b == node and a in place] for node in kept]
    names = [operations[node] for node in kept]
    return _cell(names, _canonical_reads(names, reads))


def nasbench201_cell(arch: str) -> OpGraph:
    """A NAS-Bench-201 cell from its string, such as ``|none~0|+|none~0|none~1|+|...|``.

    Raises:
        GraphError: The string does not name six operations of the benchmark with their sources.
    """
    found = [token.rpartition("~") for token in arch.replace("+", "").split("|") if token]
    names, sources = [name for name, _, _ in found], [source for _, _, source in found]
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


def read_nasbench101(path: str | os.PathLike[str]) -> list[LabelledCell]:
    """Reads NASLib's JSON of NAS-Bench-101 cells (49 adjacency values, then 7 operation codes).

    Raises:
        ModelFileError: The file cannot be read, is damaged or of another benchmark, or a cell's
            label is missing or no accuracy.
    """
    cells = []
    for key, record in _naslib(path, "nasbench101", "cifar10").items():
        numbers = _integers(key, path)
        if len(numbers) != 56 or not all(0 <= code < 5 for code in numbers[49:]):
            raise ModelFileError(
                f"{path}: {short(key)} is no NAS-Bench-101 cell of 49 adjacency values and 7 "
                "operation codes below 5; download the file again"
            )
        matrix = [numbers[start : start + 7] for start in range(0, 49, 7)]
        names = [_NASLIB_101[code] for code in numbers[49:]]
        accuracy, parameters = _accuracy(record, "val_accuracy", path, key), math.nan
        if "params" in record:
            parameters = positive(record["params"], f"{path}: params of {short(key)}")
        with located(path, key):
            graph = nasbench101_cell(matrix, names)
        cells.append(LabelledCell(graph, accuracy, parameters))
    return cells


def read_darts(path: str | os.PathLike[str]) -> list[DartsGenotype]:
    """Reads NASLib's JSON of DARTS genotypes.

    Raises:
        ModelFileError: As `read_nasbench101`.
    """
    found = []
    for key, record in _naslib(path, "cifar10").items():
        numbers = _integers(key, path)
        pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        if len(numbers) != 32 or not all(0 <= code < 7 for _, code in pairs):
            raise ModelFileError(
                f"{path}: {short(key)} is no DARTS genotype of two cells with 8 pairs of source "
                "and operation code below 7; download the file again"
            )
        named = [(source, DARTS_OPERATIONS[code]) for source, code in pairs]
        accuracy = _accuracy(record, "val_accuracy", path, key)
        with located(path, key):
            found.append(DartsGenotype(darts_cell(named[:8]), darts_cell(named[8:]), accuracy))
    return found


def read_nasbench201(path: str | os.PathLike[str]) -> list[Cell201]:
    """Reads a table of NAS-Bench-201 cells, plain or gzipped CSV.

    Columns: ``idx``, ``arch_str``, ``val_acc_<data set>`` in percent and ``latency_<device>_ms``;
    an empty latency is a cell that the device did not measure.

    Raises:
        ModelFileError: The file cannot be read, is truncated, empty or lacks columns, or a label
            is missing (accuracy), not positive or not finite.
    """
    rows = csv.DictReader(read_text(path).splitlines())
    columns = rows.fieldnames or []
    if not {"idx", "arch_str"} <= set(columns):
        raise ModelFileError(
            f"{path}: no table of NAS-Bench-201 cells: columns idx, arch_str, val_acc_*, "
            f"latency_*_ms are needed, it has {', '.join(columns[:4]) or 'none'}"
        )
    cells = [_cell_201(row, path) for row in rows]
    if not cells:
        raise ModelFileError(f"{path}: the file holds no cells; download it again")
    return cells


def _cell_201(row: Mapping[str, Any], path: str | os.PathLike[str]) -> Cell201:
    accuracy, latency = {}, {}
    place = f"{path}: cell {row['idx']}"
    if None in row or None in row.values():
        raise ModelFileError(f"{place}: a wrong number of columns; download the file again")
    for column, text in row.items():
        if column.startswith("val_acc_"):
            accuracy[column.removeprefix("val_acc_")] = positive(text, f"{place}, {column}")
        elif column.startswith("latency_") and text:
            device = column.removeprefix("latency_").removesuffix("_ms")
            latency[device] = positive(text, f"{place}, {column}") / 1e3
    if not row["idx"].isdigit():
        raise ModelFileError(f"{place}: the index is no number; download the file again")
    with located(path, row["idx"]):
        return Cell201(int(row["idx"]), nasbench201_cell(row["arch_str"]), accuracy, latency)


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


def _naslib(path: str | os.PathLike[str], *keys: str) -> dict[str, Any]:
    """Records of a NASLib JSON below some keys."""
    found = read_json(path)
    for key in keys:
        if not isinstance(found, dict) or not isinstance(found.get(key), dict):
            raise ModelFileError(
                f"{path}: NASLib's JSON of another benchmark: nothing under {' / '.join(keys)}"
            )
        found = found[key]
    if not found:
        raise ModelFileError(f"{path}: the file holds no cells; download it again")
    return found


def _integers(key: str, path: str | os.PathLike[str]) -> list[int]:
    """The integers of nested tuples or lists written as text."""
    numbers = key.translate(str.maketrans("()[],", "     ")).split()
    try:
        return [int(number) for number in numbers]
    except ValueError:
        raise ModelFileError(
            f"{path}: {short(key)} is no cell in numbers; download the file again"
        ) from None


def _accuracy(record: Any, name: str, path: str | os.PathLike[str], key: str) -> float:
    value = record.get(name) if isinstance(record, dict) else None
    return positive(value, f"{path}: {name} of {short(key)}")
