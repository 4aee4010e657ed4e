"""Devices that latency is measured on: one TOML file each, in this folder or the user's own."""

from __future__ import annotations

import difflib
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tvm_costmodel.bounded_reading import read_small, require_types
from tvm_costmodel.compilers.registry import COMPILERS, DEFAULT_COMPILER
from tvm_costmodel.errors import ConfigError, DeviceError, require_known
from tvm_costmodel.processor import identity, is_microarchitecture, microarchitecture

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
MAX_THREADS = 4096
_MAX_FILE_BYTES = 1 << 20
INSTRUCTION_SET_NAMES = ("cpu-x86-avx512", "cpu-x86-avx2", "cpu-arm64", "cpu-generic")
"""What this machine was called before devices were named by processor: older files hold these."""
_OTHER_COMPILERS = tuple(name for name in COMPILERS if name != DEFAULT_COMPILER)
_COMPILER = re.compile(r"([\w.]+-)*(g\+\+|gcc|c\+\+|cc|clang|clang\+\+)(-[\d.]+)?")
_PROCESSOR = re.compile(
    "cpu-(?P<processor>(?P<vendor>amd|intel|hygon|arm)-[a-z0-9-]+?)"
    rf"(?P<use>(-rpc)?(-[0-9]+t)?(-({'|'.join(_OTHER_COMPILERS)}))?)"
)


@dataclass(frozen=True)
class Device:
    """A machine or board that networks are timed on. Labels are stored under its name."""

    name: str
    description: str = ""
    runner: str = "local"
    """``local`` (this machine) or ``rpc`` (through a TVM RPC tracker)."""
    target: Mapping[str, Any] = field(default_factory=lambda: {"kind": "llvm", "mcpu": "host"})
    """TVM target; ``mcpu = "host"`` stands for this machine's processor."""
    threads: int = 1
    tracker: str = ""
    """``host:port`` of the tracker."""
    key: str = ""
    """Name that the board registered under at the tracker."""
    cross_compiler: str = ""
    """C++ compiler that links for the board; empty lets the board's RPC server link."""
    session_timeout_s: int = 120

    def __post_init__(self) -> None:
        if self.runner not in ("local", "rpc"):
            raise ConfigError(f"device {self.name}: runner {self.runner!r} is not local or rpc")
        if not self.name.strip() or len(self.name) > 100 or not self.name.isprintable():
            raise ConfigError(f"device {self.name[:100]!r}: its name must be 1 to 100 letters")
        if not 1 <= self.threads <= MAX_THREADS:
            raise ConfigError(
                f"device {self.name}: threads={self.threads} must be 1 or more, and at most "
                f"{MAX_THREADS}"
            )
        if not 1 <= self.session_timeout_s <= 86_400:
            raise ConfigError(
                f"device {self.name}: session_timeout_s={self.session_timeout_s} must be 1 to 86400"
            )

    def with_threads(self, threads: int) -> Device:
        """The same device with another thread count, under a name of its own."""
        if threads == self.threads:
            return self
        return replace(self, name=f"{self.name}-{threads}t", threads=threads)

    def with_tracker(self, tracker: str, key: str | None = None) -> Device:
        """The same device behind a given tracker; a local one becomes ``NAME-rpc``."""
        name = f"{self.name}-rpc" if self.runner == "local" else self.name
        return replace(self, name=name, runner="rpc", tracker=tracker, key=key or self.key)

    def with_compiler(self, compiler: str) -> Device:
        """The same device for another compiler, whose labels are no labels of the usual one."""
        if compiler == DEFAULT_COMPILER or self.name.endswith(f"-{compiler}"):
            return self
        return replace(self, name=f"{self.name}-{compiler}")

    def to_dict(self) -> dict[str, Any]:
        """The device as JSON values."""
        record = {f.name: getattr(self, f.name) for f in fields(self)}
        return record | {"target": dict(self.target)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], origin: str = "device") -> Device:
        """Makes a device from TOML or JSON values.

        Raises:
            ConfigError: An unknown key; the message names the nearest valid one.
        """
        require_known(record, [f.name for f in fields(cls)], origin)
        try:
            require_types(record, _TYPES)
            _require_plain(record.get("target", {}))
        except ValueError as error:
            raise ConfigError(f"{origin}: {error}") from None
        return cls(**record)


_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "description": str,
    "runner": str,
    "target": Mapping,
    "threads": int,
    "tracker": str,
    "key": str,
    "cross_compiler": str,
    "session_timeout_s": int,
}


def _require_plain(target: Mapping[str, Any]) -> None:
    """Raises ValueError unless a target holds text, numbers and lists of text alone."""
    for key, value in target.items():
        if key == "cl-opt":
            raise ValueError("target.cl-opt is LLVM's own command line, which is not taken")
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int) for item in items):
            raise ValueError(f"target.{key} is {str(value)[:60]}, not text, a number or a list")


