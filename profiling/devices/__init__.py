"""Devices that latency is measured on: one TOML file each, in this folder or the user's own."""

from __future__ import annotations

import difflib
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from tvm_costmodel.bounded_reading import read_small, require_types
from tvm_costmodel.compilers.registry import COMPILERS, DEFAULT_COMPILER
from tvm_costmodel.errors import ConfigError, DeviceError, require_known

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent
MAX_THREADS = 4096
_MAX_FILE_BYTES = 1 << 20
_OTHER_COMPILERS = tuple(name for name in COMPILERS if name != DEFAULT_COMPILER)


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
    match: Mapping[str, Any] = field(default_factory=dict)
    """Which machines ``cpu`` means: ``machine`` names and processor ``features``."""

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
        return record | {"target": dict(self.target), "match": dict(self.match)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], origin: str = "device") -> Device:
        """Makes a device from TOML or JSON values.

        Raises:
            ConfigError: An unknown key; the message names the nearest valid one.
        """
        require_known(record, [f.name for f in fields(cls)], origin)
        try:
            require_types(record, _TYPES)
            for table in ("target", "match"):
                _require_plain(record.get(table, {}), table)
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
    "match": Mapping,
}


def _require_plain(table: Mapping[str, Any], name: str) -> None:
    """Raises ValueError unless a table holds text, numbers and lists of text alone."""
    for key, value in table.items():
        items = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(item, str | int) for item in items):
            raise ValueError(f"{name}.{key} is {str(value)[:60]}, not text, a number or a list")
    for key in ("machine", "features") if name == "match" else ():
        if not isinstance(table.get(key, []), list | tuple):
            raise ValueError(f"match.{key} is {str(table[key])[:60]}, not a list")


def list_devices() -> tuple[Device, ...]:
    """Every device that ships with the package, by name."""
    return tuple(_read(path) for path in sorted(FOLDER.glob("*.toml")))


def resolve_device(name: str = "cpu") -> Device:
    """The device of a name or TOML file.

    Args:
        name: A shipped device, the path of a ``.toml`` file, or ``cpu`` for this machine.

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
    if base in known and suffix.endswith("t") and suffix[:-1].isdigit():
        return known[base].with_threads(int(suffix[:-1]))
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
    """The most specific local device that fits this machine's processor."""
    machine, features = platform.machine().lower(), _processor_features()
    fitting = [
        device
        for device in list_devices()
        if device.runner == "local"
        and (not device.match.get("machine") or machine in device.match["machine"])
        and set(device.match.get("features", ())) <= features
    ]
    return max(fitting, key=lambda d: (bool(d.match.get("machine")), "avx512f" in _wants(d)))


def _wants(device: Device) -> set[str]:
    return set(device.match.get("features", ()))


def _processor_features() -> set[str]:
    """Flags of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    for line in text.splitlines():
        label, _, value = line.partition(":")
        if label.strip().lower() in ("flags", "features"):
            return set(value.split())
    return set()


def _read(path: Path) -> Device:
    try:
        record = tomllib.loads(read_small(path, _MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"device file {path}: {str(error)[:200]}") from error
    return Device.from_dict({"name": path.stem} | record, origin=f"device file {path}")
