from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cells import names
from tests.published import published
from tvm_costmodel.datasets.darts import read_darts
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cell_tokens import DARTS, CellTokenizer
from tvm_costmodel.nas.cells import DARTS_OPERATIONS

GENOTYPE = str(([(0, 0), (1, 1)] * 4, [(1, 2), (0, 3)] * 4))


def test_genotypes_of_naslib_are_translated(tmp_path: Path) -> None:
    path = tmp_path / "darts.json"
    path.write_text(json.dumps({"cifar10": {GENOTYPE: {"val_accuracy": 93.5}}}))
    (pair,) = read_darts(path)
    assert pair.accuracy == 93.5
    assert names(pair.normal)[2:4] == [DARTS_OPERATIONS[0], DARTS_OPERATIONS[1]]


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


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "darts.json"
    path.write_text(json.dumps({"cifar10": {GENOTYPE: {"val_accuracy": 93.5}}})[:-9])
    with pytest.raises(ModelFileError, match="truncated JSON"):
        read_darts(path)


def test_published_darts() -> None:
    genotypes = read_darts(published("darts/darts_725.json"))
    assert len(genotypes) == 725
    assert genotypes[0].accuracy == pytest.approx(93.32119084)
    assert names(genotypes[0].normal)[2:4] == ["max_pool_3x3", "dil_conv_3x3"]
    for genotype in genotypes[:50]:
        CellTokenizer(DARTS).encode(genotype.reduction)
