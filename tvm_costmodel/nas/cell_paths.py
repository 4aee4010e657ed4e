"""What a cell computes: its live operators, and the paths on which its input reaches its output.

Two cells that are written differently can be the same network: an operation that reads nothing or
that nothing reads does not exist, a skip passes its operand on, and states that only sum have no
place of their own. `CellFlow` is what remains, and `flow_hash` is equal for equal networks
whatever order their edges are written in. Scale is ignored as well: convolutions here are
followed by batch normalisation, so ``conv(2 x)`` and ``conv(x)`` are one function.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph

FLOW_VERSION = 1
_ROUNDS = 3  # of neighbour hashing: operators more distant than that are rare in cells

_ZERO = ("none",)
_IDENTITY = ("skip_connect",)  # not in a reduction cell, where it reduces the resolution
_SUM = ("add", "reduction_add")

Pattern = tuple[str, ...]
"""Names of operators that occur together: on a path, or around one of them."""


@dataclass(frozen=True, eq=False)
class CellFlow:
    """The live operators of one cell, or of several cells side by side.

    Attributes:
        operations: Name of each live operator, inputs among them, in topological order.
        reads: For each operator, place of what it sums -> how often.
        outputs: Name of each output -> what it sums, as ``reads``.
    """

    operations: tuple[str, ...]
    reads: tuple[Mapping[int, int], ...]
    outputs: Mapping[str, Mapping[int, int]]


def path_counts(flow: CellFlow) -> Counter[Pattern]:
    """Paths from an input to an output: names along the path -> number of such paths."""
    to: list[Counter[Pattern]] = []
    for operation, reads in zip(flow.operations, flow.reads, strict=True):
        to.append(_extend(to, reads, operation) if reads else Counter({(operation,): 1}))
    total: Counter[Pattern] = Counter()
    for name, reads in flow.outputs.items():
        total += _extend(to, reads, name)
    return total


def _extend(
    to: Sequence[Counter[Pattern]], reads: Mapping[int, int], name: str
) -> Counter[Pattern]:
    paths: Counter[Pattern] = Counter()
    for place, times in reads.items():
        for path, count in to[place].items():
            longer = (*path, name)
            paths[longer] += count * times
    return paths


def cell_flow(cell: OpGraph) -> CellFlow:
    """Contracts a cell to what it computes.

    Args:
        cell: As `nas.cells` builds it; operators named ``...input`` and ``...output`` bound it.
    """
    names: list[str] = []
    reads: list[Counter[int]] = []
    carried: list[Counter[int]] = []  # which live operators each node's value is the sum of
    outputs: dict[str, Counter[int]] = {}
    inputs: Counter[str] = Counter()
    for node in cell.operators:
        summed: Counter[int] = Counter()
        for source, _ in node.inputs:
            summed.update(carried[source])
        if node.op.endswith("output"):
            outputs[node.op] = summed
        passed = node.op in _SUM or node.op in _IDENTITY
        is_input = node.op.endswith("input")
        if passed or node.op in _ZERO or not (summed or is_input):
            carried.append(summed if passed else Counter())
            continue
        names.append(f"{node.op}{inputs[node.op]}" if is_input else node.op)
        inputs[node.op] += is_input
        reads.append(summed)
        carried.append(Counter({len(names) - 1: 1}))
    return _live(names, reads, outputs)


def _live(
    names: Sequence[str], reads: Sequence[Counter[int]], outputs: Mapping[str, Counter[int]]
) -> CellFlow:
    """Leaves out what no output depends on."""
    live: set[int] = set()
    waiting = [place for summed in outputs.values() for place in summed]
    while waiting:
        place = waiting.pop()
        if place not in live:
            live.add(place)
            waiting.extend(reads[place])
    places = sorted(live)
    new = {old: place for place, old in enumerate(places)}
    return CellFlow(
        tuple(names[old] for old in places),
        tuple({new[a]: times for a, times in reads[old].items()} for old in places),
        {name: {new[a]: n for a, n in summed.items()} for name, summed in outputs.items()},
    )


def flow_hash(flow: CellFlow) -> str:
    """Hash of 16 hexadecimal characters, equal for cells that are the same network."""
    reads = [
        _unscaled(r) if "conv" in name else dict(r)
        for name, r in zip(flow.operations, flow.reads, strict=True)
    ]
    outputs = {name: _unscaled(r) for name, r in flow.outputs.items()}
    labels: list[str] = []
    for operation, read in zip(flow.operations, reads, strict=True):
        labels.append(_digest(operation, sorted((labels[a], n) for a, n in read.items())))
    for _ in range(_ROUNDS):
        read_by: list[list[tuple[str, int]]] = [[] for _ in labels]
        for place, read in enumerate(reads):
            for a, n in read.items():
                read_by[a].append((labels[place], n))
        for name, read in outputs.items():
            for a, n in read.items():
                read_by[a].append((name, n))
        labels = [
            _digest(label, sorted(above), sorted((labels[a], n) for a, n in read.items()))
            for label, above, read in zip(labels, read_by, reads, strict=True)
        ]
    return _digest(FLOW_VERSION, sorted(labels))


def _unscaled(summed: Mapping[int, int]) -> dict[int, int]:
    divisor = functools.reduce(math.gcd, summed.values(), 0) or 1
    return {place: times // divisor for place, times in summed.items()}


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def step_counts(flow: CellFlow) -> Counter[Pattern]:
    """How often one operator's result is read by another, by their two names."""
    counts: Counter[Pattern] = Counter()
    for operation, reads in zip(flow.operations, flow.reads, strict=True):
        for place, times in reads.items():
            counts[(flow.operations[place], operation)] += times
    for name, reads in flow.outputs.items():
        for place, times in reads.items():
            counts[(flow.operations[place], name)] += times
    return counts


