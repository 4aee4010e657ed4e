"""The program that holds the host's sessions with boards, apart from everything worth having.

TVM's sessions go both ways: a board can call any packed function of the process that opened one,
and so run code in it. That process is therefore a fork of this program, which knows no variables of
the user's environment and no store, and which gives up files, programs and all connections but the
one to the board before the board is spoken to (`tvm_costmodel.confinement`).

Run as ``python -m tvm_costmodel.profiling.runners.board_session`` by `rpc.RpcRunner`; requests come
on standard input, answers go to what was standard output.
"""

from __future__ import annotations

import base64
import os
import resource
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from tvm_costmodel.compilers.build_result import flatten
from tvm_costmodel.confinement import confine, end_with_parent
from tvm_costmodel.errors import CostModelError, DeviceError, MeasurementError
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.runners.arguments import random_array
from tvm_costmodel.profiling.runners.reference import NAME, PARAMETERS
from tvm_costmodel.profiling.runners.rpc import session_remedy, tracker_address, tracker_query
from tvm_costmodel.profiling.runners.runner import TensorSpec
from tvm_costmodel.profiling.runners.tensors import tensor
from tvm_costmodel.profiling.worker.pipe import Receiver, send
from tvm_costmodel.tvm_version import import_tvm_without_torch

_CONNECT_TIMEOUT_S = 5.0
_BUSY_TIMEOUT_S = 60.0
_POLL_S = 0.5
_MEMORY_BYTES, _PRINTED_BYTES, _FILES = 8 << 30, 1 << 20, 256

Evaluator = Callable[..., Any]


class Session:
    """A session with a board, on which the reference kernel and a network are loaded.

    Args:
        device: The board.
        executor: What runs the network there.
        server: Module that serves on the board, for messages.
    """

    def __init__(self, device: Device, executor: str, server: str) -> None:
        self._device, self._server = device, server
        self._make_network = _NETWORKS[executor]
        self._host, self._port = tracker_address(device)

    def check(self) -> dict[str, Any]:
        """Makes sure that the tracker answers and knows the board's key."""
        self._tracker()
        return {}

    def open(
        self,
        reference: str,
        network: str,
        kernels: str,
        names: Sequence[str],
        inputs: Sequence[TensorSpec],
    ) -> dict[str, Any]:
        """Opens a session, sends three libraries and sets random inputs.

        Args:
            reference: File of the reference kernel's library.
            network: File of the network's.
            kernels: File of its kernels'.
            names: Names of the inputs, where the executor has names.
            inputs: Their shapes and dtypes.
        """
        with self._board_errors("opening a session"):
            self._session = self._connect(str(Path(reference).parent))
        self._cpu = self._session.cpu(0)
        with self._board_errors("sending the network"):
            self._reference = self._send(reference)
            self._arguments = self._tensors(PARAMETERS)
            library, self._kernels = self._send(network), self._send(kernels)
        with self._board_errors("loading the network"):
            arrays = [random_array(spec, seed) for seed, spec in enumerate(inputs)]
            self._network = self._make_network(library, self._cpu, names, arrays)
        return {}

    def reference(self, number: int, repeat: int) -> dict[str, Any]:
        """Times the reference kernel."""
        with self._board_errors("timing the reference kernel"):
            evaluator = self._reference.time_evaluator(NAME, self._cpu, number, repeat)
            return _timed(evaluator, *self._arguments)

    def network(self, number: int, repeat: int) -> dict[str, Any]:
        """Times whole runs."""
        with self._board_errors("timing the network"):
            return _timed(self._network.evaluator(number, repeat))

    def kernel(
        self, name: str, parameters: Sequence[TensorSpec], number: int, repeat: int
    ) -> dict[str, Any]:
        """Times one kernel."""
        with self._board_errors(f"timing the kernel {name}"):
            arguments = self._tensors(parameters)
            evaluator = self._kernels.time_evaluator(name, self._cpu, number, repeat)
            return _timed(evaluator, *arguments)

    def outputs(self) -> dict[str, Any]:
        """Runs once and fetches every output, as dtype, shape and content."""
        with self._board_errors("running the network"):
            arrays = self._network.outputs()
        return {
            "outputs": [
                [str(array.dtype), list(array.shape), base64.b64encode(array.tobytes()).decode()]
                for array in arrays
            ]
        }

    def _tensors(self, specs: Sequence[TensorSpec]) -> list[Any]:
        return [tensor(random_array(spec), self._cpu) for spec in specs]

    def _send(self, path: str) -> Any:
        self._session.upload(path)
        return self._session.load_module(Path(path).name)

    @contextmanager
    def _board_errors(self, step: str) -> Iterator[None]:
        """Turns errors of the board into a MeasurementError with board, step and remedy."""
        try:
            yield
        except CostModelError:
            raise
        except Exception as error:  # TVM raises many kinds, with no common root
            last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            shown = "".join(c if c.isprintable() else "?" for c in last[0][:300])
            raise MeasurementError(
                f"{step} on {self._device.key!r} failed: {shown}; {session_remedy(self._device)}"
            ) from error

    def _connect(self, folder: str) -> Any:
        """Asks the tracker for a free board, confines this process, opens a session."""
        from tvm import rpc
        from tvm.rpc import base

        key = self._device.key
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while (free := self._tracker()["queue_info"][key]["free"]) < 1:
            if time.monotonic() > deadline:
                raise DeviceError(
                    f"every board of key {key!r} was busy for {_BUSY_TIMEOUT_S:g} s ({free} free); "
                    f"see `{tracker_query(self._host, self._port)}`"
                )
            time.sleep(_POLL_S)
        tracker = rpc.connect_tracker(self._host, self._port)
        base.sendjson(tracker._sock, [base.TrackerCode.REQUEST, key, "", 1])
        _, (host, port, match) = base.recvjson(tracker._sock)
        address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]
        confine([folder, *_loaded_folders()], port)
        timeout = self._device.session_timeout_s
        return rpc.connect(address, port, match, session_timeout=timeout)

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
                f"network that you trust), check it with `{tracker_query(self._host, self._port)}`"
            ) from error
        summary: dict[str, Any] = rpc.connect_tracker(self._host, self._port).summary()
        boards = sorted(summary["queue_info"])
        if self._device.key not in boards:
            raise DeviceError(
                f"the tracker at {self._host}:{self._port} has no board of key "
                f"{self._device.key!r}; it has: {', '.join(boards) or 'none'}; on the board run "
                f"`python -m {self._server} --host ADDRESS --tracker {self._host}:{self._port} "
                f"--key {self._device.key}`, where whoever reaches ADDRESS can run code on the "
                "board"
            )
        return summary


