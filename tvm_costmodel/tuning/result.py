"""The result of a tuning: the module that won, the report, and both as files."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.compilers.registry import DEFAULT_COMPILER, known_compiler
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.devices.targets import make_target
from tvm_costmodel.tuning.report import TuneReport
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.standalone import has_programs, requirements, write_programs
from tvm_costmodel.tuning.task import TuneTask

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.compiler import Build, BuildConfig, TensorSpec

REPORT, CANDIDATE = "report.json", "candidate.json"


@dataclass(frozen=True)
class TuneResult:
    """The result of a tuning.

    Attributes:
        report: What was measured, and why the winner won.
        candidate: The winner; the empty candidate where the default won.
        config: The winner as the compiler's configuration.
        task: The network.
        device: The device that it was tuned for.
        built: Folder of the library as the measuring worker built it, removed together with this
            object; None where this program has to compile it: after an interrupt, and where the
            decisions are those of an earlier tuning.
        inputs: Shape and dtype of each input of the library in ``built``.
    """

    report: TuneReport
    candidate: Candidate
    config: BuildConfig
    task: TuneTask
    device: Device
    built: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False, compare=False)
    inputs: Sequence[TensorSpec] = field(default=(), repr=False, compare=False)

    @cached_property
    def build(self) -> Build:
        """The tuned network, compiled in this program.

        Raises:
            BuildError: A stage of the build failed.
            ModelFileError: The model's file cannot be read, or holds another network now.
        """
        compiler = known_compiler(self.task.compiler)
        target = make_target(self.device, compiler)
        return compiler.build(self.task.module(self.report.graph_hash), target, self.config)

    @cached_property
    def module(self) -> Any:
        """The tuned network: an executable for ``tvm.relax.VirtualMachine``.

        Of Relay, a factory for ``graph_executor.GraphModule(module["default"](device))``.
        """
        runs_here = self.device.runner == "local" and self.task.compiler == DEFAULT_COMPILER
        if self.built is None or not runs_here:
            return self.build.executable
        from tvm_costmodel.compilers.relax.built_library import BuiltLibrary

        return BuiltLibrary(self.artifact(self.built.name), lambda: self.build.executable)

    def artifact(self, directory: str | os.PathLike[str]) -> Path:
        """Where `export` puts the library."""
        return Path(directory) / ("model.so" if is_linked(self.device) else "model.tar")

    def export(self, directory: str | os.PathLike[str]) -> Path:
        """Writes library, ``candidate.json``, ``report.json`` and, of Relax, what runs the library.

        Each file is whole or absent, and the report is there only together with the library that
        it describes. A directory that holds this very result is left as it is.

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
        if self.built is not None:
            library = self.artifact(self.built.name).read_bytes()
        else:
            with tempfile.TemporaryDirectory() as scratch:  # LLVM ends the program on a full disk
                path = Path(scratch) / artifact.name
                library = self.build.export(path, self.device.cross_compiler).read_bytes()
        (folder / REPORT).unlink(missing_ok=True)
        write_atomically(artifact, library)
        if self._runs_alone:
            write_programs(folder, self._requirements())
        write_atomically(folder / CANDIDATE, self.candidate.to_json() + "\n")
        record = {
            **self.report.to_dict(),
            "artifact": artifact.name,
            "artifact_sha256": _digest(library),
        }
        record["pipeline"] = {"key": self.config.key, "config": self.config.to_dict()}
        write_atomically(folder / REPORT, json.dumps(record, indent=1) + "\n")
        return artifact

    @property
    def _runs_alone(self) -> bool:
        """Whether TVM's runtime alone can run the library."""
        return self.task.compiler == DEFAULT_COMPILER and is_linked(self.device)

    def _requirements(self) -> dict[str, Any]:
        compiler, inputs = known_compiler(self.task.compiler), self.inputs
        if self.built is None:
            inputs = compiler.input_specs(self.task.module(self.report.graph_hash))
        return requirements(make_target(self.device, compiler), inputs)

    def _is_in(self, folder: Path) -> bool:
        """Whether a directory holds this result's library already."""
        if not self.report.stored or (self._runs_alone and not has_programs(folder)):
            return False
        try:
            record: Any = json.loads((folder / REPORT).read_text())
            same = bool(
                record["graph_hash"] == self.report.graph_hash
                and record["device"] == self.report.device
                and record["pipeline"]["key"] == self.config.key
            )
            return same and record["artifact_sha256"] == _digest(
                (folder / record["artifact"]).read_bytes()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False


def is_linked(device: Device) -> bool:
    """Whether libraries for a device are linked; others are archives of object files."""
    return device.runner == "local" or bool(device.cross_compiler)


def device_target(device: Device, compiler: str = DEFAULT_COMPILER) -> tvm.target.Target:
    """TVM's target for a device, as a compiler of this package builds for it.

    Raises:
        DeviceError: TVM has no LLVM, or none that makes code for this machine.
    """
    return make_target(device, known_compiler(compiler))


def device_of_target(device: Device, target: Any, compiler: str = DEFAULT_COMPILER) -> Device:
    """The device with as many threads as a target has cores.

    Args:
        device: The device to tune for.
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
        requested, known = (target.attrs.get(name) for target in (wanted, own))
        both = requested is not None and known is not None
        differs = both and str(requested) != str(known)
        if differs or wanted.kind.name != own.kind.name:
            raise ConfigError(
                f"the target {wanted} is not that of device {device.name}, which is {own}; leave "
                "it out, or describe its device in a .toml file and give that as device"
            )
    return device


def _digest(library: bytes) -> str:
    return hashlib.sha256(library).hexdigest()
