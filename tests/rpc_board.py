"""A real RPC tracker with one server behind it, on loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 90.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen in {timeout_s} s"
        time.sleep(0.2)


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def registered(port: int, key: str) -> bool:
    from tvm import rpc

    return key in rpc.connect_tracker("127.0.0.1", port).summary()["queue_info"]


PROGRAM = """
import sys
from tvm.rpc.server import PopenRPCServerState
from tvm.rpc.tracker import PopenTrackerServerState
from tvm_costmodel.profiling.runners.relay_rpc_server import take_any_arguments

tracker_port, server_port, key, any_arguments = sys.argv[1:]
if any_arguments == "True":
    take_any_arguments()
host, port = "127.0.0.1", int(tracker_port)
tracker = PopenTrackerServerState(host, port, port + 1)
server = PopenRPCServerState(
    host, int(server_port), int(server_port) + 10, tracker_addr=(host, port), key=key
)
server.thread.join()
"""
"""What `tvm.exec.rpc_tracker` and `tvm.exec.rpc_server` run, in one process."""


@contextmanager
def board(key: str, any_arguments: bool = False) -> Iterator[str]:
    """Runs both while the block lasts; gives the tracker's ``host:port``.

    Args:
        key: The server's name at the tracker.
        any_arguments: Whether the server is that for TVM with Relay.
    """
    port = free_port()
    folder = tempfile.TemporaryDirectory()
    # TVM imports torch where it can, which takes seconds.
    (Path(folder.name) / "torch.py").write_text("raise ImportError\n")
    path = os.environ.get("PYTHONPATH")
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, (folder.name, path)))}
    arguments = [str(port), str(free_port()), key, str(any_arguments)]
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )
    try:
        wait_for(lambda: answers(port) and registered(port, key), "the server's registration")
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(child.pid, 9)
        child.wait()
        folder.cleanup()