class _VirtualMachine:
    """A network of Relax inside a virtual machine on the board."""

    def __init__(
        self, library: Any, cpu: Any, names: Sequence[str], arrays: Sequence[np.ndarray]
    ) -> None:
        from tvm import relax

        self._cpu = cpu
        self._vm = relax.VirtualMachine(library, cpu)
        self._vm.set_input("main", *[tensor(array, cpu) for array in arrays])

    def evaluator(self, number: int, repeat: int) -> Evaluator:
        """Times whole runs."""
        evaluator = self._vm.time_evaluator("invoke_stateful", self._cpu, number, repeat)
        return lambda: evaluator("main")

    def outputs(self) -> list[np.ndarray]:
        """Runs once and fetches every output."""
        self._vm.invoke_stateful("main")
        return flatten(self._vm.get_outputs("main"))


def _graph_executor(*arguments: Any) -> Any:
    from tvm_costmodel.profiling.runners.graph_executor import GraphExecutor

    return GraphExecutor(*arguments)


_NETWORKS: Mapping[str, Callable[..., Any]] = {
    "virtual_machine": _VirtualMachine,
    "graph_executor": _graph_executor,
}


def _timed(evaluator: Evaluator, *arguments: Any) -> dict[str, Any]:
    start = time.perf_counter()
    times = [float(t) for t in evaluator(*arguments).results]
    return {"times_s": times, "wall_s": time.perf_counter() - start}


def _loaded_folders() -> set[str]:
    """Folders of the packages that this process has loaded, of which it may need more."""
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    for module in list(sys.modules.values()):
        folders.update(getattr(module, "__path__", ()))
    return {os.path.realpath(folder) for folder in folders}


def _serve_session(request: dict[str, Any], receiver: Receiver, answers: int) -> NoReturn:
    """Answers requests in a fork, until the session is closed."""
    end_with_parent()
    for kind, amount in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, _PRINTED_BYTES),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (amount, amount))
    session = Session(
        Device.from_dict(request.pop("device")), request.pop("executor"), request.pop("server")
    )
    while True:
        op = request.pop("op")
        if op == "close":
            send(answers, {})
            os._exit(0)
        try:
            answer = getattr(session, op)(**request)
        except CostModelError as error:
            answer = {"error": str(error), "kind": type(error).__name__}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}", "kind": ""}
        send(answers, answer)
        try:
            request = receiver.receive() or {}
        except EOFError:
            os._exit(0)


def serve() -> None:
    """Forks a process for each session, until the worker closes the pipe."""
    end_with_parent()
    import_tvm_without_torch()
    import tvm  # noqa: F401

    answers, receiver = os.dup(1), Receiver(0)
    os.dup2(2, 1)
    for request in receiver.requests():
        if request["op"] == "close":  # none is open
            send(answers, {})
            continue
        child = os.fork()
        if child == 0:
            try:
                _serve_session(request, receiver, answers)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            ended = f"was killed by {signal.Signals(-code).name}" if code < 0 else "ended early"
            send(answers, {"error": f"the process of the board's session {ended}", "kind": ""})


if __name__ == "__main__":
    serve()
