"""The measurement store: one row for every network that was measured, failed ones too.

A row's key is a hash over graph, device, pipeline and protocol, so that resuming an interrupted
run, caching and answering ``predict`` with a measured value are one lookup.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.measuring.record import (
    PROTOCOL_VERSION,
    KernelTime,
    Measurement,
)
from tvm_costmodel.profiling.measuring.sanity import (
    is_sane_kernel,
    require_own_graph,
    require_sane,
)
from tvm_costmodel.profiling.store.connection import connect, store_errors
from tvm_costmodel.profiling.store.reading import measurement_of, remedy_of
from tvm_costmodel.profiling.store.remeasuring import rows_of_older_keys, sources_of_stale_rows
from tvm_costmodel.profiling.store.schema import TUNED
from tvm_costmodel.profiling.store.serialization import (
    Statement,
    dumps,
    kernel_time,
    measurement_statements,
    source_statement,
    stored_object,
)
from tvm_costmodel.profiling.store.staleness import kernel_is_fresh, stale_components
from tvm_costmodel.profiling.store.transactions import in_one_transaction, patiently

logger = logging.getLogger(__name__)

_NOT_STORED = "measure the network again; nothing was stored"

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
        self._file = _identity_of(self.path) if write else None

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
            StoreError: The disk is full or the file cannot be written, or the row holds numbers
                that no measurement gives; nothing was changed.
        """
        where = f"store {self.path}"
        require_sane(measurement, where, _NOT_STORED)
        if measurement.graph:
            require_own_graph(measurement, where, _NOT_STORED)
        self._write(measurement_statements(measurement))

    def link_source(
        self, source_key: str, graph_hash: str, family: str, source: Mapping[str, Any]
    ) -> None:
        """Notes which graph a source gives, so that it need not be built to be skipped."""
        self._write([source_statement(source_key, graph_hash, family, source)])

    def _write(self, statements: list[Statement]) -> None:
        """Runs statements as one transaction, in the file that the path names at its end."""
        with store_errors(self.path):
            while True:
                action = in_one_transaction(self._db, lambda: self._execute(statements))
                try:
                    patiently(self.path, action)
                except sqlite3.OperationalError:
                    if not self._is_gone():
                        raise
                if not self._is_gone():
                    return
                self._reopen()

    def _execute(self, statements: list[Statement]) -> None:
        for sql, values in statements:
            self._db.execute(sql, values)

    def _is_gone(self) -> bool:
        """Whether another program has removed or replaced the file that rows go to."""
        return self._file is not None and self._file != _identity_of(self.path)

    def _reopen(self) -> None:
        self._db.close()
        self._db = connect(self.path, write=True)
        self._file = _identity_of(self.path)

    def get(self, key: str, kernels: bool = True) -> Measurement | None:
        """The row of a measurement key, without its kernels where they are not asked for.

        Raises:
            BadRowError: The row is damaged, or holds numbers that no measurement gives.
        """
        rows = self._rows("SELECT * FROM measurements WHERE key = ?", (key,))
        return self._measurement(rows[0], kernels) if rows else None

    def _measurement(self, row: sqlite3.Row, kernels: bool = True) -> Measurement:
        return measurement_of(row, self._rows, self.path, kernels)

    def _outline(self, row: sqlite3.Row) -> Measurement:
        return self._measurement(row, kernels=False)

    def find(
        self, graph_hash: str, device: str, pipeline_key: str | None = None
    ) -> Measurement | None:
        """The newest good label of a graph on a device that is not stale.

        It may be of any pipeline when none is named, but not of a variant, which was built under
        decisions that a default build does not take.
        """
        sql = "SELECT * FROM measurements WHERE graph_hash = ? AND device = ? AND status = 'ok'"
        values: tuple[Any, ...] = (graph_hash, device)
        if pipeline_key is not None:
            sql, values = f"{sql} AND pipeline_key = ?", (*values, pipeline_key)
        else:
            sql += f" AND pipeline_key NOT IN ({_VARIANTS})"
        for row in self._rows(f"{sql} ORDER BY created_at DESC, id DESC", values):
            measured = self._measurement(row)
            remedy = remedy_of(self.path, measured.key)
            graph = require_own_graph(measured, f"store {self.path}", remedy)
            if not (stale := stale_components(measured, graph)):
                return measured
            logger.info(
                "store %s: the label of graph %s on %s is stale (%s changed); "
                "`tvm-costmodel profile --remeasure-stale --store %s` measures it again",
                *(self.path, graph_hash, device, ", ".join(stale), self.path),
            )
        return None

    def graph_of_source(self, source_key: str) -> str | None:
        """The graph hash that a source gave last time; empty when it failed before a graph."""
        rows = self._rows("SELECT graph_hash FROM sources WHERE key = ?", (source_key,))
        return rows[0]["graph_hash"] if rows else None

    def status(self, key: str) -> str | None:
        """The status of a row, None when there is none."""
        rows = self._rows("SELECT status FROM measurements WHERE key = ?", (key,))
        return rows[0]["status"] if rows else None

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
        rows = [dict(row) for row in self._rows(sql, ())]
        for row in rows:
            if not (isinstance(row["device"], str) and isinstance(row["pipeline_key"], str)):
                raise StoreError(
                    f"store {self.path} is damaged: a row's device is {str(row['device'])[:40]!r}; "
                    "choose another --store"
                )
        return [LabelSetSummary(**row) for row in rows]

    def tuned(self, key: str) -> dict[str, Any] | None:
        """The stored result of tuning under a key; None where there is none."""
        sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tuned'"
        if not self._rows(sql, ()):
            return None
        rows = self._rows("SELECT record FROM tuned WHERE key = ?", (key,))
        return (
            stored_object(rows[0]["record"], f"store {self.path}: a tuned record") if rows else None
        )

    def put_tuned(self, key: str, record: Mapping[str, Any]) -> None:
        """Stores a result of tuning, in place of an earlier one of the same key."""
        values = (key, dumps(record))
        self._write([(TUNED, ()), ("INSERT OR REPLACE INTO tuned VALUES (?, ?)", values)])

    def kernel(
        self,
        kernel_hash: str,
        device: str,
        pipeline_key: str,
        current: Mapping[str, int] | None = None,
    ) -> KernelTime | None:
        """A kernel's time, with ``calls`` 1.

        Args:
            kernel_hash: The kernel.
            device: Name of the device.
            pipeline_key: Pipeline that it was built with.
            current: Versions of what makes its code now; a time of other versions is none. Left
                out where any time will do.
        """
        sql = (
            "SELECT * FROM kernels WHERE hash = ? AND device = ? AND pipeline_key = ?"
            " AND protocol = ?"
        )
        rows = self._rows(sql, (kernel_hash, device, pipeline_key, PROTOCOL_VERSION))
        kernel = kernel_time(rows[0], 1) if rows else None
        if kernel is None or not is_sane_kernel(kernel):
            return None
        return kernel if current is None or kernel_is_fresh(kernel, current) else None

    def kernels(self, device: str | None = None) -> Iterator[KernelTime]:
        """Every timed kernel, with ``calls`` 1."""
        sql = "SELECT * FROM kernels WHERE (?1 IS NULL OR device = ?1) ORDER BY hash"
        for row in self._rows(sql, (device,)):
            yield kernel_time(row, 1)

    def environments(self) -> dict[str, dict[str, Any]]:
        """Facts of every machine and software state that made a row, by id."""
        rows = self._rows("SELECT * FROM environments ORDER BY id", ())
        return {
            row["id"]: stored_object(row["facts"], f"store {self.path}: an environment")
            for row in rows
        }

    def pipelines(self) -> dict[str, dict[str, Any]]:
        """Settings of every pipeline that made a row, by key."""
        rows = self._rows("SELECT * FROM pipelines ORDER BY key", ())
        return {
            row["key"]: stored_object(row["config"], f"store {self.path}: a pipeline")
            for row in rows
        }

    def environments_of_device(self, device: str) -> list[dict[str, Any]]:
        """Facts of every environment that made a good label of a device."""
        sql = """
            SELECT DISTINCT e.id, e.facts FROM measurements m
            JOIN environments e ON e.id = m.environment_id
            WHERE m.device = ? AND m.status = 'ok' ORDER BY e.id
        """
        return [
            stored_object(row["facts"], f"store {self.path}: an environment")
            for row in self._rows(sql, (device,))
        ]

    def stale(
        self, device: str, pipeline_key: str, pipeline: Mapping[str, Any]
    ) -> list[tuple[str, dict[str, Any]]]:
        """Sources whose labels are all stale, or of other formats of the key, or no labels at all.

        Args:
            device: Whose labels to look at.
            pipeline_key: The pipeline as it is now.
            pipeline: Its settings; a row of other settings is another choice, not an old one.

        Returns:
            (source key, source as JSON values), in the order they were first measured.
        """
        place = (device, pipeline_key)
        older = rows_of_older_keys(self._rows, place, pipeline, self.pipelines())
        sources = {
            row["source_key"]: stored_object(row["source"], f"store {self.path}: a source")
            for row, replaced in older
            if not replaced
        }
        return list((sources | sources_of_stale_rows(self._rows, self._outline, place)).items())

    def delete_superseded(self, device: str, pipeline_key: str, pipeline: Mapping[str, Any]) -> int:
        """Drops rows of older keys whose network has a row of this one.

        Returns:
            The number of rows dropped.
        """
        place = (device, pipeline_key)
        older = rows_of_older_keys(self._rows, place, pipeline, self.pipelines())
        superseded = [row["id"] for row, replaced in older if replaced]
        self._write([("DELETE FROM measurements WHERE id = ?", (row,)) for row in superseded])
        return len(superseded)

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
            return patiently(self.path, lambda: self._db.execute(sql, values).fetchall())


def _identity_of(path: Path) -> tuple[int, int] | None:
    """What tells the file of a path from another one of the same name; None where there is none."""
    try:
        stat = os.stat(path)
    except FileNotFoundError:
        return None
    return stat.st_dev, stat.st_ino
