"""Programs of the package, forked from one that has imported what they need.

A worker spends two seconds on importing TVM, and the reader of exported programs ten on torch. Here
each of them is still a process of its own, with its own pipes, session, limits and exit code, and
runs the same module as `__main__`, but it is forked from a server that did the imports once.
`subprocess.Popen` is replaced while tests run; every other command starts as ever.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_BECOME_SUBREAPER = 36  # prctl: orphans below this process become its children

PRELOADED = {
    "tvm_costmodel.profiling.worker.server": (
        "tvm tvm.relax onnx tvm_costmodel.compilers.relax.build_module "
        "tvm_costmodel.frontends.onnx.reader tvm_costmodel.frontends.relax.export "
        "tvm_costmodel.profiling.workloads tvm_costmodel.profiling.worker.interleaved "
        "tvm_costmodel.profiling.worker.output_check tvm_costmodel.profiling.measuring.environment "
        "tvm.relay tvm_costmodel.compilers.relay.build_module "
        "tvm_costmodel.frontends.relay.model_files tvm_costmodel.profiling.runners.graph_executor"
    ).split(),
    "tvm_costmodel.predictors.tree_files": ["xgboost", "scipy.sparse"],
    "tvm_costmodel.frontends.pt2_program": [
        "torch.export",
        "tvm.relax.frontend.torch",
        "tvm_costmodel.frontends.relax.bind_shapes",
        "tvm_costmodel.frontends.relax.export",
        "tvm_costmodel.frontends.relax.negative_indices",
        "tvm_costmodel.frontends.torch_export",
    ],
}
"""What the server of a program imports before it forks any."""


class ForkServer:
    """A process that forks programs of one module, which become children of this one."""

    def __init__(self, module: str) -> None:
        ctypes.CDLL(None).prctl(_BECOME_SUBREAPER, 1)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.warm_programs", str(theirs.fileno()), module]
            settings: dict[str, Any] = {"cwd": ROOT, "stdin": subprocess.DEVNULL}
            settings |= {"pass_fds": [theirs.fileno()], "start_new_session": True}
            self._process = _Popen(command, **settings)

    def fork(self, request: dict[str, Any], streams: list[int]) -> int:
        """Starts a program with these standard streams; gives its id."""
        message = json.dumps(request).encode()
        socket.send_fds(self._socket, [message], streams)
        return int(self._socket.recv(64))

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_Popen = subprocess.Popen
_servers: dict[str, ForkServer] = {}


class WarmPopen(_Popen):  # type: ignore[type-arg,valid-type,misc]
    """`subprocess.Popen` that forks the programs of `PRELOADED`."""

    def _execute_child(self, args: Any, *settings: Any) -> None:
        command = [str(arg) for arg in args] if isinstance(args, list) else []
        module = command[2] if command[:2] == [sys.executable, "-m"] and len(command) == 3 else ""
        if module not in PRELOADED:
            super()._execute_child(args, *settings)  # type: ignore[misc]
            return
        cwd, env, ends, new_session = settings[4], settings[5], settings[9:15], settings[20]
        request = {
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "new_session": bool(new_session),
        }
        if module not in _servers:
            _servers[module] = ForkServer(module)
        theirs = [end if end != -1 else i for i, end in enumerate((ends[0], ends[3], ends[5]))]
        self.pid = _servers[module].fork(request, theirs)
        self._child_created = True
        self._close_pipe_fds(*ends)  # type: ignore[attr-defined]


@contextlib.contextmanager
def warm_programs() -> Iterator[None]:
    """Programs start warm while the block lasts, on Linux."""
    if sys.platform == "linux":
        subprocess.Popen = WarmPopen  # type: ignore[misc]
    try:
        yield
    finally:
        subprocess.Popen = _Popen  # type: ignore[misc]
        while _servers:
            _servers.popitem()[1].close()


def _preload(module: str) -> None:
    if module.endswith("worker.server"):
        from tvm_costmodel.tvm_version import import_tvm_without_torch

        import_tvm_without_torch()
    for name in (module, *PRELOADED[module]):
        with contextlib.suppress(ImportError):  # of the other environment's TVM
            importlib.import_module(name)
    gc.freeze()


def _serve(channel: socket.socket, module: str) -> None:
    """Forks a program for each request; returns in the program, once it has become one."""
    while True:
        message, streams, *_ = socket.recv_fds(channel, 1 << 20, 3)
        if not message:
            sys.exit()
        middle = os.fork()
        if middle:
            os.waitpid(middle, 0)
            for stream in streams:
                os.close(stream)
            continue
        middle = os.getpid()
        if child := os.fork():
            channel.send(str(child).encode())
            os._exit(0)
        while os.getppid() == middle:  # until whoever asked is the parent
            time.sleep(0.0005)
        channel.close()
        _become(json.loads(message), streams, module)
        return


def _become(request: dict[str, Any], streams: list[int], module: str) -> None:
    if request["new_session"]:
        os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    search = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:0] = [folder for folder in search if folder not in sys.path]
    sys.argv = [module]


if __name__ == "__main__":
    _preload(sys.argv[2])
    _serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
