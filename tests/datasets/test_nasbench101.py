from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cells import names
from tests.published import published
from tvm_costmodel.datasets.nasbench101 import read_nasbench101
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cell_tokens import NASBENCH101, CellTokenizer

KEY = str(tuple([0, 1, *[0] * 5, *[0] * 6, 1, *[0] * 35, 0, 4, 2, 2, 2, 2, 1]))


def write_json(folder: Path, records: object) -> Path:
    path = folder / "cells.json"
    path.write_text(json.dumps({"nasbench101": {"cifar10": records}}))
    return path


def test_naslib_codes_are_translated(tmp_path: Path) -> None:
    path = write_json(tmp_path, {KEY: {"val_accuracy": 91.5, "params": 2.5}})
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
        read_nasbench101(write_json(tmp_path, records))
    assert "\n" not in str(caught.value)


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = write_json(tmp_path, {KEY: {"val_accuracy": 91.5}})
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ModelFileError, match="truncated JSON"):
        read_nasbench101(path)


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
