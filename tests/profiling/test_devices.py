"""Device files: every shipped one loads, and unknown names get an answer that helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_costmodel.errors import ConfigError, DeviceError
from tvm_costmodel.profiling.devices import (
    FOLDER,
    Device,
    choose_device,
    list_devices,
    resolve_device,
)


def test_every_shipped_device_loads() -> None:
    devices = list_devices()
    assert len(devices) == len(list(FOLDER.glob("*.toml"))) == 6
    assert [d.name for d in devices] == [p.stem for p in sorted(FOLDER.glob("*.toml"))]
    for device in devices:
        assert device.description and device.target["kind"] == "llvm"
        assert device.runner == "local" or device.key
        assert Device.from_dict(device.to_dict()) == device


def test_cpu_is_this_machine() -> None:
    device = resolve_device("cpu")
    assert device.runner == "local" and device in list_devices()


def test_unknown_device_names_the_nearest_and_all() -> None:
    with pytest.raises(DeviceError, match="unknown device 'rpi5'; the nearest is 'rpi4'") as caught:
        resolve_device("rpi5")
    assert all(device.name in str(caught.value) for device in list_devices())


def test_threads_change_the_name() -> None:
    device = resolve_device("cpu-x86-avx2").with_threads(4)
    assert (device.name, device.threads) == ("cpu-x86-avx2-4t", 4)
    assert resolve_device("cpu-x86-avx2-4t") == device


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
