"""Timing on a board through TVM's RPC tracker, inside the worker.

Each network gets a session of its own, so that one which hangs or crashes the board's server costs
that session alone. The kernels travel as a second library, because the timing function of an RPC
module does not look into the modules that it imports.
"""

from __future__ import annotations

import gc
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.compilers.build_result import flatten
from tvm_costmodel.compilers.build_stages import cross_linker
from tvm_costmodel.errors import ConfigError, CostModelError, DeviceError, MeasurementError
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.runners.arguments import random_array
from tvm_costmodel.profiling.runners.local import finite
from tvm_costmodel.profiling.runners.reference import NAME, PARAMETERS, build_reference
from tvm_costmodel.profiling.runners.runner import Sample, TensorSpec
from tvm_costmodel.profiling.runners.tensors import tensor

_CONNECT_TIMEOUT_S = 5.0
_BUSY_TIMEOUT_S = 60.0
_POLL_S = 0.5


class RpcRunner:
    """Runs networks on a board that registered at a tracker.

    Args:
        device: A device with ``tracker`` and ``key``.
        target: TVM target of the board.

    Raises:
        DeviceError: No tracker answers, or it knows no board of that key.
    """

    several = False
    server = "tvm.exec.rpc_server"
    """Module that serves on the board."""

    def __init__(self, device: Device, target: Any) -> None:
        self._device = device
        self._host, self._port = tracker_address(device)
        self._folder = tempfile.TemporaryDirectory(prefix="tvm-costmodel-rpc-")
        self._suffix = ".so" if device.cross_compiler else ".tar"
        self._session: Any = None
        self.cpu: Any = None
        self._reference_module: Any = None
        self._reference_arguments: list[Any] = []
        self._library = self._path("reference")
        self._tracker()  # a wrong address or key is an error before anything is compiled
        self._export(build_reference(target), self._library)

    def reference(self, number: int, repeat: int) -> Sample:
        """Times the reference kernel on the board."""
        with self.board_errors("timing the reference kernel"):
            evaluator = self._reference_module.time_evaluator(NAME, self.cpu, number, repeat)
            return remote_sample(lambda: evaluator(*self._reference_arguments).results)

    def load(self, build: Any, inputs: Sequence[TensorSpec]) -> RpcNetwork:
        """Opens a session, sends the network's library and sets random inputs."""
        library, kernels = self.send(build.executable.mod, build.kernel_library)
        with self.board_errors("loading the network"):
            return RpcNetwork(self, library, kernels, inputs)

    def send(self, network: Any, kernels: Any) -> tuple[Any, Any]:
        """Opens a session and sends a network, its kernels and the reference kernel.

        Returns:
            The network's and the kernels' library on the board.
        """
        paths = self._path("network"), self._path("kernels")
        self._export(network, paths[0])
        self._export(kernels, paths[1])
        self._open()
        with self.board_errors("sending the network"):
            self._reference_module = self._send(self._library)
            self._reference_arguments = [
                tensor(random_array(spec), self.cpu) for spec in PARAMETERS
            ]
            return self._send(paths[0]), self._send(paths[1])

    def facts(self) -> dict[str, Any]:
        """The board, in place of this machine's processor, which takes no part."""
        board = {"model name": f"{self._device.key} behind a TVM RPC tracker"}
        return {"runner": "rpc", "key": self._device.key, "cpu": board, "caches": {}}

    def close(self) -> None:
        """Ends the session."""
        self._reference_arguments = []
        self._reference_module = self.cpu = self._session = None
        gc.collect()  # the session ends with the last remote object that refers to it

    @contextmanager
    def board_errors(self, step: str) -> Iterator[None]:
        """Turns errors of the board into a MeasurementError with board, step and remedy."""
        try:
            yield
        except CostModelError:
            raise
        except Exception as error:  # TVM raises many kinds, with no common root
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            raise MeasurementError(
                f"{step} on {self._device.key!r} failed: {last[0][:300]}; "
                + session_remedy(self._device)
            ) from error

    def _open(self) -> None:
        """Asks the tracker for a free board and opens a session on it."""
        from tvm import rpc

        self.close()
        key = self._device.key
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while (free := self._tracker()["queue_info"][key]["free"]) < 1:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"every board of key {key!r} was busy for {_BUSY_TIMEOUT_S:g} s ({free} free); "
                    f"see `{_query(self._host, self._port)}`"
                )
            time.sleep(_POLL_S)
        with self.board_errors("opening a session"):
            tracker = rpc.connect_tracker(self._host, self._port)
            self._session = tracker.request(
                key, session_timeout=self._device.session_timeout_s, max_retry=1
            )
        self.cpu = self._session.cpu(0)

    def _tracker(self) -> dict[str, Any]:
        """The tracker's summary, once it is sure that it answers and knows the key."""
        from tvm import rpc

        try:
            socket.create_connection((self._host, self._port), _CONNECT_TIMEOUT_S).close()
        except OSError as error:
            raise DeviceError(
                f"no RPC tracker answers at {self._host}:{self._port} ({error}); start one with "
                f"`python -m tvm.exec.rpc_tracker --host {self._host} --port {self._port}` "
                "(whoever reaches that address can register boards and use them, so take one of a "
                f"network that you trust), check it with `{_query(self._host, self._port)}`"
            ) from error
        summary: dict[str, Any] = rpc.connect_tracker(self._host, self._port).summary()
        boards = sorted(summary["queue_info"])
        if self._device.key not in boards:
            raise DeviceError(
                f"the tracker at {self._host}:{self._port} has no board of key "
                f"{self._device.key!r}; it has: {', '.join(boards) or 'none'}; on the board run "
                f"`python -m {self.server} --tracker {self._host}:{self._port} "
                f"--key {self._device.key}`"
            )
        return summary

    def _path(self, stem: str) -> Path:
        return Path(self._folder.name) / f"{stem}{self._suffix}"

    def _export(self, module: Any, path: Path) -> None:
        """Writes a library, linked by the cross compiler where the device names one."""
        if not self._device.cross_compiler:
            module.export_library(str(path))
            return
        module.export_library(str(path), fcompile=cross_linker(self._device.cross_compiler))

    def _send(self, path: Path) -> Any:
        self._session.upload(str(path))
        return self._session.load_module(path.name)


