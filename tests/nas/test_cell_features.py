from __future__ import annotations

import pytest

from tests.cells import cell_graph, diamond
from tvm_costmodel.errors import GraphError
from tvm_costmodel.nas.cell_features import live_operations, operation_counts
from tvm_costmodel.nas.cells import live_nodes, nasbench201_cell

NAMES = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# state 1 leads nowhere; state 2 reads nothing but a dead state's none
DEAD = "|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
ALL = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"


def test_what_leads_nowhere_is_not_live() -> None:
    assert live_nodes(nasbench201_cell(DEAD)) == [True] + [False] * 3 + [True] + [False] * 2 + [
        True
    ]
    assert live_nodes(diamond()) == [True] * 5
    loose = cell_graph(["input", "maxpool3x3", "conv1x1-bn-relu", "output"], [(0, 1), (0, 3)])
    assert live_nodes(loose) == [True, False, False, True]


def test_counts_over_all_and_over_live_nodes() -> None:
    counts = operation_counts([nasbench201_cell(arch) for arch in (DEAD, ALL)], NAMES[1:])
    assert counts.tolist() == [[1, 1, 1, 0, 1, 0, 0, 0], [2, 1, 1, 1, 2, 1, 1, 1]]


def test_live_operations_write_dead_places_as_none() -> None:
    places = live_operations([nasbench201_cell(arch) for arch in (DEAD, ALL)], NAMES)
    assert places.tolist() == [[0, 0, 0, 1, 0, 0], [4, 2, 1, 3, 0, 1]]
    with pytest.raises(GraphError, match="one size and benchmark"):
        live_operations([diamond(), nasbench201_cell(ALL)], NAMES)
    with pytest.raises(GraphError, match="conv1x1-bn-relu"):
        live_operations([diamond()], NAMES)
