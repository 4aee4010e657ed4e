"""Device files: every shipped one loads, and unknown names get an answer that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_costmodel.errors import ConfigError, DeviceError
from tvm_costmodel.processor import identity
from tvm_costmodel.profiling.devices import (
    FOLDER,
    Device,
    choose_device,
    is_other_processor,
    list_devices,
    machine_name,
    name_by_processor,
    require_own_processor,
    resolve_device,
)


def test_every_shipped_device_loads() -> None:
    devices = list_devices()
    assert len(devices) == len(list(FOLDER.glob("*.toml"))) == 3
    assert [d.name for d in devices] == [p.stem for p in sorted(FOLDER.glob("*.toml"))]
    for device in devices:
        assert device.description and device.target["kind"] == "llvm"
        assert device.runner == "local" or device.key
        assert Device.from_dict(device.to_dict()) == device


def test_cpu_is_this_machine() -> None:
    device = resolve_device("cpu")
    assert device.runner == "local" and device.target["mcpu"] == "host"
    assert device.name == machine_name(identity()) and resolve_device(device.name) == device


def test_unknown_device_names_the_nearest_and_all() -> None:
    with pytest.raises(DeviceError, match="unknown device 'rpi5'; the nearest is 'rpi4'") as caught:
        resolve_device("rpi5")
    assert all(device.name in str(caught.value) for device in list_devices())


def test_threads_change_the_name() -> None:
    device = resolve_device("cpu-amd-zen4").with_threads(4)
    assert (device.name, device.threads) == ("cpu-amd-zen4-4t", 4)
    assert resolve_device("cpu-amd-zen4-4t") == device


ZEN_5 = {"vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2"}
EMERALD_RAPIDS = {"vendor_id": "GenuineIntel", "cpu family": "6", "model": "207"}


@pytest.mark.parametrize(
    ("cpu", "name"),
    [
        (ZEN_5, "cpu-amd-zen5"),
        (EMERALD_RAPIDS, "cpu-intel-emeraldrapids"),
        (ZEN_5 | {"cpu family": "25", "model": "1"}, "cpu-amd-zen3"),
        (ZEN_5 | {"cpu family": "25", "model": "97"}, "cpu-amd-zen4"),
        (EMERALD_RAPIDS | {"model": "250"}, "cpu-intel-f6m250"),
        ({"CPU implementer": "0x41", "CPU part": "0xd0c"}, "cpu-arm-neoverse-n1"),
        ({"CPU implementer": "0x61", "CPU part": "0x022"}, "cpu-arm-i61p22"),
        ({"model name": "AMD EPYC"}, None),
    ],
)
def test_a_device_is_named_by_its_processor(cpu: dict[str, str], name: str | None) -> None:
    assert machine_name(cpu) == name
    if name is not None:
        assert name_by_processor("cpu-x86-avx512-2t-relay", cpu) == f"{name}-2t-relay"
        assert resolve_device(name).name == name
    assert name_by_processor("rpi4", cpu) == "rpi4"


def test_names_of_instruction_sets_lead_to_the_processor() -> None:
    here = resolve_device("cpu").name
    for old in ("cpu-x86-avx512", "cpu-x86-avx2-2t", "cpu-generic-relay"):
        with pytest.raises(DeviceError, match="named by processor now: give cpu") as caught:
            resolve_device(old)
        assert here in str(caught.value) and "cpu-amd-zen5" in str(caught.value)


def test_another_processor_is_not_measured_here() -> None:
    here, other = resolve_device("cpu"), "cpu-intel-f6m250"
    for device in (here, here.with_threads(2), here.with_compiler("relay")):
        require_own_processor(device)
    require_own_processor(resolve_device(other).with_tracker("host:9190"))
    for name in (other, f"{here.name}-server"):
        with pytest.raises(DeviceError, match=f"{name} is not this machine's processor"):
            require_own_processor(Device(name))


@pytest.mark.parametrize(
    ("learned", "other"),
    [
        ("cpu-amd-zen5", True),
        ("cpu-intel-icelake-server", False),
        ("cpu-intel-skylake-server", True),
        ("cpu-amd-zen5-2t", False),
        ("cpu-amd-zen5-relay", False),
        ("cpu-arm-neoverse-n1", False),
        ("rpi4", False),
    ],
)
def test_which_predictors_are_of_another_processor(learned: str, other: bool) -> None:
    assert is_other_processor("cpu-intel-icelake-server", learned) == other
    assert not is_other_processor("my-board", learned)


def test_own_device_file(tmp_path: Path) -> None:
    path = tmp_path / "my-board.toml"
    path.write_text('runner = "rpc"\nkey = "mine"\n[target]\nkind = "llvm"\nmcpu = "cortex-a55"\n')
    device = resolve_device(str(path))
    assert (device.name, device.key, device.target["mcpu"]) == ("my-board", "mine", "cortex-a55")
    with pytest.raises(DeviceError, match="does not exist"):
        resolve_device(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("treads = 2", "unknown key 'treads'; did you mean 'threads'"),
        ("threads = 0", "must be 1 or more"),
        ('runner = "ssh"', "'ssh' is not local or rpc"),
        ("runner = ", "device file"),
    ],
)
def test_bad_device_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        resolve_device(str(path))


def test_choosing_a_board_by_its_key() -> None:
    board = choose_device(tracker="host:9190", key="rpi4")
    assert (board.name, board.tracker, board.target["mcpu"]) == ("rpi4", "host:9190", "cortex-a72")
    loopback = choose_device(tracker="host:9190", key="mine")
    assert loopback.name == f"{resolve_device('cpu').name}-rpc" and loopback.runner == "rpc"
    with pytest.raises(ConfigError, match="--tracker HOST:PORT"):
        choose_device(key="mine")
