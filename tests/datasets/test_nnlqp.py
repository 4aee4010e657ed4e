from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.published import published
from tvm_costmodel.datasets.nnlqp import (
    NnlqpLabel,
    nasbench201_arch,
    read_nnlqp_cells,
    read_nnlqp_labels,
)
from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.nas.cells import nasbench201_cell

LINE = "00007 onnx/vgg16/a.onnx 8 2.5 vgg16 1 train"


def written(folder: Path, text: str) -> Path:
    path = folder / "gt.txt"
    path.write_text(text)
    return path


def test_labels_are_in_seconds(tmp_path: Path) -> None:
    (label,) = read_nnlqp_labels(written(tmp_path, f"{LINE}\n\n"))
    assert label == NnlqpLabel("00007", "onnx/vgg16/a.onnx", 8, 2.5e-3, "vgg16", 1, "train")
    packed = tmp_path / "gt.txt.gz"
    packed.write_bytes(gzip.compress(f"{LINE}\n".encode()))
    assert read_nnlqp_labels(packed) == [label]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no labels"),
        ("00007 onnx/vgg16/a.onnx 8 2.5 vgg16", "line 1: needs id, path, batch"),
        (f"{LINE}\n{LINE[:-8]}", "line 2: needs id"),
        (LINE.replace("train", "exam"), "needs id"),
        (LINE.replace("2.5", "-2.5"), "latency is '-2.5'"),
        (LINE.replace("2.5", "0"), "latency is '0'"),
        (LINE.replace("2.5", "nan"), "latency is 'nan'"),
        (LINE.replace("2.5", "fast"), "latency is 'fast'"),
        (LINE.replace(" 8 ", " 0 "), "batch '0'"),
    ],
)
def test_bad_labels_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_nnlqp_labels(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    packed = tmp_path / "gt.txt.gz"
    packed.write_bytes(gzip.compress(LINE.encode() * 9)[:-6])
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        read_nnlqp_labels(packed)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_nnlqp_labels(tmp_path / "nowhere.txt")


def test_numbers_in_base_5_name_the_cells() -> None:
    number = int("204131", 5)
    assert nasbench201_arch(number) == (
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|avg_pool_3x3~2|"
    )
    assert nasbench201_arch(0).count("none") == 6
    with pytest.raises(GraphError, match="0 to 15624"):
        nasbench201_arch(15625)


HEADER = "nnlqp_idx,nb201_api_idx,arch_str,latency_ms,stage,val_acc_cifar10"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no cells"),
        ("a,b\n1,2\n", "needs nnlqp_idx"),
        (f"{HEADER}\n1,2,{nasbench201_arch(1)},-1,train,90\n", "latency is '-1'"),
        (f"{HEADER}\n1,2,{nasbench201_arch(1)},0,train,90\n", "latency is '0'"),
        (f"{HEADER}\n1,2,{nasbench201_arch(1)},,train,90\n", "line 2: needs nnlqp_idx"),
        (f"{HEADER}\n1,2,{nasbench201_arch(1)},1,train,nan\n", "accuracy is 'nan'"),
        (f"{HEADER}\n1,2,{nasbench201_arch(1)},1,tra", "line 2"),
        (f"{HEADER}\n1,2,|none~0|,1,train,90\n", "no NAS-Bench-201 cell"),
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_nnlqp_cells(written(tmp_path, text))


def test_published_labels() -> None:
    labels = read_nnlqp_labels(published("nnlqp/gt_stage.txt.gz"))
    assert len(labels) == 20000 and sum(label.stage == "test" for label in labels) == 2000
    assert len({label.family for label in labels}) == 10
    assert labels[0].latency_s == pytest.approx(2.06137e-3)
    assert labels[0].path == "onnx/nnmeter_alexnet/nnmeter_alexnet_transform_0000.onnx"


def test_published_cells_are_those_of_the_labels() -> None:
    cells = read_nnlqp_cells(published("nnlqp/nasbench201_family.csv"))
    labels = {
        int(Path(label.path).stem.rpartition("_")[2]): label
        for label in read_nnlqp_labels(published("nnlqp/gt_stage.txt.gz"))
        if label.family == "nasbench201"
    }
    assert len(cells) == len(labels) == 2000
    for cell in cells[::40]:
        label = labels[cell.number]
        assert (label.stage, label.latency_s) == (cell.stage, pytest.approx(cell.latency_s))
        assert cell.graph.hash == nasbench201_cell(nasbench201_arch(cell.number)).hash