class RpcNetwork:
    """A network inside a virtual machine on the board."""

    def __init__(
        self, runner: RpcRunner, library: Any, kernels: Any, inputs: Sequence[TensorSpec]
    ) -> None:
        from tvm import relax

        self._runner = runner
        self.cpu = runner.cpu
        self._kernels = kernels
        self._vm = relax.VirtualMachine(library, self.cpu)
        arrays = [random_array(spec, seed) for seed, spec in enumerate(inputs)]
        self._vm.set_input("main", *[tensor(array, self.cpu) for array in arrays])

    def network(self, number: int, repeat: int) -> Sample:
        """Times whole runs."""
        with self._runner.board_errors("timing the network"):
            evaluator = self._vm.time_evaluator("invoke_stateful", self.cpu, number, repeat)
            return remote_sample(lambda: evaluator("main").results)

    def kernel(
        self, name: str, parameters: Sequence[TensorSpec], number: int, repeat: int
    ) -> Sample:
        """Times one kernel."""
        with self._runner.board_errors(f"timing the kernel {name}"):
            arrays = [random_array(spec) for spec in parameters]
            arguments = [tensor(array, self.cpu) for array in arrays]
            evaluator = self._kernels.time_evaluator(name, self.cpu, number, repeat)
            return remote_sample(lambda: evaluator(*arguments).results)

    def outputs_are_finite(self) -> bool:
        """Runs once and looks at every floating-point output."""
        with self._runner.board_errors("running the network"):
            self._vm.invoke_stateful("main")
            return finite(self._vm.get_outputs("main"))

    def outputs(self) -> list[np.ndarray]:
        """Runs once and fetches every output."""
        with self._runner.board_errors("running the network"):
            self._vm.invoke_stateful("main")
            return flatten(self._vm.get_outputs("main"))

    def close(self) -> None:
        """Ends the session."""
        self._vm = self._kernels = self.cpu = None
        self._runner.close()


def session_remedy(device: Device) -> str:
    """What to look at when a session on a board broke."""
    return (
        f"a session lasts {device.session_timeout_s} s (session_timeout_s in the device file); "
        f"check the board with `{_query(*tracker_address(device))}`"
    )


def _query(host: str, port: int) -> str:
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


def remote_sample(run: Callable[[], Sequence[float]]) -> Sample:
    """Calls a remote evaluator; the board's processor time cannot be seen from here."""
    start = time.perf_counter()
    times = tuple(float(t) for t in run())
    return Sample(times, time.perf_counter() - start)
