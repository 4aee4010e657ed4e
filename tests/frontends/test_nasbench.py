from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from tests.published import published
from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.frontends.nasbench import (
    DARTS_OPERATIONS,
    darts_cell,
    nasbench101_cell,
    nasbench201_cell,
    read_darts,
    read_nasbench101,
    read_nasbench201,
)
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.tokenizer.cells import DARTS, NASBENCH101, NASBENCH201, CellTokenizer

ARCH = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
CHAIN = [[0, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
NAMES = ["input", "conv3x3-bn-relu", "maxpool3x3", "output"]


def names(cell: OpGraph) -> list[str]:
    return [node.op for node in cell.operators]


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


def test_darts_cells_sum_pairs_and_join_the_sums() -> None:
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


KEY = str(tuple([0, 1, *[0] * 5, *[0] * 6, 1, *[0] * 35, 0, 4, 2, 2, 2, 2, 1]))


def write_101(folder: Path, records: object) -> Path:
    path = folder / "cells.json"
    path.write_text(json.dumps({"nasbench101": {"cifar10": records}}))
    return path


def test_naslib_codes_are_translated(tmp_path: Path) -> None:
    path = write_101(tmp_path, {KEY: {"val_accuracy": 91.5, "params": 2.5}})
    (cell,) = read_nasbench101(path)
    assert names(cell.graph) == ["input", "conv3x3-bn-relu", "output"]
    assert (cell.accuracy, cell.parameters) == (91.5, 2.5)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ({}, "holds no cells"),
        ([], "another benchmark"),
        ({KEY: {}}, "val_accuracy of .* is None"),
        ({KEY: {"val_accuracy": 0.0}}, "is 0.0: labels are positive"),
        ({KEY: {"val_accuracy": -3}}, "is -3"),
        ({KEY: {"val_accuracy": float("nan")}}, "is nan"),
        ({KEY: {"val_accuracy": 90.0, "params": "many"}}, "params of .* is 'many'"),
        ({"(0, 1, 2)": {"val_accuracy": 90.0}}, "no NAS-Bench-101 cell"),
        ({"spam": {"val_accuracy": 90.0}}, "no cell in numbers"),
        ({KEY.replace("1", "0"): {"val_accuracy": 90.0}}, "no path"),
    ],
)
def test_bad_files_of_nasbench101_are_refused(tmp_path: Path, records, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_nasbench101(write_101(tmp_path, records))
    assert "\n" not in str(caught.value)


GENOTYPE = str(([(0, 0), (1, 1)] * 4, [(1, 2), (0, 3)] * 4))


def test_genotypes_of_naslib_are_translated(tmp_path: Path) -> None:
    path = tmp_path / "darts.json"
    path.write_text(json.dumps({"cifar10": {GENOTYPE: {"val_accuracy": 93.5}}}))
    (found,) = read_darts(path)
    assert found.accuracy == 93.5
    assert names(found.normal)[2:4] == [DARTS_OPERATIONS[0], DARTS_OPERATIONS[1]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"cifar10": {}}, "holds no cells"),
        ({"nasbench101": {}}, "nothing under cifar10"),
        ({"cifar10": {GENOTYPE: {}}}, "val_accuracy of .* is None"),
        ({"cifar10": {GENOTYPE: {"val_accuracy": 0}}}, "is 0: labels are positive"),
        ({"cifar10": {GENOTYPE: {"val_accuracy": -1.5}}}, "is -1.5"),
        ({"cifar10": {GENOTYPE: {"val_accuracy": float("nan")}}}, "is nan"),
        ({"cifar10": {GENOTYPE[:-9]: {"val_accuracy": 93.5}}}, "no DARTS genotype"),
        ({"cifar10": {GENOTYPE.replace("3", "7"): {"val_accuracy": 93.5}}}, "no DARTS genotype"),
        ({"cifar10": {GENOTYPE.replace("(1, 2)", "(2, 2)"): {"val_accuracy": 93.5}}}, "state 2"),
    ],
)
def test_bad_files_of_darts_are_refused(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "darts.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match=message) as caught:
        read_darts(path)
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = write_101(tmp_path, {KEY: {"val_accuracy": 91.5}})
    path.write_text(path.read_text()[:-9])
    for read in (read_nasbench101, read_darts):
        with pytest.raises(ModelFileError, match="truncated JSON"):
            read(path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_nasbench201(tmp_path / "nowhere.csv")
    packed = tmp_path / "cells.csv.gz"
    packed.write_bytes(gzip.compress(b"idx,arch_str\n" * 99)[:-9])
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        read_nasbench201(packed)


HEADER = "idx,arch_str,val_acc_cifar10,latency_pixel3_ms,latency_fpga_ms"


def test_tables_of_nasbench201(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(f"{HEADER}\n7,{ARCH},91.25,3.5,\n")
    (cell,) = read_nasbench201(path)
    assert cell.index == 7 and cell.graph.hash == nasbench201_cell(ARCH).hash
    assert dict(cell.accuracy) == {"cifar10": 91.25}
    assert dict(cell.latency_s) == {"pixel3": pytest.approx(3.5e-3)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "no table of NAS-Bench-201 cells"),
        (f"{HEADER}\n7,{ARCH},,3.5,\n", "cell 7, val_acc_cifar10 is ''"),
        (f"{HEADER}\n", "holds no cells"),
        (f"{HEADER}\n7,{ARCH},0,3.5,\n", "val_acc_cifar10 is '0'"),
        (f"{HEADER}\n7,{ARCH},91,0.0,\n", "latency_pixel3_ms is '0.0'"),
        (f"{HEADER}\n7,{ARCH},91,nan,\n", "latency_pixel3_ms is 'nan'"),
        (f"{HEADER}\n7,{ARCH},91,-1,\n", "latency_pixel3_ms is '-1'"),
        (f"{HEADER}\n7,{ARCH},91\n", "wrong number of columns"),
        (f"{HEADER}\nx,{ARCH},91,1,1\n", "index is no number"),
        (f"{HEADER}\n7,|magic~0|,91,1,1\n", "no NAS-Bench-201 cell"),
    ],
)
def test_bad_tables_of_nasbench201_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with pytest.raises(ModelFileError, match=message):
        read_nasbench201(path)


def test_published_nasbench101() -> None:
    cells = read_nasbench101(published("nasbench101/nasbench101_500.json"))
    assert len(cells) == 500
    assert max(len(cell.graph) for cell in cells) == 7
    assert max(len(cell.graph.edges) for cell in cells) <= 9  # the benchmark's own limit
    assert min(cell.accuracy for cell in cells) == pytest.approx(73.377, abs=1e-3)
    assert cells[0].accuracy == 92.578125 and cells[0].parameters == 4.095778
    parameters: dict[str, list[float]] = {}
    for cell in cells:
        CellTokenizer(NASBENCH101).encode(cell.graph)
        parameters.setdefault(cell.graph.hash, []).append(cell.parameters)
    # The 500 were drawn with repeats. Equal cells are equal networks, but for the remainder when
    # the channels of the output are divided among three nodes, which the listing order decides.
    assert len(parameters) == 292 and max(map(len, parameters.values())) == 55
    assert all(max(values) / min(values) < 1.01 for values in parameters.values())


def test_published_nasbench201() -> None:
    cells = read_nasbench201(published("nasbench201/nasbench201.csv.gz"))
    assert len(cells) == 15625 and len({cell.graph.hash for cell in cells[:500]}) == 500
    first = cells[0]
    assert (
        first.accuracy["cifar10"] == 81.9 and first.accuracy["ImageNet16-120"] == 25.766666615804038
    )
    assert len(first.latency_s) == 23
    assert first.latency_s["1080ti_1"] == pytest.approx(10.75437068939209e-3)


def test_published_darts() -> None:
    found = read_darts(published("darts/darts_725.json"))
    assert len(found) == 725
    assert found[0].accuracy == pytest.approx(93.32119084)
    assert names(found[0].normal)[2:4] == ["max_pool_3x3", "dil_conv_3x3"]
    for genotype in found[:50]:
        CellTokenizer(DARTS).encode(genotype.reduction)
