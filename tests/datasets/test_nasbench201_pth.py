from __future__ import annotations

import bz2
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from tvm_costmodel.datasets.nasbench201_pth import read_nasbench201_pth
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cells import nasbench201_cell

ARCH = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"


def trial(accuracy: float, epochs: int = 200, latency: list[float] | None = None) -> dict[str, Any]:
    """One training, with the fields that the benchmark's ResultsCount keeps."""
    return {
        "name": "infer.tiny",
        "net_state_dict": None,
        "train_acc1es": {epochs - 1: 99.0},
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": ARCH},
        "params": 0.4,
        "flop": 50.0,
        "seed": 777,
        "epochs": epochs,
        "latency": latency,
        "eval_names": ["x-valid", "ori-test"],
        "eval_acc1es": {f"x-valid@{epochs - 1}": accuracy, f"ori-test@{epochs - 1}": 1.0},
    }


def architecture(accuracy: float = 90.0, **changes: Any) -> dict[str, Any]:
    """What the files hold per architecture: 12 epochs as ``less``, 200 as ``full``."""
    trials = OrderedDict()
    trials["cifar10-valid", 777] = trial(accuracy, latency=[0.014, 0.016])
    trials["cifar10-valid", 888] = trial(accuracy + 1.0)
    trials["cifar100", 777] = trial(70.0)
    trials["cifar10", 777] = trial(1.0)  # trained on the validation images too
    full = {"arch_index": 7, "arch_str": ARCH, "all_results": trials, "dataset_seed": {}}
    short = {("cifar10-valid", 777): trial(55.0, 12)}
    return {"less": full | {"all_results": short}, "full": full | changes}


def benchmark(**changes: Any) -> dict[str, Any]:
    infos = OrderedDict([(7, architecture(**changes))])
    return {"meta_archs": [ARCH], "arch2infos": infos, "evaluated_indexes": {7}}


def saved(folder: Path, content: Any, name: str = "bench.pth", zipped: bool = True) -> Path:
    path = folder / name
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [True, False])  # files of torch before 1.6 are not zipped
def test_both_forms_are_read(tmp_path: Path, zipped: bool) -> None:
    for content in (benchmark(), architecture()):
        (cell,) = read_nasbench201_pth(saved(tmp_path, content, zipped=zipped))
        assert cell.index == 7 and cell.graph.hash == nasbench201_cell(ARCH).hash
        assert dict(cell.accuracy) == {"cifar10": 90.5, "cifar100": 70.0}
        assert dict(cell.latency_s) == {"nasbench201_gpu_cifar10": pytest.approx(0.015)}
    (cell,) = read_nasbench201_pth(tmp_path / "bench.pth", epochs=12)
    assert dict(cell.accuracy) == {"cifar10": 55.0}


class Boom:
    """An object whose unpickling would run something."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('code of the file was run')",))


def test_what_needs_unpickling_is_refused_and_not_run(tmp_path: Path) -> None:
    path = saved(tmp_path, {"meta_archs": [], "arch2infos": {0: Boom()}})
    with pytest.raises(ModelFileError, match=r"objects of .*exec, which cannot .* python -c"):
        read_nasbench201_pth(path)
    packed = tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    packed.write_bytes(bz2.compress(pickle.dumps(Boom())))
    with pytest.raises(ModelFileError, match=r"bzipped pickle .* nats_bench .* > cells.csv"):
        read_nasbench201_pth(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "another version.* a list"),
        ({"state": 1}, "a dict of state"),
        ({"meta_archs": [], "arch2infos": {}}, "holds no cells"),
        ({"meta_archs": [], "arch2infos": []}, "arch2infos as a list"),
        ({"meta_archs": [], "arch2infos": {3: {"less": {}}}}, "no 'full' trials for .* 3"),
        (benchmark(accuracy=0.0), "cell 7, cifar10: final validation accuracy is 0.0"),
        (benchmark(accuracy=-2.0), "accuracy is -2.0"),
        (benchmark(accuracy=float("nan")), "accuracy is nan"),
        (benchmark(all_results={}), "cell 7: no validation accuracy"),
        (benchmark(all_results={("cifar10-valid", 1): {}}), "without epochs and eval_acc1es"),
        (benchmark(all_results={("cifar10-valid", 1): {"epochs": 2, "eval_acc1es": {}}}), "None"),
        (
            benchmark(all_results={("cifar100", 1): trial(9.0, latency=[0.0])}),
            "latency on cifar100 is 0.0",
        ),
        (benchmark(arch_str="|magic~0|"), "no NAS-Bench-201 cell"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_nasbench201_pth(saved(tmp_path, content))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_and_foreign_files_are_refused(tmp_path: Path, zipped: bool) -> None:
    path = saved(tmp_path, benchmark(), zipped=zipped)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        read_nasbench201_pth(path)
    path.write_bytes(b"idx,arch_str\n")
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        read_nasbench201_pth(path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_nasbench201_pth(tmp_path / "nowhere.pth")
    with pytest.raises(ModelFileError, match="12 or 200 epochs, not 90"):
        read_nasbench201_pth(path, epochs=90)
