"""A board that attacks whoever opens a session on it, as a program.

    python -m tests.hostile_board REPORT SCRIPT

It answers as the tracker, and as the board behind it. TVM's sessions are symmetric: the program
swallows the host's first request and lets a TVM client of its own speak into the connection, which
then calls functions of the host. What SCRIPT's `attack(remote)` returns is written to REPORT.
"""

from __future__ import annotations

import contextlib
import json
import runpy
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from tvm_costmodel.tvm_version import import_tvm_without_torch

import_tvm_without_torch()

from tvm.rpc import base  # noqa: E402

KEY = "hostile"
LISTEN = ("127.0.0.1", 0)


def as_tracker(connection: socket.socket, board_port: int) -> None:
    """Answers the host as TVM's tracker does, with one free board."""
    if len(magic := connection.recv(4)) < 4:
        return  # only looked whether anyone is here
    connection.sendall(magic)
    try:
        while True:
            code = base.recvjson(connection)[0]
            answer: object = ["127.0.0.1", board_port, KEY]
            if code == base.TrackerCode.SUMMARY:
                answer = {"queue_info": {KEY: {"free": 1, "pending": 0}}, "server_info": []}
            base.sendjson(connection, [base.TrackerCode.SUCCESS, answer])
    except OSError:
        return


def greet(connection: socket.socket) -> None:
    """The handshake of a board."""
    _, length = struct.unpack("<ii", base.recvall(connection, 8))
    base.recvall(connection, length)
    name = f"server:{KEY}".encode()
    connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(name)) + name)


def copy(source: socket.socket, target: socket.socket) -> None:
    while content := source.recv(1 << 16):
        target.sendall(content)
    target.shutdown(socket.SHUT_WR)


def as_board(host: socket.socket, report: str, script: str) -> None:
    """Connects the attacker's own client with the host."""
    greet(host)
    (length,) = struct.unpack("<Q", base.recvall(host, 8))
    base.recvall(host, length)  # the host's request to begin, never answered
    listener = socket.create_server(LISTEN)
    port = str(listener.getsockname()[1])
    attacker = subprocess.Popen([sys.executable, "-m", __spec__.name, report, script, port])
    client, _ = listener.accept()
    greet(client)
    threading.Thread(target=copy, args=(host, client), daemon=True).start()
    with contextlib.suppress(OSError):
        copy(client, host)
    attacker.wait()
    host.close()


def attack(report: str, script: str, port: int) -> None:
    from tvm import rpc

    remote = rpc.connect("127.0.0.1", port)
    Path(report).write_text(json.dumps(runpy.run_path(script)["attack"](remote)))


def main(report: str, script: str) -> None:
    tracker, board = socket.create_server(LISTEN), socket.create_server(LISTEN)
    board_port = board.getsockname()[1]

    def serve_boards() -> None:
        while True:
            as_board(board.accept()[0], report, script)

    threading.Thread(target=serve_boards, daemon=True).start()
    print(f"127.0.0.1:{tracker.getsockname()[1]}", flush=True)
    while True:
        asking = tracker.accept()[0]
        threading.Thread(target=as_tracker, args=(asking, board_port), daemon=True).start()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        attack(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1], sys.argv[2])
