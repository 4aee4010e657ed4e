"""Waiting for a store that others write to.

SQLite lets one program write at a time. A program waits as long as the others make progress, which
shows in the file's time and size, and gives up when nothing has happened for `PATIENCE_S`. It asks
again after a random pause, so that every waiting program gets its turn.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

PATIENCE_S = 120.0
"""Longest wait without any change of the file."""
BUSY_S = 2.0
"""How long SQLite itself waits for a lock, within one try."""
_PAUSE_S = (0.002, 0.04)
_BUSY_CODES = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED, which Python names from 3.11 on

Result = TypeVar("Result")


def patiently(path: Path, action: Callable[[], Result]) -> Result:
    """Does something with a store, again while others hold it and make progress.

    Args:
        path: The store's file.
        action: Leaves no transaction open when it raises.

    Raises:
        sqlite3.Error: Whatever ``action`` raises, and that the store is locked when nothing has
            happened to it for `PATIENCE_S`.
    """
    seen, since = _state(path), time.monotonic()
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if not _is_busy(error):
                raise
            now, state = time.monotonic(), _state(path)
            if state != seen:
                seen, since = state, now
            elif now - since > PATIENCE_S:
                raise
        time.sleep(random.uniform(*_PAUSE_S))


def in_one_transaction(
    connection: sqlite3.Connection, action: Callable[[], Result]
) -> Callable[[], Result]:
    """An action that happens whole or not at all."""

    def run() -> Result:
        connection.execute("BEGIN IMMEDIATE")
        try:
            result = action()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return result

    return run


def _is_busy(error: sqlite3.OperationalError) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None:
        return (code & 0xFF) in _BUSY_CODES
    return "locked" in str(error)  # Python 3.10


def _state(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Times and sizes of the file and of its journal."""
    states: list[tuple[int, int] | None] = []
    for file in (path, path.with_name(f"{path.name}-journal")):
        try:
            stat = file.stat()
            states.append((stat.st_mtime_ns, stat.st_size))
        except OSError:
            states.append(None)
    return tuple(states)
