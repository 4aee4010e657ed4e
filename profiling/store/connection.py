"""Opening a measurement store, and errors that say what fixes them.

The store is one SQLite file with a rollback journal and full synchronisation: each row is one
transaction, so a killed program leaves every committed row and no half one, and a single file can
be copied when nobody writes to it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.store.schema import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    create,
    identity,
    migrate,
    upgrade,
)
from tvm_costmodel.profiling.store.transactions import BUSY_S, in_one_transaction, patiently

_OLDEST = 1  # schema that is still read


@contextmanager
def store_errors(path: Path | str) -> Iterator[None]:
    """Turns SQLite's errors into a StoreError that names the file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_explain(str(path), error)) from error
    except UnicodeDecodeError as error:  # of names and texts in a damaged file
        damaged = sqlite3.DatabaseError(f"malformed text ({error.reason})")
        raise StoreError(_explain(str(path), damaged)) from error


def _explain(path: str, error: sqlite3.Error) -> str:
    text = str(error)
    if "full" in text:
        remedy = (
            "the disk (or its quota) is full; every row committed so far is kept: "
            "free space and run the same command again"
        )
    elif "readonly" in text or "read-only" in text:
        remedy = "the file or its folder cannot be written; choose another path with --store"
    elif "locked" in text or "busy" in text:
        remedy = "another program is writing to it; wait until it ends, or use another --store"
    elif "not a database" in text or "malformed" in text:
        remedy = "it is not a measurement store, or it is damaged; choose another --store"
    elif "unable to open" in text:
        remedy = "its folder must exist and be writable"
    else:
        remedy = "check the file with `sqlite3 FILE 'pragma integrity_check'`"
    return f"store {path}: {text}: {remedy}"


def connect(path: Path, write: bool) -> sqlite3.Connection:
    """Opens a store, creating an empty one when ``write`` is set and none exists.

    A store of an older schema is brought to this one when it is opened for writing.

    Raises:
        StoreError: Missing (when only reading), not a store, of a newer schema, not readable, not
            writable, or the disk is full.
    """
    _require_file(path, write)
    with store_errors(path):
        return patiently(path, lambda: _opened(path, write))


def _require_file(path: Path, write: bool) -> None:
    try:
        there, folder = path.exists(), path.is_dir()
    except PermissionError as error:
        raise _unreadable(path, f"its folder {path.parent} may not be entered") from error
    if not write and not there:
        raise StoreError(
            f"store {path} does not exist; make one with "
            f"`tvm-costmodel profile --suite default --store {path}`"
        )
    if folder:
        raise StoreError(f"store {path} is a folder; give the path of a .db file")
    if there and not os.access(path, os.R_OK):
        raise _unreadable(path, f"its permissions are {path.stat().st_mode & 0o777:03o}")
    if write and there and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StoreError(
            f"store {path}: the file or its folder is readonly for this user, and rows need both; "
            "choose another path with --store"
        )


def _unreadable(path: Path, why: str) -> StoreError:
    return StoreError(
        f"store {path} cannot be read by this user ({why}); "
        f"allow it with `chmod u+r {path}`, or choose another --store"
    )


def _opened(path: Path, write: bool) -> sqlite3.Connection:
    """One try of ``connect``, after the checks of the file itself."""
    connection = _handle(path, "rwc" if write else "rw")
    try:
        if not write:
            connection.execute("PRAGMA query_only = ON")
        try:
            _prepare(connection, path, write)
        except sqlite3.OperationalError as error:
            if write or not _needs_recovery(path, error):
                raise
            connection.close()
            connection = _recovered(path)
            _prepare(connection, path, write)
        if identity(connection)[0] < SCHEMA_VERSION:
            with closing(connection) as old:
                connection = _upgraded(old)
    except BaseException:
        connection.close()
        raise
    return connection


def _handle(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _needs_recovery(path: Path, error: sqlite3.OperationalError) -> bool:
    """Whether a store was left in the middle of a commit, and this user may not write to it."""
    refused = "readonly" in str(error) or "unable to open" in str(error)
    return refused and path.with_name(f"{path.name}-journal").exists()


def _recovered(path: Path) -> sqlite3.Connection:
    """A copy in memory of a store as it was before the commit that was cut off."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    memory.row_factory = sqlite3.Row
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("-journal", ""):
            shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
        with closing(sqlite3.connect(copy)) as source:
            source.backup(memory)
    memory.execute("PRAGMA query_only = ON")
    return memory


def _upgraded(old: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in memory of a store of an older schema, brought to this one."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    old.backup(memory)
    in_one_transaction(memory, lambda: upgrade(memory))()
    memory.row_factory = sqlite3.Row
    memory.execute("PRAGMA query_only = ON")
    return memory


def _prepare(connection: sqlite3.Connection, path: Path, write: bool) -> None:
    if write:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
    version, application, tables = identity(connection)
    if tables == 0 and version == 0 and application == 0:
        if not write:
            raise StoreError(
                f"store {path} is an empty file; fill it with "
                f"`tvm-costmodel profile --store {path}`"
            )
        in_one_transaction(connection, lambda: create(connection))()
        return
    if application != APPLICATION_ID:
        raise StoreError(
            f"store {path} is an SQLite file of another program (application id {application}); "
            "choose another --store"
        )
    foreign = "SELECT type, name FROM sqlite_master WHERE type IN ('view', 'trigger')"
    if found := connection.execute(foreign).fetchone():  # it may run without an end
        raise StoreError(
            f"store {path} has the {found[0]} {str(found[1])[:100]!r}, which no version of this "
            "package wrote; choose another --store"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"store {path} has schema {version}, newer than this version's {SCHEMA_VERSION}: "
            "update with `pip install -U tvm-costmodel`"
        )
    if version < _OLDEST:
        raise StoreError(
            f"store {path} has schema {version}, which no version of this package wrote; it is "
            "damaged: choose another --store"
        )
    if write and version < SCHEMA_VERSION:
        in_one_transaction(connection, lambda: migrate(connection, path))()
