"""Facts about the machine and software that made a label.

Two labels can be compared only when these agree, so they are stored once and every row carries
their id. Facts that change from minute to minute (load, clock frequency) stay out of them.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from tvm_costmodel.processor import cpuinfo, identity, instruction_sets
from tvm_costmodel.profiling.measuring.record import content_key

_PACKAGES = ("apache-tvm", "apache-tvm-ffi", "numpy", "tvm-costmodel")
_CPU_FOLDER = Path("/sys/devices/system/cpu")


def machine_facts(cores: tuple[int, ...] = ()) -> dict[str, Any]:
    """Facts of this machine and Python; TVM is not imported.

    Args:
        cores: The cores that labels are taken on.
    """
    first = cores[0] if cores else 0
    return {
        "cpu": identity(),
        "instruction_sets": list(instruction_sets()),
        "cores": os.cpu_count() or 1,
        "label_cores": list(cores),
        "caches": _caches(first),
        "memory_mib": _memory_mib(),
        "governor": _read(_CPU_FOLDER / f"cpu{first}/cpufreq/scaling_governor"),
        "boost": _read(_CPU_FOLDER / "cpufreq/boost"),
        "smt": _read(_CPU_FOLDER / "smt/active"),
        "hypervisor": "hypervisor" in cpuinfo().get("flags", "").split(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def environment_id(facts: Mapping[str, Any]) -> str:
    """A content key of the facts, 32 hex characters."""
    return content_key(dict(facts))


def describe(facts: Mapping[str, Any]) -> str:
    """One line that describes the facts, for the head of a table."""
    cpu = facts.get("cpu", {})
    parts = [
        f"{cpu.get('model name', 'unknown processor')} "
        f"(family {cpu.get('cpu family', '?')}, model {cpu.get('model', '?')})",
        f"{facts.get('cores', '?')} cores",
    ]
    if facts.get("label_cores"):
        parts.append(f"labels on core {','.join(map(str, facts['label_cores']))}")
    parts += [f"Linux {facts.get('kernel', '?')}", f"Python {facts.get('python', '?')}"]
    parts += [f"{name} {version}" for name, version in facts.get("packages", {}).items() if version]
    if "llvm" in facts:
        parts.append(f"LLVM {facts['llvm']}")
    return ", ".join(parts)


def _caches(core: int) -> dict[str, str]:
    """Sizes such as ``{"L1 Data": "48K"}`` of one core."""
    sizes = {}
    for folder in sorted((_CPU_FOLDER / f"cpu{core}/cache").glob("index*")):
        level, kind, size = (_read(folder / name) for name in ("level", "type", "size"))
        if level and size:
            sizes[f"L{level} {kind}"] = size
    return sizes


def _memory_mib() -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    return 0


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
