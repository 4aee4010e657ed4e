"""Messages between the profiler and its worker: JSON objects with a length before each."""

from __future__ import annotations

import json
import os
import select
import struct
import time
from collections.abc import Iterator
from typing import Any

_HEADER = struct.Struct(">I")
_CHUNK = 1 << 16


def send(descriptor: int, message: dict[str, Any]) -> None:
    """Writes one message.

    Raises:
        OSError: The other end is gone.
    """
    body = json.dumps(message, separators=(",", ":")).encode()
    block = memoryview(_HEADER.pack(len(body)) + body)
    while block:
        block = block[os.write(descriptor, block) :]


class Receiver:
    """Reads messages from a pipe, with a time limit for each wait."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()

    def receive(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next message, or None when none came in time.

        Raises:
            EOFError: The other end closed the pipe.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._take()
            if message is not None:
                return message
            remaining_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self._descriptor], [], [], remaining_s)
            if not ready:
                return None
            block = os.read(self._descriptor, _CHUNK)
            if not block:
                raise EOFError("the other end closed the pipe")
            self._buffer += block

    def requests(self) -> Iterator[dict[str, Any]]:
        """Every message until the other end closes the pipe."""
        while True:
            try:
                request = self.receive()
            except EOFError:
                return
            assert request is not None
            yield request

    def _take(self) -> dict[str, Any] | None:
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        message: dict[str, Any] = json.loads(body)
        return message
