from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.published import published
from tvm_costmodel.datasets.nasbench201 import read_nasbench201
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cells import nasbench201_cell

ARCH = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"
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


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_nasbench201(tmp_path / "nowhere.csv")
    packed = tmp_path / "cells.csv.gz"
    packed.write_bytes(gzip.compress(b"idx,arch_str\n" * 99)[:-9])
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        read_nasbench201(packed)


def test_published_nasbench201() -> None:
    cells = read_nasbench201(published("nasbench201/nasbench201.csv.gz"))
    assert len(cells) == 15625 and len({cell.graph.hash for cell in cells[:500]}) == 500
    first = cells[0]
    assert (
        first.accuracy["cifar10"] == 81.9 and first.accuracy["ImageNet16-120"] == 25.766666615804038
    )
    assert len(first.latency_s) == 23
    assert first.latency_s["1080ti_1"] == pytest.approx(10.75437068939209e-3)
