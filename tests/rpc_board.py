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
from typing import Any


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


@contextmanager
def board(key: str, server: str = "tvm.exec.rpc_server") -> Iterator[str]:
    """Runs both while the block lasts; gives the tracker's ``host:port``.

    Args:
        key: The server's name at the tracker.
        server: The server's module.
    """
    port, server_port = free_port(), free_port()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet["start_new_session"] = True
    folder = tempfile.TemporaryDirectory()
    # TVM imports torch where it can, which takes seconds in each of the board's programs.
    (Path(folder.name) / "torch.py").write_text("raise ImportError\n")
    path = os.environ.get("PYTHONPATH")
    quiet["env"] = os.environ | {"PYTHONPATH": ":".join(filter(None, (folder.name, path)))}
    python, host = [sys.executable, "-m"], ["--host", "127.0.0.1"]
    ends = ["--port", str(port), "--port-end", str(port + 1)]
    children = [subprocess.Popen([*python, "tvm.exec.rpc_tracker", *host, *ends], **quiet)]
    try:
        wait_for(lambda: answers(port), "the tracker's start")
        where = ["--tracker", f"127.0.0.1:{port}", "--key", key, *host]
        ports = ["--port", str(server_port), "--port-end", str(server_port + 10)]
        children.append(subprocess.Popen([*python, server, *where, *ports], **quiet))
        wait_for(lambda: registered(port, key), "the server's registration")
        yield f"127.0.0.1:{port}"
    finally:
        for child in children:
            os.killpg(child.pid, 9)
            child.wait()
        folder.cleanup()
