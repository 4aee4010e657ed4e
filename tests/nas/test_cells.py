from __future__ import annotations

import pytest

from tests.cells import names
from tvm_costmodel.errors import GraphError
from tvm_costmodel.nas.cell_tokens import NASBENCH201, CellTokenizer
from tvm_costmodel.nas.cells import darts_cell, nasbench101_cell, nasbench201_cell

ARCH = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
CHAIN = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
NAMES = ["input", "conv3x3-bn-relu", "maxpool3x3", "output"]


def test_nasbench101_cells_lose_what_leads_nowhere() -> None:
    cell = nasbench101_cell(CHAIN, NAMES)
    assert names(cell) == ["input", "conv3x3-bn-relu", "output"]
    assert cell.edges.tolist() == [[0, 1], [1, 2]]
    # no way from the input to node 2, so the edge from 2 to the output goes too
    unreached = [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert nasbench101_cell(unreached, NAMES).hash == cell.hash


def test_the_order_of_nodes_does_not_change_a_nasbench101_cell() -> None:
    """input -> 1x1 and pool, both -> 3x3, all three -> output; the first two swapped."""
    names_of = ["input", "conv1x1-bn-relu", "maxpool3x3", "conv3x3-bn-relu", "output"]
    edges = [(0, 1), (0, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4)]
    order = [0, 2, 1, 3, 4]
    matrix = [[int((a, b) in edges) for b in range(5)] for a in range(5)]
    moved = [[matrix[a][b] for b in order] for a in order]
    cell = nasbench101_cell(matrix, names_of)
    assert nasbench101_cell(moved, [names_of[i] for i in order]).hash == cell.hash
    assert nasbench101_cell(matrix, [names_of[i] for i in order]).hash == cell.hash
    changed = ["input", "conv1x1-bn-relu", "maxpool3x3", "conv1x1-bn-relu", "output"]
    assert nasbench101_cell(matrix, changed).hash != cell.hash


def test_nasbench201_cells_have_a_node_per_edge() -> None:
    cell = nasbench201_cell(ARCH)
    assert names(cell) == [
        "input",
        "avg_pool_3x3",
        "nor_conv_1x1",
        "skip_connect",
        "nor_conv_3x3",
        "none",
        "skip_connect",
        "output",
    ]
    published_adjacency = [
        [0, 1, 1, 0, 1, 0, 0, 0],
        [0, 0, 0, 1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 1],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    tokens = CellTokenizer(NASBENCH201).encode(cell)
    assert tokens.adjacency.astype(int).tolist() == published_adjacency


def test_darts_cells_sum_pairs_and_concatenate_the_sums() -> None:
    pair = [(0, "sep_conv_3x3"), (1, "skip_connect")]
    cell = darts_cell([*pair, *pair, (2, "max_pool_3x3"), (3, "dil_conv_5x5"), *pair])
    assert len(cell) == 2 + 4 * 3 + 1
    assert names(cell)[:5] == ["input", "input", "sep_conv_3x3", "skip_connect", "add"]
    sums = [i for i, name in enumerate(names(cell)) if name == "add"]
    assert [source for source, _ in cell.operators[-1].inputs] == sums == [4, 7, 10, 13]
    # state 2 is the first sum, state 3 the second
    assert cell.operators[8].inputs == ((4, 0),) and cell.operators[9].inputs == ((7, 0),)
    assert cell.operators[10].inputs == ((8, 0), (9, 0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nasbench101_cell(CHAIN[:3], NAMES), "4 x 4 adjacency"),
        (lambda: nasbench101_cell([[0, 0], [1, 0]], ["input", "output"]), "upper-triangular"),
        (lambda: nasbench101_cell([[0, 0], [0, 0]], ["input", "output"]), "no path"),
        (lambda: nasbench201_cell("|none~0|+|none~0|"), "no NAS-Bench-201 cell"),
        (lambda: nasbench201_cell(ARCH.replace("skip_connect~1", "skip_connect~0")), "no NAS"),
        (lambda: nasbench201_cell(ARCH.replace("none", "magic")), "'magic' is none of none, skip"),
        (lambda: darts_cell([(0, "skip_connect")] * 7), "8 choices"),
        (lambda: darts_cell([(2, "skip_connect")] * 8), "state 2 reads state 2"),
    ],
)
def test_malformed_cells_are_refused(build, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        build()
