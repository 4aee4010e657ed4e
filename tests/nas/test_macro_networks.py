from __future__ import annotations

import pytest

from tests.published import published
from tvm_costmodel.datasets.nasbench101 import read_nasbench101
from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import darts_cell, nasbench101_cell, nasbench201_cell
from tvm_costmodel.nas.macro_networks import (
    darts_network,
    nasbench101_network,
    nasbench201_network,
    parameters,
)


def arch(*names: str) -> OpGraph:
    a, b, c, d, e, f = names
    return nasbench201_cell(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")


def op_counts(network: OpGraph) -> dict[str, int]:
    names = [operator.op for operator in network.operators]
    return {name: names.count(name) for name in set(names)}


def test_nasbench201_has_the_published_extremes() -> None:
    """Dong and Yang: from 7.78 to 220.12 MFLOPs (multiply-adds), 0.073306 to 1.531546 M."""
    largest = nasbench201_network(arch(*["nor_conv_3x3"] * 6))
    assert parameters(largest) == 1_531_546
    assert round(largest.macs / 1e6, 2) == 220.12
    smallest = nasbench201_network(arch(*["none"] * 6), keep_dead=True)
    assert parameters(smallest) == 73_306
    assert round(smallest.macs / 1e6, 2) == 7.78
    assert op_counts(smallest)["multiply"] == 15 * 6
    assert largest.unknown_ops == () and largest.operators[-1].outputs[0].shape == (1, 10)


def test_dead_edges_of_nasbench201_are_left_out() -> None:
    # state 1 is computed and read by nothing; state 2 reads the input alone
    cell = arch("nor_conv_3x3", "skip_connect", "none", "none", "none", "nor_conv_1x1")
    network, whole = nasbench201_network(cell), nasbench201_network(cell, keep_dead=True)
    cells = 15
    assert op_counts(network)["conv2d"] == cells + 1 + 2 * 3
    assert op_counts(whole)["conv2d"] == 2 * cells + 1 + 2 * 3
    assert "multiply" not in op_counts(network)
    with pytest.raises(GraphError, match=r"no path .*keep_dead=True"):
        nasbench201_network(arch("nor_conv_3x3", *["none"] * 5))


def test_batch_and_resolution_scale_the_work() -> None:
    cell = arch(*["nor_conv_1x1"] * 6)
    one, many = nasbench201_network(cell), nasbench201_network(cell, batch=8)
    assert many.macs == 8 * one.macs and parameters(many) == parameters(one)
    assert nasbench201_network(cell, resolution=16).macs < one.macs / 3.9


def test_nasbench101_has_the_published_parameters() -> None:
    """The example of the benchmark's own interface: an Inception-like cell."""
    names = ["input", "conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3"]
    names += ["conv3x3-bn-relu", "conv3x3-bn-relu", "output"]
    rows = ["0111100", "0000001", "0000001", "0000001", "0000010", "0000001", "0000000"]
    cell = nasbench101_cell([[int(digit) for digit in row] for row in rows], names)
    network = nasbench101_network(cell)
    assert parameters(network) == 2_694_282
    assert network.unknown_ops == () and network.operators[-1].outputs[0].shape == (1, 10)
    pools = [o for o in network.operators if o.op == "max_pool2d" and o.attrs["strides"] == (2, 2)]
    assert [o.outputs[0].shape for o in pools] == [(1, 128, 16, 16), (1, 256, 8, 8)]


def test_published_parameters_of_nasbench101() -> None:
    """Exact, but for the remainder of a division by three, which the listing order decides."""
    exact = 0
    for cell in read_nasbench101(published("nasbench101/nasbench101_500.json"))[::5]:
        count = parameters(nasbench101_network(cell.graph))
        assert count == pytest.approx(cell.parameters * 1e6, rel=0.01)
        exact += count == round(cell.parameters * 1e6)
    assert exact >= 85


def test_darts_has_the_published_parameters() -> None:
    """DARTS (second order): 3,349,342 parameters without the auxiliary head."""
    sep, skip, pool = "sep_conv_3x3", "skip_connect", "max_pool_3x3"
    normal = [(0, sep), (1, sep), (0, sep), (1, sep), (1, sep), (0, skip), (0, skip)]
    normal.append((2, "dil_conv_3x3"))
    reduction = [(0, pool), (1, pool), (2, skip), (1, pool), (0, pool), (2, skip), (2, skip)]
    reduction.append((1, pool))
    network = darts_network(darts_cell(normal), darts_cell(reduction))
    assert parameters(network) == 3_349_342
    assert network.unknown_ops == () and network.operators[-1].outputs[0].shape == (1, 10)
    dilated = [o for o in network.operators if o.attrs.get("dilation") == (2, 2)]
    assert len(dilated) == 18 and {o.attrs["padding"] for o in dilated} == {(2, 2, 2, 2)}


def test_a_cell_of_another_benchmark_is_refused() -> None:
    cell = arch(*["nor_conv_1x1"] * 6)
    with pytest.raises(GraphError, match="no DARTS cell"):
        darts_network(cell, cell)
    with pytest.raises(GraphError, match="none of NAS-Bench-101's"):
        nasbench101_network(cell)
    with pytest.raises(GraphError, match="no NAS-Bench-201 cell"):
        nasbench201_network(nasbench101_cell([[0, 1], [0, 0]], ["input", "output"]))
    with pytest.raises(GraphError, match="must be positive"):
        nasbench201_network(cell, batch=0)
