from __future__ import annotations

import itertools

import numpy as np

from tests.cells import diamond, random_cells
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cell_paths import (
    cell_flow,
    cell_structure,
    flow_hash,
    flow_totals,
    path_counts,
    step_counts,
)
from tvm_costmodel.nas.cell_tokens import (
    DARTS_PAIR,
    NASBENCH101,
    NASBENCH201,
    consistent_copies,
    side_by_side,
)
from tvm_costmodel.nas.cells import darts_cell, nasbench201_cell

NONE, SKIP, SMALL, LARGE, POOL = (
    "none",
    "skip_connect",
    "nor_conv_1x1",
    "nor_conv_3x3",
    "avg_pool_3x3",
)


def cell(*operations: str) -> OpGraph:
    a, b, c, d, e, f = operations
    return nasbench201_cell(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")


def hash_of(*operations: str) -> str:
    return flow_hash(cell_flow(cell(*operations)))


def test_dead_operators_and_skips_are_gone() -> None:
    flow = cell_flow(cell(SKIP, NONE, LARGE, POOL, NONE, SMALL))
    assert flow.operations == ("input0", LARGE, POOL, SMALL)
    assert [dict(reads) for reads in flow.reads] == [{}, {0: 1}, {0: 1}, {1: 1}]
    assert flow.outputs == {"output": {2: 1, 3: 1}}
    dead = cell_flow(cell(LARGE, NONE, NONE, POOL, NONE, SMALL))
    assert dead.operations == ("input0", POOL)
    assert not path_counts(cell_flow(cell(*[NONE] * 6)))


def test_equal_networks_have_one_hash_and_others_their_own() -> None:
    assert hash_of(SKIP, LARGE, NONE, NONE, SMALL, NONE) == hash_of(*[NONE] * 3, SMALL, NONE, NONE)
    through_first = hash_of(LARGE, NONE, NONE, POOL, SMALL, NONE)
    assert through_first == hash_of(NONE, LARGE, NONE, POOL, NONE, SMALL)
    assert through_first != hash_of(SMALL, NONE, NONE, POOL, LARGE, NONE)
    shared = hash_of(LARGE, LARGE, SKIP, NONE, NONE, SMALL)
    assert shared != hash_of(LARGE, NONE, SKIP, NONE, NONE, SMALL)


def test_a_convolution_does_not_see_the_scale_of_its_operand() -> None:
    twice = hash_of(SKIP, SKIP, SKIP, NONE, NONE, LARGE)
    assert twice == hash_of(NONE, NONE, NONE, LARGE, NONE, NONE)


def test_copies_of_a_cell_keep_its_hash() -> None:
    for cell in random_cells(8, seed=4):
        own = flow_hash(cell_flow(cell))
        for copy in itertools.islice(consistent_copies(cell), 5):
            assert flow_hash(cell_flow(copy)) == own


def test_ways_through_a_diamond() -> None:
    small, large, pool = "conv1x1-bn-relu", "conv3x3-bn-relu", "maxpool3x3"
    flow = cell_flow(diamond())
    paths = path_counts(flow)
    assert paths == {
        ("input0", "output"): 1,
        ("input0", small, pool, "output"): 1,
        ("input0", large, pool, "output"): 1,
    }
    assert step_counts(flow)[("input0", small)] == 1
    totals = flow_totals(flow, paths, NASBENCH101)
    # one kind each of small, large and pool, then both convolutions: count, most, fewest, mean
    np.testing.assert_allclose(totals[:4], [1, 1, 0, 1 / 3])
    np.testing.assert_allclose(totals[10:14], [1, 1, 0, 2 / 3])
    np.testing.assert_allclose(totals[15:19], [2, 1, 0, 2 / 3])
    np.testing.assert_allclose(totals[20:], [np.log(4), 1, 1 / 3])


def test_a_pair_of_cells_keeps_both_apart() -> None:
    normal = darts_cell([(0, "skip_connect"), (1, "sep_conv_3x3")] * 4)
    pair = side_by_side(normal, normal)
    flow = cell_flow(pair)
    assert set(flow.outputs) == {"output", "reduction_output"}
    assert "skip_connect" not in flow.operations
    assert flow.operations.count("reduction_skip_connect") == 4
    assert len(cell_structure(pair, DARTS_PAIR).totals) == 5 * 15 + 3


def test_a_dead_cell_has_zero_totals() -> None:
    structure = cell_structure(cell(*[NONE] * 6), NASBENCH201)
    assert not structure.totals.any() and not any(structure.counts.values())
