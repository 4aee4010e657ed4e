"""Rows of the store as measurements."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm_costmodel.bounded_reading import parse_json, parse_object, unpack_zlib
from tvm_costmodel.errors import BadRowError
from tvm_costmodel.profiling.measuring.record import KernelTime, Measurement
from tvm_costmodel.profiling.measuring.sanity import readable, require_sane
from tvm_costmodel.profiling.store.serialization import (
    components_of,
    kernel_time,
    timing_from_dict,
)

Query = Callable[[str, tuple[Any, ...]], list[sqlite3.Row]]


def remedy_of(path: Path, key: str) -> str:
    """What fixes a row that is refused."""
    return (
        f"drop it with `sqlite3 {path} \"DELETE FROM measurements WHERE key = '{key}'\"`, then "
        "measure it again"
    )


def measurement_of(row: sqlite3.Row, query: Query, path: Path, kernels: bool = True) -> Measurement:
    """A row of the table ``measurements`` with its graph, pipeline, source and kernels.

    Args:
        row: The row.
        query: Runs a SELECT in the same store.
        path: The store's file.
        kernels: Whether to read its kernels, which takes most of the time.

    Raises:
        BadRowError: The row is damaged, or holds numbers that no measurement gives.
    """
    where, remedy = f"store {path}", remedy_of(path, row["key"])
    with readable(where, row["key"], remedy):
        measured = _measurement(row, query, where, remedy)
        if kernels:
            measured = replace(measured, kernels=_kernels(row, query))
    require_sane(measured, where, remedy)
    return measured


def _kernels(row: sqlite3.Row, query: Query) -> tuple[KernelTime, ...]:
    kernels = []
    for name, kernel_hash, calls in parse_json(row["kernels"]):
        timed = query(
            "SELECT * FROM kernels WHERE hash = ? AND device = ? AND pipeline_key = ?"
            " AND protocol = ?",
            (kernel_hash, row["device"], row["pipeline_key"], row["protocol"]),
        )
        if timed:
            kernels.append(kernel_time(timed[0], calls, name))
    return tuple(kernels)


def _measurement(row: sqlite3.Row, query: Query, where: str, remedy: str) -> Measurement:
    graphs = query("SELECT json FROM graphs WHERE hash = ?", (row["graph_hash"],))
    pipelines = query("SELECT config FROM pipelines WHERE key = ?", (row["pipeline_key"],))
    sources = query("SELECT source FROM sources WHERE key = ?", (row["source_key"],))
    if row["graph_hash"] and not graphs:
        raise BadRowError(f"{where}: row {row['key']} has lost its graph; {remedy}")
    return Measurement(
        key=row["key"],
        graph_hash=row["graph_hash"],
        graph=_unpacked(graphs[0]["json"]) if graphs else "",
        device=row["device"],
        config_key=row["pipeline_key"],
        pipeline=parse_object(pipelines[0]["config"]) if pipelines else {},
        family=row["family"],
        source=parse_object(sources[0]["source"]) if sources else {},
        source_key=row["source_key"],
        status=row["status"],
        error=row["error"],
        timing=timing_from_dict(parse_object(row["timing"])) if row["timing"] else None,
        unscheduled=tuple(parse_json(row["unscheduled"])),
        environment_id=row["environment_id"],
        protocol=row["protocol"],
        created_at=row["created_at"],
        seconds=parse_object(row["seconds"]),
        components=components_of(row),
    )


def _unpacked(packed: object) -> str:
    """The JSON of a graph; raises ValueError where it is damaged or larger than any network's."""
    try:
        return unpack_zlib(packed).decode()
    except ValueError as error:
        raise ValueError(f"its graph: {error}") from error
