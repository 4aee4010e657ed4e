"""Features of NAS cells: operation counts, and the operation of each place.

For cells as `tvm_costmodel.nas.cells` builds them: nodes in the benchmark's order, from
the input to the output, with the operation ``none`` for an edge that is not there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import NONE, live_nodes


def operation_counts(cells: Sequence[OpGraph], operations: Sequence[str]) -> np.ndarray:
    """How often each operation occurs, in all and on paths from the input to the output.

    Operations that lead nowhere cost time where a framework runs the cell as it is written, and
    none where a compiler prunes it; a model weighs the two counts for each device.

    Args:
        cells: Cells of one benchmark.
        operations: Names to count; ``input``, ``output`` and ``none`` are better left out.

    Returns:
        float64 [G, 2 N]: N counts over all nodes, then N over live ones.
    """
    columns = {name: place for place, name in enumerate(operations)}
    counts = np.zeros((len(cells), 2, len(operations)))
    for row, cell in enumerate(cells):
        for node, live in zip(cell.operators, live_nodes(cell), strict=True):
            column = columns.get(node.op)
            if column is not None:
                counts[row, 0, column] += 1
                counts[row, 1, column] += live
    return counts.reshape(len(cells), -1)


def live_operations(cells: Sequence[OpGraph], operations: Sequence[str]) -> np.ndarray:
    """Which operation stands at each inner node, those that lead nowhere written as ``none``.

    Args:
        cells: Cells of one benchmark, all with the same number of nodes.
        operations: Names of the benchmark, ``none`` among them; an operation's code is its place.

    Returns:
        int64 [G, nodes - 2] codes.

    Raises:
        GraphError: Cells of different sizes, or an operation that is not among the names.
    """
    codes = {name: place for place, name in enumerate(operations)}
    sizes = {len(cell) for cell in cells}
    foreign = {node.op for cell in cells for node in cell.operators[1:-1]} - set(codes)
    if len(sizes) > 1 or foreign or NONE not in codes:
        raise GraphError(
            f"cells of {sorted(sizes)} nodes with operations {sorted(foreign)} not in "
            f"{', '.join(operations)}: give cells of one size and benchmark, and its names"
        )
    rows = []
    for cell in cells:
        live = live_nodes(cell)
        rows.append(
            [codes[cell.operators[i].op if live[i] else NONE] for i in range(1, len(cell) - 1)]
        )
    return np.array(rows, dtype=np.int64)
