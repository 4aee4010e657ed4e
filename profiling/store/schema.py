"""The tables of a measurement store, and how stores of older schemas get them.

A store of schema 1 becomes one of schema 2 in one transaction, when it is opened for writing. What
it was before is kept next to it as ``STORE.schema1``. Who only reads it sees a copy in memory that
went the same way.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from tvm_costmodel.profiling.devices import name_by_processor
from tvm_costmodel.profiling.measuring.record import measurement_key

SCHEMA_VERSION = 2
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
    flops REAL, parameters TEXT NOT NULL, template TEXT, components TEXT,
    PRIMARY KEY (hash, device, pipeline_key, protocol)
) WITHOUT ROWID;
CREATE TABLE measurements (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    graph_hash TEXT NOT NULL, device TEXT NOT NULL, pipeline_key TEXT NOT NULL,
    protocol INTEGER NOT NULL, family TEXT NOT NULL, source_key TEXT NOT NULL,
    status TEXT NOT NULL, error TEXT NOT NULL,
    latency_s REAL, timing TEXT, kernels TEXT NOT NULL, unscheduled TEXT NOT NULL,
    environment_id TEXT NOT NULL, created_at TEXT NOT NULL, seconds TEXT NOT NULL,
    components TEXT
);
CREATE INDEX measurements_by_device ON measurements (device, pipeline_key, status);
CREATE INDEX measurements_by_source ON measurements (source_key);
"""

# What schema 2 has more than schema 1: which versions of the compiler's parts made a row.
_FROM_1 = (
    "ALTER TABLE measurements ADD COLUMN components TEXT",
    "ALTER TABLE kernels ADD COLUMN template TEXT",
    "ALTER TABLE kernels ADD COLUMN components TEXT",
)

# Created when it is first needed: stores of this schema are complete without it.
TUNED = "CREATE TABLE IF NOT EXISTS tuned (key TEXT PRIMARY KEY, record TEXT NOT NULL)"


def identity(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """(schema version, application id, number of tables)."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return version, application, tables


def create(connection: sqlite3.Connection) -> None:
    """Writes the schema, unless another program was faster; inside a transaction."""
    if identity(connection)[2] == 0:
        for statement in SCHEMA.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings a store of schema 1 to this one, unless another program was faster.

    Args:
        connection: Inside a transaction, so that no other program writes.
        path: The store's file; what it is now is kept as ``STORE.schema1``.
    """
    if identity(connection)[0] != 1:
        return
    _keep_copy(path)
    upgrade(connection)


def upgrade(connection: sqlite3.Connection) -> None:
    """Brings tables of schema 1 to this one: their columns, and devices named by processor."""
    for statement in _FROM_1:
        connection.execute(statement)
    _name_by_processor(connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _name_by_processor(connection: sqlite3.Connection) -> None:
    """Names rows by the processor of their environment, where they name an instruction set.

    A kernel does not say which environment it is of: it goes to each processor with rows of its
    old device.
    """
    cpus = {key: _cpu(facts) for key, facts in connection.execute("SELECT * FROM environments")}
    names: dict[str, set[str]] = {}
    rows = connection.execute(
        "SELECT id, device, environment_id, graph_hash, source_key, pipeline_key, protocol "
        "FROM measurements"
    ).fetchall()
    for row, device, environment, graph, source, pipeline, protocol in rows:
        name = name_by_processor(device, cpus.get(environment, {}))
        names.setdefault(device, set()).add(name)
        if name != device:
            key = measurement_key(graph or source, name, pipeline, protocol)
            connection.execute(
                "UPDATE measurements SET device = ?, key = ? WHERE id = ?", (name, key, row)
            )
    columns = (
        "pipeline_key, protocol, name, latency_s, noise, flops, parameters, template, components"
    )
    for device, by_processor in names.items():
        for name in by_processor - {device}:
            connection.execute(
                f"INSERT OR IGNORE INTO kernels (hash, device, {columns}) "
                f"SELECT hash, ?, {columns} FROM kernels WHERE device = ?",
                (name, device),
            )
        if device not in by_processor:
            connection.execute("DELETE FROM kernels WHERE device = ?", (device,))


def _cpu(facts: str) -> dict[str, str]:
    """The processor of an environment's stored facts; empty where they hold none."""
    try:
        cpu = json.loads(facts).get("cpu")
    except (AttributeError, TypeError, ValueError, RecursionError):
        return {}
    return cpu if isinstance(cpu, dict) else {}


def _keep_copy(path: Path) -> None:
    """Copies a store whole or not at all; an earlier copy stays.

    SQLite itself reads it: closing the file in any other way would drop this program's locks.
    """
    copy = path.with_name(f"{path.name}.schema1")
    if copy.exists():
        return
    partial = path.with_name(f"{path.name}.schema1.{os.getpid()}.tmp")
    try:
        with (
            closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(partial)) as target,
        ):
            source.backup(target)
        os.replace(partial, copy)
    finally:
        partial.unlink(missing_ok=True)
