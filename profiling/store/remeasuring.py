"""Rows that have to be measured again: of older keys, stale, or no rows at all."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from tvm_costmodel.errors import BadRowError
from tvm_costmodel.profiling.measuring.record import (
    PROTOCOL_VERSION,
    Measurement,
    measurement_key,
)
from tvm_costmodel.profiling.store.reading import Query
from tvm_costmodel.profiling.store.serialization import same_settings, stored_object
from tvm_costmodel.profiling.store.staleness import stale_components

logger = logging.getLogger(__name__)

Place = tuple[str, str]
"""Name of a device and key of a pipeline."""


def rows_of_older_keys(
    query: Query, place: Place, pipeline: Mapping[str, Any], pipelines: Mapping[str, Any]
) -> list[tuple[sqlite3.Row, bool]]:
    """Rows of the same settings under another key or protocol.

    Variants are left out: their settings contain the default ones, so that they would match.

    Args:
        query: Runs a SELECT in the store.
        place: Device and pipeline as they are now.
        pipeline: The pipeline's settings; a row of other settings is another choice, not an old
            one.
        pipelines: Settings of every pipeline in the store, by key.

    Returns:
        Each row, and whether its network has a row under the key as it is now.
    """
    older = [
        key
        for key, stored in pipelines.items()
        if not stored.get("decisions") and same_settings(stored, pipeline)
    ]
    marks = ", ".join("?" * len(older))
    sql = f"""
        SELECT m.id, m.graph_hash, m.source_key, s.source FROM measurements m
        JOIN sources s ON s.key = m.source_key
        WHERE m.device = ? AND m.pipeline_key IN ({marks})
          AND (m.pipeline_key != ? OR m.protocol != ?) ORDER BY m.id
    """
    device, pipeline_key = place
    rows = query(sql, (device, *older, pipeline_key, PROTOCOL_VERSION))

    def is_replaced(row: sqlite3.Row) -> bool:
        key = measurement_key(row["graph_hash"] or row["source_key"], device, pipeline_key)
        return bool(query("SELECT 1 FROM measurements WHERE key = ?", (key,)))

    return [(row, is_replaced(row)) for row in rows]


def sources_of_stale_rows(
    query: Query, read: Callable[[sqlite3.Row], Measurement], place: Place
) -> dict[str, dict[str, Any]]:
    """Sources of the rows under a key that are stale or that no measurement gives.

    Args:
        query: Runs a SELECT in the store.
        read: Makes a measurement of a row.
        place: Device and pipeline.
    """
    sql = """
        SELECT m.*, s.source FROM measurements m JOIN sources s ON s.key = m.source_key
        WHERE m.device = ? AND m.pipeline_key = ? AND m.protocol = ? ORDER BY m.id
    """
    rows = query(sql, (*place, PROTOCOL_VERSION))
    return {
        row["source_key"]: stored_object(row["source"], "a source of the store")
        for row in rows
        if _is_to_be_replaced(row, read)
    }


def _is_to_be_replaced(row: sqlite3.Row, read: Callable[[sqlite3.Row], Measurement]) -> bool:
    try:
        return bool(stale_components(read(row)))
    except BadRowError as error:
        logger.warning("%s", error)
        return True
