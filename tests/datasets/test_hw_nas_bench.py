from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from tvm_costmodel.datasets.hw_nas_bench import DEVICES, read_hw_nas_bench
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cells import nasbench201_cell

ARCH = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_3x3~0|none~1|skip_connect~2|"


def content(**changes: Any) -> dict[str, Any]:
    """Two architectures, as the published pickle holds them."""
    columns: dict[str, Any] = {f"{device}_latency": [2.0, 3.0] for device in DEVICES}
    columns |= {f"{device}_energy": [10.0, 20.0] for device in ("edgegpu", "eyeriss", "fpga")}
    columns["eyeriss_arithmetic_intensity"] = [4.0, 5.0]
    columns["config"] = [{"arch_str": ARCH}, {"arch_str": ARCH.replace("none", "nor_conv_1x1")}]
    return {"nasbench201": {"cifar10": columns | changes}, "fbnet": {}}


def written(folder: Path, value: Any) -> Path:
    path = folder / "HW-NAS-Bench-v1_0.json"
    path.write_text(json.dumps(value))
    return path


def test_milliseconds_and_millijoules_become_si_units(tmp_path: Path) -> None:
    cells = read_hw_nas_bench(written(tmp_path, content(raspi4_latency=[5.5, None])))
    assert [cell.index for cell in cells] == [0, 1]
    assert cells[0].graph.hash == nasbench201_cell(ARCH).hash
    assert cells[0].latency_s["raspi4"] == 5.5e-3 and set(cells[0].latency_s) == set(DEVICES)
    assert "raspi4" not in cells[1].latency_s
    assert dict(cells[1].energy_j) == {"edgegpu": 0.02, "eyeriss": 0.02, "fpga": 0.02}
    packed = tmp_path / "a.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(content()).encode()))
    (first, _) = read_hw_nas_bench(packed, devices=["fpga"])
    assert dict(first.latency_s) == {"fpga": 2e-3}


def test_numbered_architectures_are_read_in_order(tmp_path: Path) -> None:
    archs = {"10": {"arch_str": ARCH}, "9": {"arch_str": ARCH.replace("none", "nor_conv_1x1")}}
    cells = read_hw_nas_bench(written(tmp_path, content(config=archs)))
    assert cells[1].graph.hash == nasbench201_cell(ARCH).hash


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_the_pickle_is_refused_with_the_command_that_converts_it(
    tmp_path: Path, protocol: int
) -> None:
    path = tmp_path / "HW-NAS-Bench-v1_0.pickle"
    path.write_bytes(pickle.dumps(content(), protocol=protocol))
    with pytest.raises(ModelFileError, match=r"a pickle, which .*json.dump.* > HW-NAS-Bench"):
        read_hw_nas_bench(path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "nothing under nasbench201"),
        ([], "nothing under nasbench201"),
        ({"nasbench201": {"svhn": {}}}, "no data set 'cifar10'; the file has svhn"),
        (content(config=None), "no list of architectures"),
        (content(config=[1, 2]), "without arch_str"),
        (content(config=[{"arch_str": "|magic~0|"}] * 2), "cell 0: .* no NAS-Bench-201 cell"),
        (content(fpga_latency=[1.0]), "2 architectures and 1 values of fpga_latency"),
        (content(fpga_latency=[1.0, 0.0]), "cell 1, fpga_latency is 0.0: labels are positive"),
        (content(fpga_energy=[-1.0, 1.0]), "cell 0, fpga_energy is -1.0"),
        (content(fpga_latency=[float("nan"), 1.0]), "fpga_latency is nan"),
        (content(fpga_latency=["fast", 1.0]), "fpga_latency is 'fast'"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        read_hw_nas_bench(written(tmp_path, value))
    assert "\n" not in str(caught.value)


def test_missing_devices_and_truncated_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, content())
    with pytest.raises(ModelFileError, match="no latency of tpu"):
        read_hw_nas_bench(path, devices=["fpga", "tpu"])
    path.write_text(path.read_text()[:-9])
    with pytest.raises(ModelFileError, match="truncated JSON"):
        read_hw_nas_bench(path)
    with pytest.raises(ModelFileError, match="cannot be read"):
        read_hw_nas_bench(tmp_path / "nowhere.json")
