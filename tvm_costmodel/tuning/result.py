"""What a tuning hands back: the module that won, why it did, and both as files."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.files import write_atomically
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.tuning.candidate import Candidate
from tvm_costmodel.tuning.report import TuneReport
from tvm_costmodel.tuning.subject import Subject

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.relax import BuildResult, PipelineConfig
    from tvm_costmodel.compilers.relay import BuildResult as RelayBuildResult
    from tvm_costmodel.compilers.relay_config import RelayConfig

REPORT, CANDIDATE = "report.json", "candidate.json"
COMPILERS = "tvm_costmodel.compilers"


@dataclass(frozen=True)
class TuneResult:
    """What a tuning decided.

    Attributes:
        report: What was done and why.
        candidate: What was decided; the empty candidate where the default won.
        config: The same as the compiler takes it.
        subject: The network.
        device: What it was tuned for.
    """

    report: TuneReport
    candidate: Candidate
    config: PipelineConfig | RelayConfig
    subject: Subject
    device: Device

    @cached_property
    def build(self) -> BuildResult | RelayBuildResult:
        """The decided network, compiled in this program.

        Raises:
            BuildError: A stage of the build failed.
        """
        compiler = self.subject.compiler
        target = device_target(self.device, compiler)
        built: BuildResult = front_door(compiler).build(self.subject.module, target, self.config)
        return built

    def compiled(self) -> TuneResult:
        """The same, compiled; the report tells how long that took.

        Raises:
            BuildError: A stage of the build failed.
        """
        start = time.monotonic()
        build = self.build
        took = round(time.monotonic() - start, 3)
        before = self.report.seconds
        seconds = {**before, "compile": took, "in all": round(before.get("in all", 0) + took, 3)}
        made = replace(self, report=replace(self.report, seconds=seconds))
        made.__dict__["build"] = build
        return made

    @property
    def module(self) -> Any:
        """The decided network: an executable for ``tvm.relax.VirtualMachine``.

        Of Relay, a factory for ``graph_executor.GraphModule(module["default"](device))``.
        """
        return self.build.executable

    def artifact(self, directory: str | os.PathLike[str]) -> Path:
        """Where `export` puts the library."""
        linked = self.device.runner == "local" or self.device.cross_compiler
        return Path(directory) / ("model.so" if linked else "model.tar")

    def export(self, directory: str | os.PathLike[str]) -> Path:
        """Writes library, ``candidate.json`` and ``report.json``.

        Each file is whole or absent, and the report is there only beside the library that it
        tells of. A directory that holds this very decision is left as it is.

        Args:
            directory: Where to; made when it is missing.

        Returns:
            The library: ``model.so``, or ``model.tar`` for a board without a cross compiler.

        Raises:
            BuildError: The library could not be built or written.
            OSError: The directory cannot be written or the disk is full.
        """
        folder, artifact = Path(directory), self.artifact(directory)
        if self._is_in(folder):
            return artifact
        with tempfile.TemporaryDirectory() as scratch:  # LLVM ends the program on a full disk
            made = self.build.export(Path(scratch) / artifact.name, self.device.cross_compiler)
            library = made.read_bytes()
        (folder / REPORT).unlink(missing_ok=True)
        write_atomically(artifact, library)
        write_atomically(folder / CANDIDATE, self.candidate.to_json() + "\n")
        told = {
            **self.report.to_dict(),
            "artifact": artifact.name,
            "artifact_sha256": _digest(library),
        }
        told["pipeline"] = {"key": self.config.key, "config": self.config.to_dict()}
        write_atomically(folder / REPORT, json.dumps(told, indent=1) + "\n")
        return artifact

    def _is_in(self, folder: Path) -> bool:
        """Whether a directory holds this decision's library already."""
        if not self.report.stored:
            return False
        try:
            told: Any = json.loads((folder / REPORT).read_text())
            same = (
                told["graph_hash"] == self.report.graph_hash
                and told["device"] == self.report.device
                and told["pipeline"]["key"] == self.config.key
            )
            return same and told["artifact_sha256"] == _digest(
                (folder / told["artifact"]).read_bytes()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False


def front_door(compiler: str) -> Any:
    """The module of a compiler: ``build``, ``cpu_target`` and what else they have in common."""
    return importlib.import_module(f"{COMPILERS}.{compiler}")


def device_target(device: Device, compiler: str = "relax") -> tvm.target.Target:
    """TVM's target for a device.

    Raises:
        DeviceError: TVM has no LLVM, or none that makes code for this machine.
    """
    import tvm

    if device.target.get("mcpu") == "host":
        target: tvm.target.Target = front_door(compiler).cpu_target(device.threads)
        return target
    return tvm.target.Target({**device.target, "num-cores": device.threads})


def device_of_target(device: Device, target: Any, compiler: str = "relax") -> Device:
    """The device with as many threads as a target has cores.

    Args:
        device: What to tune for.
        target: A TVM target, its JSON values or its text; None for the device's own.
        compiler: What compiles.

    Raises:
        ConfigError: The target is for another kind of processor than the device.
    """
    if target is None:
        return device
    import tvm

    wanted = target if isinstance(target, tvm.target.Target) else tvm.target.Target(target)
    device = device.with_threads(int(wanted.attrs.get("num-cores", device.threads)))
    own = device_target(device, compiler)
    for name in ("mcpu", "mtriple"):
        asked, had = (target.attrs.get(name) for target in (wanted, own))
        differs = asked is not None and had is not None and str(asked) != str(had)
        if differs or wanted.kind.name != own.kind.name:
            raise ConfigError(
                f"the target {wanted} is not that of device {device.name}, which is {own}; leave "
                "it out, or describe its device in a .toml file and give that as device"
            )
    return device


def _digest(library: bytes) -> str:
    return hashlib.sha256(library).hexdigest()
