"""How measurements become rows of the store and rows become measurements again."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from tvm_costmodel.bounded_reading import parse_json, parse_object
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.measuring.record import KernelTime, Measurement, Timing

Statement = tuple[str, tuple[Any, ...]]
"""One SQL statement and its values."""

_TIMING_NAMES = {"blocks": "visits", "baseline_blocks": "beside"}
_TIMING_FIELDS = {_TIMING_NAMES.get(f.name, f.name): f.name for f in fields(Timing)}
"""Attributes of `Timing` by the name that they are stored under."""
_PUT_GRAPH = """
INSERT INTO graphs VALUES (?, ?)
ON CONFLICT (hash) DO UPDATE SET json = excluded.json WHERE json != excluded.json
"""
_PUT_KERNEL = "INSERT OR REPLACE INTO kernels VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_PUT_MEASUREMENT = """
INSERT INTO measurements (key, graph_hash, device, pipeline_key, protocol, family, source_key,
    status, error, latency_s, timing, kernels, unscheduled, environment_id, created_at, seconds,
    components)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET family = excluded.family, source_key = excluded.source_key,
    status = excluded.status, error = excluded.error, latency_s = excluded.latency_s,
    timing = excluded.timing, kernels = excluded.kernels, unscheduled = excluded.unscheduled,
    environment_id = excluded.environment_id, created_at = excluded.created_at,
    seconds = excluded.seconds, components = excluded.components
"""


_PUT_SOURCE = "INSERT OR REPLACE INTO sources VALUES (?, ?, ?, ?)"
_DROP_FAILED_SOURCE = """
DELETE FROM measurements
WHERE source_key = ? AND device = ? AND pipeline_key = ? AND graph_hash = ''
"""


def source_statement(
    source_key: str, graph_hash: str, family: str, source: Mapping[str, Any]
) -> Statement:
    """Remembers which graph a source gives."""
    return _PUT_SOURCE, (source_key, graph_hash, family, dumps(source))


def measurement_statements(row: Measurement) -> list[Statement]:
    """Everything that one measurement writes, to be run as one transaction."""
    statements: list[Statement] = []
    if row.graph_hash and row.graph:
        packed = zlib.compress(row.graph.encode(), 6)
        statements.append((_PUT_GRAPH, (row.graph_hash, packed)))
    if row.graph_hash:  # a failure of this source before it gave a graph is over
        statements.append((_DROP_FAILED_SOURCE, (row.source_key, row.device, row.config_key)))
    pipeline = (row.config_key, dumps(row.pipeline))
    return [
        *statements,
        ("INSERT OR IGNORE INTO pipelines VALUES (?, ?)", pipeline),
        source_statement(row.source_key, row.graph_hash, row.family, row.source),
        *((_PUT_KERNEL, _kernel_values(row, kernel)) for kernel in row.kernels),
        (_PUT_MEASUREMENT, _measurement_values(row)),
    ]


def same_settings(one: Any, other: Any) -> bool:
    """Whether two pipelines agree in every setting that both have, versions aside."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        shared = [name for name in one if name in other and not name.endswith("version")]
        return all(same_settings(one[name], other[name]) for name in shared)
    return bool(one == other)


def dumps(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _kernel_values(row: Measurement, kernel: KernelTime) -> tuple[Any, ...]:
    where = (kernel.hash, row.device, row.config_key, row.protocol)
    parameters = dumps([[list(shape), dtype] for shape, dtype in kernel.parameters])
    timed = (kernel.name, kernel.latency_s, kernel.noise, kernel.flops, parameters)
    return (*where, *timed, kernel.template, _dumped(kernel.components))


def _measurement_values(row: Measurement) -> tuple[Any, ...]:
    return (
        row.key,
        row.graph_hash,
        row.device,
        row.config_key,
        row.protocol,
        row.family,
        row.source_key,
        row.status,
        row.error,
        row.latency_s,
        dumps(timing_to_dict(row.timing)) if row.timing else None,
        dumps([[k.name, k.hash, k.calls] for k in row.kernels]),
        dumps(list(row.unscheduled)),
        row.environment_id,
        row.created_at,
        dumps(dict(row.seconds)),
        _dumped(row.components),
    )


def _dumped(components: Mapping[str, int] | None) -> str | None:
    return None if components is None else dumps(dict(components))


def stored_object(text: object, where: str) -> dict[str, Any]:
    """An object that a cell of a store holds as JSON.

    Raises:
        StoreError: It is no JSON object, or nested deeper than any that is written.
    """
    try:
        return parse_object(str(text))
    except ValueError as error:
        raise StoreError(
            f"{where} is damaged ({str(error)[:100]}); export what is whole with "
            "`tvm-costmodel profile --export` from a copy of the store, or measure again"
        ) from None


def components_of(row: sqlite3.Row) -> dict[str, int] | None:
    """The record of a row; None where it has none."""
    text = row["components"]
    return None if text is None else parse_object(str(text))


def kernel_time(row: sqlite3.Row, calls: int, name: str | None = None) -> KernelTime:
    """A row of the table ``kernels`` as one network uses it."""
    parameters = tuple((tuple(shape), dtype) for shape, dtype in parse_json(row["parameters"]))
    return KernelTime(
        name=name or row["name"],
        hash=row["hash"],
        calls=calls,
        latency_s=row["latency_s"],
        noise=row["noise"],
        flops=row["flops"],
        parameters=parameters,
        template=row["template"],
        components=components_of(row),
    )


def timing_to_dict(timing: Timing) -> dict[str, Any]:
    """A Timing as JSON values, under the names that it is stored by."""
    return {_TIMING_NAMES.get(name, name): value for name, value in asdict(timing).items()}


def timing_from_dict(record: Mapping[str, Any]) -> Timing:
    """Rebuilds a Timing from its JSON values; a row of a single block may not list it."""
    values = {name: record[stored] for stored, name in _TIMING_FIELDS.items() if stored in record}
    values["repeats"] = tuple(record["repeats"])
    for name, stored in _TIMING_NAMES.items():
        values[name] = tuple((low, reference) for low, reference in record.get(stored, ()))
    if "relative" not in values:
        values["relative"] = record["latency_s"] / record["reference_s"]
    return Timing(**values)
