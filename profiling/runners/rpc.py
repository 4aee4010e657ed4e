"""Timing on a board through TVM's RPC tracker, inside the worker.

Each network gets a session of its own, so that one which hangs or crashes the board's server costs
that session alone. The kernels travel as a second library, because the timing function of an RPC
module does not look into the modules that it imports. The worker builds; the sessions are in a
confined program (`board_session`), since whoever holds one can be called by the board.
"""

from __future__ import annotations

import base64
import binascii
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.compilers.build_stages import cross_linker, require_linker
from tvm_costmodel.errors import ConfigError, MeasurementError
from tvm_costmodel.isolation import clean_environment
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.runners.local import all_finite
from tvm_costmodel.profiling.runners.reference import build_reference
from tvm_costmodel.profiling.runners.runner import Sample, TensorSpec
from tvm_costmodel.profiling.worker.client import error_type
from tvm_costmodel.profiling.worker.pipe import Receiver, send


class RpcRunner:
    """Runs networks on a board that registered at a tracker.

    Args:
        device: A device with ``tracker`` and ``key``.
        target: TVM target of the board.

    Raises:
        DeviceError: No tracker answers, or it knows no board of that key.
    """

    several = False
    executor = "virtual_machine"
    server = "tvm.exec.rpc_server"
    """Module that serves on the board."""

    def __init__(self, device: Device, target: Any) -> None:
        self._device = device
        tracker_address(device)
        self._folder = tempfile.TemporaryDirectory(prefix="tvm-costmodel-rpc-")
        self._suffix = ".so" if device.cross_compiler else ".tar"
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tvm_costmodel.profiling.runners.board_session"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder.name,
            env=clean_environment(self._folder.name),
        )
        assert self._program.stdout is not None
        self._receiver = Receiver(self._program.stdout.fileno())
        self._start("check")  # a wrong address or key is an error before anything is compiled
        self.close()
        self._export(build_reference(target), self._path("reference"))

    def reference(self, number: int, repeat: int) -> Sample:
        """Times the reference kernel on the board."""
        return self.sample("reference", number=number, repeat=repeat)

    def load(self, build: Any, inputs: Sequence[TensorSpec]) -> RpcNetwork:
        """Opens a session, sends the network's library and sets random inputs."""
        network, names = self._parts(build)
        self._export(network, self._path("network"))
        self._export(build.kernel_library, self._path("kernels"))
        self.close()
        paths = {stem: str(self._path(stem)) for stem in ("reference", "network", "kernels")}
        self._start("open", **paths, names=list(names), inputs=list(inputs))
        return RpcNetwork(self)

    def facts(self) -> dict[str, Any]:
        """The board, in place of this machine's processor, which takes no part."""
        board = {"model name": f"{self._device.key} behind a TVM RPC tracker"}
        return {"runner": "rpc", "key": self._device.key, "cpu": board, "caches": {}}

    def close(self) -> None:
        """Ends the session."""
        self.ask("close")

    def sample(self, op: str, **fields: Any) -> Sample:
        """Times something on the board; its processor time cannot be seen from here."""
        answer = self.ask(op, **fields)
        try:
            return Sample(tuple(map(float, answer["times_s"])), float(answer["wall_s"]))
        except (LookupError, TypeError, ValueError):
            raise self._nonsense() from None

    def outputs(self) -> list[np.ndarray]:
        """Runs once and fetches every output."""
        try:
            return [
                np.frombuffer(base64.b64decode(content), dtype).reshape(shape)
                for dtype, shape, content in self.ask("outputs")["outputs"]
            ]
        except (LookupError, TypeError, ValueError, binascii.Error):
            raise self._nonsense() from None

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Sends a request to the program that holds the session.

        Raises:
            CostModelError: What went wrong on the board or on the way there.
        """
        assert self._program.stdin is not None
        try:
            send(self._program.stdin.fileno(), {"op": op, **fields})
            answer = self._receiver.receive()
        except (OSError, EOFError, ValueError):
            raise self._nonsense() from None
        if not isinstance(answer, dict):
            raise self._nonsense()
        if "error" in answer:
            kind = error_type(str(answer.get("kind"))) or MeasurementError
            raise kind(str(answer["error"])[:2000])
        return answer

    def _start(self, op: str, **fields: Any) -> None:
        self.ask(
            op,
            device=self._device.to_dict(),
            executor=self.executor,
            server=self.server,
            **fields,
        )

    def _parts(self, build: Any) -> tuple[Any, Sequence[str]]:
        """The network to export, and the names of its inputs where the executor has names."""
        return build.executable.mod, ()

    def _nonsense(self) -> MeasurementError:
        return MeasurementError(
            f"the session with {self._device.key!r} ended or gave no measurement; "
            + session_remedy(self._device)
        )

    def _path(self, stem: str) -> Path:
        return Path(self._folder.name) / f"{stem}{self._suffix}"

    def _export(self, module: Any, path: Path) -> None:
        """Writes a library, linked by the cross compiler where the device names one."""
        if not self._device.cross_compiler:
            module.export_library(str(path))
            return
        require_linker(self._device.cross_compiler)
        module.export_library(str(path), fcompile=cross_linker(self._device.cross_compiler))


class RpcNetwork:
    """A network on the board."""

    def __init__(self, runner: RpcRunner) -> None:
        self._runner = runner

    def network(self, number: int, repeat: int) -> Sample:
        """Times whole runs."""
        return self._runner.sample("network", number=number, repeat=repeat)

    def kernel(
        self, name: str, parameters: Sequence[TensorSpec], number: int, repeat: int
    ) -> Sample:
        """Times one kernel."""
        fields = {"name": name, "parameters": list(parameters)}
        return self._runner.sample("kernel", **fields, number=number, repeat=repeat)

    def outputs_are_finite(self) -> bool:
        """Runs once and looks at every floating-point output."""
        return all(map(all_finite, self._runner.outputs()))

    def outputs(self) -> list[np.ndarray]:
        """Runs once and fetches every output."""
        return self._runner.outputs()

    def close(self) -> None:
        """Ends the session."""
        self._runner.close()


def session_remedy(device: Device) -> str:
    """What to look at when a session on a board broke."""
    return (
        f"a session lasts {device.session_timeout_s} s (session_timeout_s in the device file); "
        f"check the board with `{tracker_query(*tracker_address(device))}`"
    )


def tracker_query(host: str, port: int) -> str:
    """The command that shows what a tracker knows."""
    return f"python -m tvm.exec.query_rpc_tracker --host {host} --port {port}"


def tracker_address(device: Device) -> tuple[str, int]:
    """Host and port of a device's tracker.

    Raises:
        ConfigError: The device names no tracker, no key, or a malformed address.
    """
    host, _, port = device.tracker.rpartition(":")
    if not host or not port.isdigit():
        raise ConfigError(
            f"device {device.name!r} needs a tracker as host:port, got {device.tracker!r}; "
            "give --tracker HOST:PORT"
        )
    if not device.key:
        raise ConfigError(f"device {device.name!r} needs the key of its board; give --key KEY")
    return host, int(port)
