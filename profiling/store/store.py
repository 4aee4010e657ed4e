"""The measurement store: one row for every network that was measured, failed ones too.

A row's key is a hash over graph, device, pipeline and protocol, so that resuming an interrupted
run, caching and answering ``predict`` with a measured value are one lookup.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.measuring.record import (
    PROTOCOL_VERSION,
    KernelTime,
    Measurement,
    measurement_key,
)
from tvm_costmodel.profiling.store.schema import TUNED, connect, store_errors
from tvm_costmodel.profiling.store.serialization import (
    Statement,
    dumps,
    kernel_time,
    measurement_statements,
    same_settings,
    source_statement,
    timing_from_dict,
)

# Pipelines under decisions for one network, see `tvm_costmodel.profiling.paired_profiler`.
_VARIANTS = """
    SELECT key FROM pipelines WHERE coalesce(json_extract(config, '$.decisions'), '{}') != '{}'
"""


@dataclass(frozen=True)
class LabelSetSummary:
    """How many rows one device, pipeline and protocol have."""

    device: str
    pipeline_key: str
    protocol: int
    ok: int
    failed: int


class Store:
    """A measurement store in one SQLite file.

    Args:
        path: The file. With ``write`` it is created when it does not exist.
        write: Open for writing; reading alone never changes or creates anything.

    Raises:
        StoreError: The file is missing, foreign, damaged, of another schema or not writable.
    """

    def __init__(self, path: str | Path, write: bool = True) -> None:
        self.path = Path(path)
        self._db = connect(self.path, write)

    def close(self) -> None:
        """Closes the file; every row is committed already."""
        self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def put_environment(self, environment_id: str, facts: Mapping[str, Any]) -> None:
        """Keeps the machine's facts under their id."""
        sql = "INSERT OR IGNORE INTO environments VALUES (?, ?)"
        self._write([(sql, (environment_id, dumps(facts)))])

    def put_measurement(self, measurement: Measurement) -> None:
        """Commits one row with its graph, pipeline, source and kernels, all or nothing.

        A row of the same key is replaced: a label is never doubled.

        Raises:
            StoreError: The disk is full or the file cannot be written; nothing was changed.
        """
        self._write(measurement_statements(measurement))

    def link_source(
        self, source_key: str, graph_hash: str, family: str, source: Mapping[str, Any]
    ) -> None:
        """Notes which graph a source gives, so that it need not be built to be skipped."""
        self._write([source_statement(source_key, graph_hash, family, source)])

    def _write(self, statements: list[Statement]) -> None:
        with store_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                for sql, values in statements:
                    self._db.execute(sql, values)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def get(self, key: str) -> Measurement | None:
        """The row of a measurement key."""
        rows = self._rows("SELECT * FROM measurements WHERE key = ?", (key,))
        return self._measurement(rows[0]) if rows else None

    def find(
        self, graph_hash: str, device: str, pipeline_key: str | None = None
    ) -> Measurement | None:
        """The newest good label of a graph on a device.

        It may be of any pipeline when none is named, but not of a variant, which was built under
        decisions that a default build does not take.
        """
        sql = "SELECT * FROM measurements WHERE graph_hash = ? AND device = ? AND status = 'ok'"
        values: tuple[Any, ...] = (graph_hash, device)
        if pipeline_key is not None:
            sql, values = f"{sql} AND pipeline_key = ?", (*values, pipeline_key)
        else:
            sql += f" AND pipeline_key NOT IN ({_VARIANTS})"
        rows = self._rows(f"{sql} ORDER BY created_at DESC, id DESC LIMIT 1", values)
        return self._measurement(rows[0]) if rows else None

    def graph_of_source(self, source_key: str) -> str | None:
        """The graph hash that a source gave last time; empty when it failed before a graph."""
        rows = self._rows("SELECT graph_hash FROM sources WHERE key = ?", (source_key,))
        return rows[0]["graph_hash"] if rows else None

    def status(self, key: str) -> str | None:
        """The status of a row, None when there is none."""
        rows = self._rows("SELECT status FROM measurements WHERE key = ?", (key,))
        return rows[0]["status"] if rows else None

    def brief(self, key: str) -> tuple[str, str, float | None, str] | None:
        """(graph hash, status, latency in seconds, error) of a row, None when there is none."""
        sql = "SELECT graph_hash, status, latency_s, error FROM measurements WHERE key = ?"
        rows = self._rows(sql, (key,))
        return tuple(rows[0]) if rows else None

    def measurements(
        self,
        device: str | None = None,
        status: str | None = "ok",
        pipeline_key: str | None = None,
        variants: bool | None = None,
    ) -> Iterator[Measurement]:
        """Rows in the order in which they were measured.

        Args:
            device: Only rows of this device; of every device when not given.
            status: Only rows of this status; of every status where None.
            pipeline_key: Only rows of this pipeline; of every pipeline when not given.
            variants: Only variants under decisions (True), only default builds (False), or both.
        """
        filters = {"device": device, "status": status, "pipeline_key": pipeline_key}
        names = [name for name, value in filters.items() if value is not None]
        values = tuple(filters[name] for name in names)
        terms = [f"{name} = ?" for name in names]
        if variants is not None:
            terms.append(f"pipeline_key {'' if variants else 'NOT '}IN ({_VARIANTS})")
        where = " AND ".join(terms) or "1"
        for row in self._rows(f"SELECT * FROM measurements WHERE {where} ORDER BY id", values):
            yield self._measurement(row)

    def count(self, device: str | None = None, status: str | None = "ok") -> int:
        """Number of rows."""
        sql = (
            "SELECT count(*) AS n FROM measurements WHERE (?1 IS NULL OR device = ?1)"
            " AND (?2 IS NULL OR status = ?2)"
        )
        return int(self._rows(sql, (device, status))[0]["n"])

    def summary(self, variants: bool = False) -> list[LabelSetSummary]:
        """Counts by device, pipeline and protocol, most rows first.

        Args:
            variants: Also count the pipelines of variants under decisions.
        """
        where = "" if variants else f" WHERE pipeline_key NOT IN ({_VARIANTS})"
        sql = (
            "SELECT device, pipeline_key, protocol, sum(status = 'ok') AS ok,"
            f" sum(status != 'ok') AS failed FROM measurements{where}"
            " GROUP BY device, pipeline_key, protocol ORDER BY count(*) DESC"
        )
        return [LabelSetSummary(**dict(row)) for row in self._rows(sql, ())]

    def tuned(self, key: str) -> dict[str, Any] | None:
        """The stored result of tuning under a key; None where there is none."""
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tuned'"
        if not self._rows(sql, ()):
            return None
        rows = self._rows("SELECT record FROM tuned WHERE key = ?", (key,))
        return dict(json.loads(rows[0]["record"])) if rows else None

    def put_tuned(self, key: str, record: Mapping[str, Any]) -> None:
        """Stores a result of tuning, in place of an earlier one of the same key."""
        values = (key, dumps(record))
        self._write([(TUNED, ()), ("INSERT OR REPLACE INTO tuned VALUES (?, ?)", values)])

    def known_kernels(self, device: str, pipeline_key: str, hashes: Iterable[str]) -> set[str]:
        """Those of ``hashes`` that are timed already under this device and pipeline."""
        sql = (
            "SELECT 1 FROM kernels WHERE hash = ? AND device = ? AND pipeline_key = ?"
            " AND protocol = ?"
        )
        return {h for h in hashes if self._rows(sql, (h, device, pipeline_key, PROTOCOL_VERSION))}

    def kernel(self, kernel_hash: str, device: str, pipeline_key: str) -> KernelTime | None:
        """A kernel's time, with ``calls`` 1."""
        sql = (
            "SELECT * FROM kernels WHERE hash = ? AND device = ? AND pipeline_key = ?"
            " AND protocol = ?"
        )
        rows = self._rows(sql, (kernel_hash, device, pipeline_key, PROTOCOL_VERSION))
        return kernel_time(rows[0], 1) if rows else None

    def kernels(self, device: str | None = None) -> Iterator[KernelTime]:
        """Every timed kernel, with ``calls`` 1."""
        sql = "SELECT * FROM kernels WHERE (?1 IS NULL OR device = ?1) ORDER BY hash"
        for row in self._rows(sql, (device,)):
            yield kernel_time(row, 1)

    def environments(self) -> dict[str, dict[str, Any]]:
        """Facts of every machine and software state that made a row, by id."""
        rows = self._rows("SELECT * FROM environments ORDER BY id", ())
        return {row["id"]: json.loads(row["facts"]) for row in rows}

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """Settings of every pipeline that made a row, by key."""
        rows = self._rows("SELECT * FROM pipelines ORDER BY key", ())
        return {row["key"]: json.loads(row["config"]) for row in rows}

    def environments_of_device(self, device: str) -> list[dict[str, Any]]:
        """Facts of every environment that made a good label of a device."""
        sql = """
            SELECT DISTINCT e.id, e.facts FROM measurements m
            JOIN environments e ON e.id = m.environment_id
            WHERE m.device = ? AND m.status = 'ok' ORDER BY e.id
        """
        return [json.loads(row["facts"]) for row in self._rows(sql, (device,))]

    def stale(
        self, device: str, pipeline_key: str, pipeline: Mapping[str, Any]
    ) -> list[tuple[str, dict[str, Any]]]:
        """Sources whose labels were all made by older versions of a pipeline or of the protocol.

        Args:
            device: Whose labels to look at.
            pipeline_key: The pipeline as it is now.
            pipeline: Its settings; a row of other settings is another choice, not an old one.

        Returns:
            (source key, source as JSON values), in the order they were first measured.
        """
        sources: dict[str, dict[str, Any]] = {}
        for row in self._older_rows(device, pipeline_key, pipeline):
            network = row["graph_hash"] or row["source_key"]
            if self.status(measurement_key(network, device, pipeline_key)) is None:
                sources.setdefault(row["source_key"], json.loads(row["source"]))
        return list(sources.items())

    def delete_superseded(self, device: str, pipeline_key: str, pipeline: Mapping[str, Any]) -> int:
        """Drops rows of older versions whose network has a row of this version.

        Returns:
            The number of rows dropped.
        """
        superseded = []
        for row in self._older_rows(device, pipeline_key, pipeline):
            network = row["graph_hash"] or row["source_key"]
            if self.status(measurement_key(network, device, pipeline_key)) is not None:
                superseded.append(row["id"])
        self._write([("DELETE FROM measurements WHERE id = ?", (row,)) for row in superseded])
        return len(superseded)

    def _older_rows(
        self, device: str, pipeline_key: str, pipeline: Mapping[str, Any]
    ) -> list[sqlite3.Row]:
        """Rows of the same settings under another version of the pipeline or protocol.

        Variants are left out: their settings contain the default ones, so that they would match.
        """
        settings = self.pipelines()
        older = [
            key
            for key, stored in settings.items()
            if not stored.get("decisions") and same_settings(stored, pipeline)
        ]
        marks = ", ".join("?" * len(older))
        sql = f"""
            SELECT m.id, m.graph_hash, m.source_key, s.source FROM measurements m
            JOIN sources s ON s.key = m.source_key
            WHERE m.device = ? AND m.pipeline_key IN ({marks})
              AND (m.pipeline_key != ? OR m.protocol != ?) ORDER BY m.id
        """
        return self._rows(sql, (device, *older, pipeline_key, PROTOCOL_VERSION))

    def require_one_pipeline(self, device: str) -> tuple[str, int]:
        """The only (pipeline key, protocol) that has good labels of default builds on the device.

        Raises:
            StoreError: There are none, or several, which must not be mixed.
        """
        sets = [s for s in self.summary() if s.ok and s.device == device]
        if not sets:
            known = sorted({s.device for s in self.summary() if s.ok}) or ["none"]
            raise StoreError(
                f"store {self.path} has no labels for device {device!r}; it has: {', '.join(known)}"
            )
        if len(sets) > 1:
            listed = ", ".join(
                f"{s.pipeline_key} (protocol {s.protocol}): {s.ok} labels" for s in sets
            )
            raise StoreError(
                f"store {self.path} mixes labels of {len(sets)} pipelines for {device!r}: "
                f"{listed}; name one, or measure the old ones again with "
                f"`tvm-costmodel profile --remeasure-stale --store {self.path}`"
            )
        return sets[0].pipeline_key, sets[0].protocol

    def _rows(self, sql: str, values: tuple[Any, ...]) -> list[sqlite3.Row]:
        with store_errors(self.path):
            return self._db.execute(sql, values).fetchall()

    def _measurement(self, row: sqlite3.Row) -> Measurement:
        graphs = self._rows("SELECT json FROM graphs WHERE hash = ?", (row["graph_hash"],))
        pipelines = self._rows("SELECT config FROM pipelines WHERE key = ?", (row["pipeline_key"],))
        sources = self._rows("SELECT source FROM sources WHERE key = ?", (row["source_key"],))
        if row["graph_hash"] and not graphs:
            raise StoreError(f"store {self.path}: row {row['key']} has lost its graph; damaged")
        kernels = []
        for name, kernel_hash, calls in json.loads(row["kernels"]):
            timed = self._rows(
                "SELECT * FROM kernels WHERE hash = ? AND device = ? AND pipeline_key = ?"
                " AND protocol = ?",
                (kernel_hash, row["device"], row["pipeline_key"], row["protocol"]),
            )
            if timed:
                kernels.append(kernel_time(timed[0], calls, name))
        return Measurement(
            key=row["key"],
            graph_hash=row["graph_hash"],
            graph=zlib.decompress(graphs[0]["json"]).decode() if graphs else "",
            device=row["device"],
            config_key=row["pipeline_key"],
            pipeline=json.loads(pipelines[0]["config"]) if pipelines else {},
            family=row["family"],
            source=json.loads(sources[0]["source"]) if sources else {},
            source_key=row["source_key"],
            status=row["status"],
            error=row["error"],
            timing=timing_from_dict(json.loads(row["timing"])) if row["timing"] else None,
            kernels=tuple(kernels),
            unscheduled=tuple(json.loads(row["unscheduled"])),
            environment_id=row["environment_id"],
            protocol=row["protocol"],
            created_at=row["created_at"],
            seconds=json.loads(row["seconds"]),
        )
