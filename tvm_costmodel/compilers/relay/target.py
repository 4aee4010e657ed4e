"""Targets for Relay builds, and libraries that were built for one."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import tvm

from tvm_costmodel.errors import DeviceError, MeasurementError

_X86_PROCESSORS = (
    ("cascadelake", ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni")),
    ("skylake-avx512", ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")),
    ("haswell", ("avx2", "fma", "bmi2")),
)
"""LLVM's names of processors with these features, best first. Older LLVMs know no newer ones."""

_ELF_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_SAME = {"amd64": "x86_64", "arm64": "aarch64"}


def cpu_target(threads: int = 1, mcpu: str | None = None) -> tvm.target.Target:
    """Makes the TVM target for this machine's kind of CPU.

    Args:
        threads: Cores that a network may use.
        mcpu: LLVM's name of the processor; by default the best that LLVM knows for this machine's
            features.

    Raises:
        DeviceError: TVM was built without LLVM, or without code for this machine; LLVM does not
            know the processor; or ``threads`` is not positive.
    """
    if threads < 1:
        raise DeviceError(f"threads is {threads}; use 1 or more")
    require_llvm(machine())
    triple = f"{machine()}-unknown-linux-gnu"
    name = mcpu or host_processor()
    known = tvm.target.codegen.llvm_get_cpu_archlist(
        tvm.target.Target({"kind": "llvm", "mtriple": triple})
    )
    if name not in [str(entry) for entry in known]:
        raise DeviceError(
            f"LLVM {tvm.target.codegen.llvm_version_major()} does not know the processor {name!r} "
            f"for {triple}; this machine's is {host_processor()!r}"
        )
    return tvm.target.Target(
        {"kind": "llvm", "mtriple": triple, "mcpu": name, "num-cores": threads}
    )


def machine() -> str:
    """This machine's architecture by LLVM's name, such as ``x86_64``."""
    name = platform.machine().lower()
    return _SAME.get(name, name)


def host_processor() -> str:
    """LLVM's name of the best processor whose features this machine has."""
    features = _features()
    if machine() != "x86_64":
        return "generic"
    fitting = (name for name, wants in _X86_PROCESSORS if features.issuperset(wants))
    return next(fitting, "x86-64")


def require_llvm(architecture: str) -> None:
    """Refuses a TVM that cannot make code for an architecture.

    Raises:
        DeviceError: It was built without LLVM, or its LLVM has no such target.
    """
    remedy = "install one that has it: pip install hhb-tvm==3.2.3 (Python 3.10)"
    if not tvm.runtime.enabled("llvm"):
        raise DeviceError(f"this TVM ({tvm.__version__}) was built without LLVM; {remedy}")
    targets = [str(name) for name in tvm.target.codegen.llvm_get_targets()]
    if architecture not in targets:
        raise DeviceError(
            f"this TVM's LLVM makes no code for {architecture}; it has {', '.join(targets)}; "
            f"{remedy}"
        )


def require_runnable_here(target: tvm.target.Target) -> None:
    """Refuses a target whose code this machine cannot run.

    Raises:
        DeviceError: Its triple is that of another architecture.
    """
    triple = str(target.attrs.get("mtriple", "")) if target.attrs else ""
    built = _SAME.get(triple.split("-")[0], triple.split("-")[0])
    if built and built != machine():
        raise DeviceError(
            f"the target {triple} is no {machine()}, which this machine is: measure on a board of "
            "that kind with --tracker HOST:PORT --key KEY"
        )


def load_library(path: str | os.PathLike[str]) -> Any:
    """Loads a library that a build exported.

    Args:
        path: A ``.so`` file.

    Raises:
        MeasurementError: It was built for another architecture, or cannot be loaded.
    """
    label = os.fspath(path)
    built = library_architecture(path)
    if built not in ("", machine()):
        raise MeasurementError(
            f"{label} was built for {built}, and this machine is {machine()}: build it with "
            "cpu_target() here, or run it on its board over RPC"
        )
    try:
        return tvm.runtime.load_module(label)
    except Exception as error:  # TVM raises many kinds, with no common root
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise MeasurementError(f"{label} cannot be loaded: {last[:300]}; build it again") from error


def library_architecture(path: str | os.PathLike[str]) -> str:
    """Architecture that an ELF library was built for; empty where its header is no ELF header.

    Raises:
        MeasurementError: There is no such file.
    """
    try:
        with Path(path).open("rb") as stream:
            head = stream.read(20)
    except OSError as error:
        raise MeasurementError(f"{os.fspath(path)}: {error.strerror}; check the path") from error
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return ""
    number = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    return _ELF_MACHINES.get(number, f"ELF machine {number}")


def _features() -> frozenset[str]:
    """Flags of the first processor in /proc/cpuinfo; empty where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        label, _, value = line.partition(":")
        if label.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()
