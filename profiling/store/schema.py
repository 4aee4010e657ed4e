"""Opening a measurement store: schema, its version, and errors that say what fixes them.

The store is one SQLite file with a rollback journal and full synchronisation: each row is one
transaction, so a killed program leaves every committed row and no half one, and a single file can
be copied when nobody writes to it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tvm_costmodel.errors import StoreError

SCHEMA_VERSION = 1
APPLICATION_ID = 0x5456434D  # "TVCM"

SCHEMA = """
CREATE TABLE graphs (hash TEXT PRIMARY KEY, json BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE pipelines (key TEXT PRIMARY KEY, config TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE environments (id TEXT PRIMARY KEY, facts TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sources (
    key TEXT PRIMARY KEY, graph_hash TEXT NOT NULL, family TEXT NOT NULL, source TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE kernels (
    hash TEXT NOT NULL, device TEXT NOT NULL, pipeline_key TEXT NOT NULL,
    protocol INTEGER NOT NULL, name TEXT NOT NULL, latency_s REAL NOT NULL, noise REAL NOT NULL,
    flops REAL, parameters TEXT NOT NULL,
    PRIMARY KEY (hash, device, pipeline_key, protocol)
) WITHOUT ROWID;
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    graph_hash TEXT NOT NULL, device TEXT NOT NULL, pipeline_key TEXT NOT NULL,
    protocol INTEGER NOT NULL, family TEXT NOT NULL, source_key TEXT NOT NULL,
    status TEXT NOT NULL, error TEXT NOT NULL,
    latency_s REAL, timing TEXT, kernels TEXT NOT NULL, unscheduled TEXT NOT NULL,
    environment_id TEXT NOT NULL, created_at TEXT NOT NULL, seconds TEXT NOT NULL
);
CREATE INDEX measurements_by_device ON measurements (device, pipeline_key, status);
CREATE INDEX measurements_by_source ON measurements (source_key);
"""

# Created when it is first needed: stores of this schema are complete without it.
TUNED = "CREATE TABLE IF NOT EXISTS tuned (key TEXT PRIMARY KEY, record TEXT NOT NULL)"


@contextmanager
def store_errors(path: Path | str) -> Iterator[None]:
    """Turns SQLite's errors into a StoreError that names the file and the remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(_explain(str(path), error)) from error


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

    Raises:
        StoreError: Missing (when only reading), not a store, of another schema version, not
            writable, or the disk is full.
    """
    if not write and not path.exists():
        raise StoreError(
            f"store {path} does not exist; make one with "
            f"`tvm-costmodel profile --suite default --store {path}`"
        )
    if path.is_dir():
        raise StoreError(f"store {path} is a folder; give the path of a .db file")
    with store_errors(path):
        mode = "rwc" if write else "ro"
        uri = f"{path.resolve().as_uri()}?mode={mode}"
        connection = sqlite3.connect(uri, uri=True, timeout=60.0, isolation_level=None)
        try:
            _prepare(connection, path, write)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, write: bool) -> None:
    connection.row_factory = sqlite3.Row
    if write:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA synchronous = FULL")
    version, application, tables = _identity(connection)
    if tables == 0 and version == 0 and application == 0:
        if not write:
            raise StoreError(
                f"store {path} is an empty file; fill it with "
                f"`tvm-costmodel profile --store {path}`"
            )
        _create(connection)
        return
    if application != APPLICATION_ID:
        raise StoreError(
            f"store {path} is an SQLite file of another program (application id {application}); "
            "choose another --store"
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"store {path} has schema {version}, newer than this version's {SCHEMA_VERSION}: "
            "update with `pip install -U tvm-costmodel`"
        )
    if version < SCHEMA_VERSION:
        raise StoreError(
            f"store {path} has schema {version}, older than this version's {SCHEMA_VERSION}: "
            "export it with the version that wrote it and import that file into a new store "
            "(`tvm-costmodel profile --import FILE.jsonl.xz --store NEW.db`)"
        )


def _identity(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """(schema version, application id, number of tables)."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return version, application, tables


def _create(connection: sqlite3.Connection) -> None:
    """Writes the schema in one transaction, unless another program was faster."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _identity(connection)[2] == 0:
            for statement in SCHEMA.split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
