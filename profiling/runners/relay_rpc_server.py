"""An RPC server for boards whose TVM has Relay.

Run as ``python -m tvm_costmodel.profiling.runners.relay_rpc_server``.
Some builds of TVM 0.16 ask the server to load a module with more arguments than the server that
comes with them takes. This one takes them; it needs nothing of this package but this file.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import threading
from collections.abc import Sequence
from typing import Any


def take_any_arguments() -> None:
    """Lets the RPC server load modules with more arguments than it knows."""
    tvm: Any = importlib.import_module("tvm")
    server: Any = importlib.import_module("tvm.rpc.server")
    original = server._server_env

    def server_env(load_library: Any, work_path: Any = None) -> Any:
        folder = original(load_library, work_path)

        @tvm.register_func("tvm.rpc.server.load_module", override=True)
        def load_module(file_name: str, *_: Any) -> Any:
            return tvm.runtime.load_module(folder.relpath(file_name))

        return folder

    server._server_env = server_env


def start(
    host: str, port: int, port_end: int, tracker: tuple[str, int] | None = None, key: str = ""
) -> Any:
    """Starts a server in a process of its own; it ends with ``terminate()``.

    Args:
        host: Address to listen at.
        port: First port to try.
        port_end: Port to stop at.
        tracker: Host and port of the tracker to register at.
        key: The board's name at the tracker.
    """
    rpc: Any = importlib.import_module("tvm.rpc")
    return rpc.Server(
        host,
        port,
        port_end,
        tracker_addr=tracker,
        key=key,
        silent=True,
        server_init_callback=take_any_arguments,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(description="RPC server for boards whose TVM has Relay")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="this machine's address in a network that you trust: whoever reaches it can run code "
        "here (default: reached from this machine alone)",
    )
    parser.add_argument("--port", type=int, default=9090)
    parser.add_argument("--port-end", type=int, default=9199)
    parser.add_argument("--tracker", metavar="HOST:PORT", help="tracker to register at")
    parser.add_argument("--key", default="", help="the board's name at the tracker")
    args = parser.parse_args(argv)
    tracker = None
    if args.tracker:
        host, _, port = args.tracker.rpartition(":")
        tracker = (host, int(port))
    server = start(args.host, args.port, args.port_end, tracker, args.key)
    print(f"serving at {args.host}:{server.port}", flush=True)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()
    server.terminate()


if __name__ == "__main__":
    main()