def list_devices() -> tuple[Device, ...]:
    """Every device that ships with the package, by name."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.toml")))


def resolve_device(name: str = "cpu") -> Device:
    """The device of a name or TOML file.

    Args:
        name: A shipped device, the path of a ``.toml`` file, ``cpu`` for this machine, or a
            processor by the name that it has there (``cpu-intel-emeraldrapids``).

    Raises:
        DeviceError: There is no such device; the message lists the known ones and the nearest.
        ConfigError: The TOML file is malformed.
    """
    if name == "cpu":
        return this_machine()
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise DeviceError(f"device file {name} does not exist")
        return _read(path)
    known = {device.name: device for device in list_devices()}
    if name in known:
        return known[name]
    base, _, suffix = name.rpartition("-")
    if suffix in _OTHER_COMPILERS:
        return resolve_device(base).with_compiler(suffix)
    if base and re.fullmatch("[1-9][0-9]*t", suffix):
        return resolve_device(base).with_threads(int(suffix[:-1]))
    if name in INSTRUCTION_SET_NAMES:
        raise DeviceError(
            f"device {name!r} named an instruction set; devices are named by processor now: give "
            f"cpu for this machine's ({this_machine().name}), or {_shipped_processors()}"
        )
    if name.startswith("cpu-") and is_microarchitecture(name.removeprefix("cpu-")):
        return _processor_device(name)
    near = difflib.get_close_matches(name, ["cpu", *known], 1, 0.4)
    hint = f"; the nearest is {near[0]!r}" if near else ""
    raise DeviceError(
        f"unknown device {name!r}{hint}; known: cpu, {', '.join(known)}, or the path of a .toml "
        "file (`tvm-costmodel devices` describes them)"
    )


def without_compiler(name: str) -> str:
    """The name under which labels of the default compiler are kept for the same device."""
    base, _, suffix = name.rpartition("-")
    return base if suffix in _OTHER_COMPILERS else name


def choose_device(
    name: str = "cpu",
    tracker: str | None = None,
    key: str | None = None,
    threads: int | None = None,
) -> Device:
    """The device that command-line options name.

    Args:
        name: As for :func:`resolve_device`.
        tracker: ``host:port`` of the RPC tracker that the board registered at.
        key: The board's key; where it is a shipped device's name and ``name`` is ``cpu``, that
            device is meant.
        threads: Threads that a network may use.

    Raises:
        DeviceError: There is no such device.
        ConfigError: A key without a tracker.
    """
    if key and name == "cpu" and key in {device.name for device in list_devices()}:
        name = key
    device = resolve_device(name)
    if tracker:
        device = device.with_tracker(tracker, key)
    elif key:
        raise ConfigError(f"key {key!r} needs the tracker it is registered at: --tracker HOST:PORT")
    return device.with_threads(threads) if threads else device


def this_machine() -> Device:
    """This machine's processor, one thread."""
    name = machine_name(identity()) or f"cpu-{platform.machine().lower()}"
    return next((d for d in list_devices() if d.name == name), _processor_device(name))


def machine_name(cpu: Mapping[str, str]) -> str | None:
    """The device's name of a processor, ``cpu-amd-zen5``; None where nothing identifies it.

    Args:
        cpu: Fields as in a label's environment, see `tvm_costmodel.processor.identity`.
    """
    name = microarchitecture(cpu)
    return name and f"cpu-{name}"


def name_by_processor(device: str, cpu: Mapping[str, str]) -> str:
    """The name of a label's device, where an older version named it by instruction set.

    Args:
        device: Name that the label holds.
        cpu: The processor that the label is of.
    """
    base = next((n for n in INSTRUCTION_SET_NAMES if device == n or device.startswith(f"{n}-")), "")
    name = machine_name(cpu) if base else None
    return device if name is None else name + device[len(base) :]


def is_other_processor(name: str, learned: str) -> bool:
    """Whether two devices are different processors of one architecture, used alike.

    Used alike: with as many threads, the same compiler, and both here or both over RPC.
    """
    one, other = _PROCESSOR.fullmatch(name), _PROCESSOR.fullmatch(learned)
    if one is None or other is None or name == learned:
        return False
    is_arm = [match["vendor"] == "arm" for match in (one, other)]
    return is_arm[0] == is_arm[1] and one["use"] == other["use"]


def require_own_processor(device: Device) -> None:
    """Refuses to build for this machine under the name of another processor.

    Raises:
        DeviceError: The device is a processor, and not this machine's.
    """
    here = this_machine().name
    named = _PROCESSOR.fullmatch(device.name)
    if device.runner == "local" and named and f"cpu-{named['processor']}" != here:
        raise DeviceError(
            f"{device.name} is not this machine's processor ({here}), and what is measured here is "
            f"no label of it: give --device cpu, or measure on that machine"
        )


def _processor_device(name: str) -> Device:
    return Device(name, f"{name.removeprefix('cpu-')} processor, one thread")


def _shipped_processors() -> str:
    return ", ".join(device.name for device in list_devices() if device.runner == "local")


def _read(path: Path) -> Device:
    try:
        record = tomllib.loads(read_small(path, _MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"device file {path}: {str(error)[:200]}") from error
    record.pop("match", None)  # what older versions chose this machine's device by
    device = Device.from_dict({"name": path.stem} | record, origin=f"device file {path}")
    if device.cross_compiler and not _COMPILER.fullmatch(device.cross_compiler):
        raise ConfigError(
            f"device file {path}: cross_compiler {device.cross_compiler[:60]!r} would be run, and "
            "is not the bare name of a C++ compiler such as aarch64-linux-gnu-g++; put its folder "
            "on PATH"
        )
    return device