def depth_counts(flow: CellFlow) -> Counter[Pattern]:
    """Operators by name and by the most operators on a path to them, and on a path from them."""
    count = len(flow.operations)
    ahead, behind = [0] * count, [0] * count
    for place in range(count):
        ahead[place] = max((ahead[a] + 1 for a in flow.reads[place]), default=0)
    for place in reversed(range(count)):
        for a in flow.reads[place]:
            behind[a] = max(behind[a], behind[place] + 1)
    counts: Counter[Pattern] = Counter()
    for place, name in enumerate(flow.operations):
        if flow.reads[place]:
            counts[(name, "after", str(ahead[place]))] += 1
            counts[(name, "before", str(behind[place]))] += 1
    return counts


def surroundings_counts(flow: CellFlow) -> Counter[Pattern]:
    """Operators by their name, the names that they read and the names that read them."""
    read_by: list[list[str]] = [[] for _ in flow.operations]
    for name, reads in (*zip(flow.operations, flow.reads, strict=True), *flow.outputs.items()):
        for place, times in reads.items():
            read_by[place] += [name] * times
    counts: Counter[Pattern] = Counter()
    for place, name in enumerate(flow.operations):
        if flow.reads[place]:
            above = [flow.operations[a] for a, n in flow.reads[place].items() for _ in range(n)]
            around = (name, "reads", *sorted(above), "read by", *sorted(read_by[place]))
            counts[around] += 1
    return counts


def flow_totals(
    flow: CellFlow, paths_counted: Mapping[Pattern, int], operations: Sequence[str]
) -> np.ndarray:
    """Numbers that sum a cell up, float64 [5 C + 3] for the ``C`` kinds of `kinds`.

    For each kind of operator: how many there are, and the most, fewest and mean on a path from
    input to output with the mean's spread over paths; then log(1 + paths), whether a path is
    empty, and the share of paths that are.

    Args:
        flow: The cell.
        paths_counted: Its `path_counts`.
        operations: Names of the benchmark's operations.
    """
    paths = [(path[1:-1], times) for path, times in paths_counted.items()]
    times = np.array([t for _, t in paths], dtype=np.float64)
    numbers: list[float] = []
    for kind in kinds(operations):
        total = sum(name in kind for name, r in zip(flow.operations, flow.reads, strict=True) if r)
        if not paths:
            numbers += [0.0] * 5
            continue
        on_path = np.array(
            [sum(name in kind for name in path) for path, _ in paths], dtype=np.float64
        )
        mean = float(on_path @ times / times.sum())
        spread = float(np.sqrt((on_path - mean) ** 2 @ times / times.sum()))
        numbers += [float(total), on_path.max(), on_path.min(), mean, spread]
    empty = sum(t for path, t in paths if not path)
    whole = float(times.sum())
    return np.array([*numbers, math.log1p(whole), float(empty > 0), empty / max(whole, 1.0)])


def kinds(operations: Sequence[str]) -> list[frozenset[str]]:
    """Kinds of operators that `flow_totals` counts: each by itself, and all convolutions."""
    plain = [
        name
        for name in operations
        if name not in (*_ZERO, *_IDENTITY, *_SUM) and not name.endswith(("input", "output"))
    ]
    groups = [frozenset([name]) for name in plain]
    for prefix in ("", "reduction_"):
        of_cell = [n for n in plain if n.startswith("reduction_") == bool(prefix)]
        convolutions = frozenset(name for name in of_cell if "conv" in name)
        if len(convolutions) > 1:
            groups.append(convolutions)
    return groups


COUNTS = ("paths", "steps", "depths", "surroundings")
"""What `CellStructure` counts."""


@dataclass(frozen=True, eq=False)
class CellStructure:
    """One cell as the models that compare cells read it.

    Attributes:
        identity: `flow_hash`.
        totals: `flow_totals`, float64 [T].
        counts: For each of `COUNTS`, how often each pattern occurs.
    """

    identity: str
    totals: np.ndarray
    counts: Mapping[str, Mapping[Pattern, int]]


def cell_structure(cell: OpGraph, operations: Sequence[str]) -> CellStructure:
    """Reads a cell, in a third of a millisecond to a few.

    Args:
        cell: As `nas.cells` builds it.
        operations: The benchmark's operations, such as `nas.cell_tokens.NASBENCH101`.
    """
    flow = cell_flow(cell)
    paths = path_counts(flow)
    counts = {
        "paths": paths,
        "steps": step_counts(flow),
        "depths": depth_counts(flow),
        "surroundings": surroundings_counts(flow),
    }
    return CellStructure(flow_hash(flow), flow_totals(flow, paths, operations), counts)
