"""Label sets of networks: read from a store, or written to and read from one compact file.

The file is ``.jsonl.xz``: JSON Lines, compressed. Its first line is a header (format, device,
pipeline, protocol, environments, note on noise, counts), then follows a line for each kernel and
for each network, which names its kernels by their number. Equal stores give equal bytes.
"""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tvm_costmodel.bounded_reading import require_types
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.label_files.jsonl_xz import LineFormat
from tvm_costmodel.profiling.label_files.selection import (
    LabelSet,
    Selection,
    fresh_rows,
    label_set,
    noise_note,
    select_rows,
    usual_latency,
)
from tvm_costmodel.profiling.measuring.record import (
    KernelTime,
    Measurement,
    Timing,
    measurement_key,
    quantile,
)
from tvm_costmodel.profiling.measuring.sanity import require_own_graph, require_sane
from tvm_costmodel.profiling.store.serialization import dumps, timing_from_dict, timing_to_dict
from tvm_costmodel.profiling.store.store import Store

_HEADER = ("device", "pipeline_key", "pipeline", "protocol", "environments", "note")
FORMAT = LineFormat("tvm-costmodel-labels", 1, "label", _HEADER)
SHIPPED = Path(__file__).parent.parent / "labels"
"""Folder of the labels that ship with the package, ``<device>.jsonl.xz``."""

_REMEDY = "export the store again, without that row"
_EXACT = ("latency_s", "relative", "reference_s")
_HEADER_TYPES: dict[str, type | tuple[type, ...]] = {
    "device": str,
    "pipeline_key": str,
    "pipeline": dict,
    "protocol": int,
    "environments": dict,
}


@dataclass(frozen=True)
class LabelOutline:
    """The good labels of an exported file, without graphs and kernels, which are slow to read."""

    device: str
    pipeline_key: str
    graph_hashes: tuple[str, ...]
    families: tuple[str, ...]
    latency_s: tuple[float, ...]


def read_labels(
    path: str | Path,
    device: str | None = None,
    pipeline_key: str | None = None,
    keep_stale: bool = False,
) -> LabelSet:
    """Reads a training set from a store (``.db``) or an exported file (``.jsonl.xz``).

    Args:
        path: The store or file.
        device: Whose labels to take; may be left out when there is one device only.
        pipeline_key: Which pipeline's labels to take; may be left out when there is one only.
        keep_stale: Also take labels of code that has changed since. They are left out otherwise,
            with a warning that counts them.

    Returns:
        The good labels, by graph hash. Each has a graph, at least one operator and a latency.

    Raises:
        StoreError: Missing, damaged or foreign file, no labels, or several devices or pipelines
            to choose from; a row that no measurement gives.
    """
    if str(path).endswith(".xz"):
        return _read_file(Path(path), device, pipeline_key, keep_stale)
    with Store(path, write=False) as store:
        selection = select_rows(store, device, pipeline_key)
        header = _header(store, selection)
    return label_set(header, selection.rows, str(path), keep_stale)


def read_outline(path: str | Path) -> LabelOutline:
    """Reads which networks an exported file (``.jsonl.xz``) holds, and their latencies.

    Raises:
        StoreError: The file is missing, damaged or foreign.
    """
    header, lines = _open(Path(path))
    hashes, families, labels = [], [], []
    for number, line in lines:
        with _line(path, number):
            if "kernel" in line or line["status"] != "ok":
                continue
            hashes.append(line["graph_hash"])
            families.append(line["family"])
            timing = _timing(line["timing"])
            labels.append((timing.relative, timing.reference_s))
    reference_s = quantile([reference for _, reference in labels], 0.5) if labels else 0.0
    latency_s = tuple(usual_latency(relative, reference_s) for relative, _ in labels)
    return LabelOutline(
        device=header["device"],
        pipeline_key=header["pipeline_key"],
        graph_hashes=tuple(hashes),
        families=tuple(families),
        latency_s=latency_s,
    )


def export_dataset(
    store: Store, path: str | Path, device: str | None = None, pipeline_key: str | None = None
) -> dict[str, Any]:
    """Writes the labels of one device and pipeline as a ``.jsonl.xz`` file, atomically.

    Returns:
        The header that the file begins with.

    Raises:
        StoreError: No labels, several pipelines or devices, or the file cannot be written.
    """
    selection = select_rows(store, device, pipeline_key)
    selection = replace(selection, rows=fresh_rows(selection.rows, str(store.path)))
    kernels = {k.hash: k for row in selection.rows for k in row.kernels}
    header = _header(store, selection)
    order = {h: number for number, h in enumerate(sorted(kernels))}
    lines = [header, *(_kernel_line(kernels[h]) for h in order)]
    lines += [_network_line(row, order) for row in selection.rows]
    FORMAT.write(path, lines)
    return header


def import_dataset(store: Store, path: str | Path) -> int:
    """Adds the labels of an exported file to a store; adds none when the file is damaged.

    Returns:
        The number of rows added; fresh rows that the store already has are left as they are.

    Raises:
        StoreError: The file is missing, damaged or foreign.
    """
    header, rows = _read_rows(Path(path))
    rows = [row for row in rows if store.status(row.key) is None]
    for row in rows:
        if row.graph:
            require_own_graph(row, str(path), _REMEDY)
    for environment_id, facts in header["environments"].items():
        store.put_environment(environment_id, facts)
    for row in rows:
        store.put_measurement(row)
    return len(rows)


def _header(store: Store, selection: Selection) -> dict[str, Any]:
    """The first line of a file: what its labels have in common, and counts."""
    good = [row for row in selection.rows if row.status == "ok"]
    pipelines = store.pipelines()
    if selection.pipeline_key not in pipelines:
        raise StoreError(
            f"store {store.path} has lost the settings of pipeline {selection.pipeline_key!r}, so "
            "it is damaged; measure into a new store"
        )
    return {
        "format": FORMAT.name,
        "version": FORMAT.version,
        "device": selection.device,
        "pipeline_key": selection.pipeline_key,
        "pipeline": pipelines[selection.pipeline_key],
        "protocol": selection.protocol,
        "environments": _environments_of(store, selection.rows),
        "note": noise_note(selection.rows),
        "networks": len(good),
        "kernels": len({k.hash for row in selection.rows for k in row.kernels}),
        "statuses": dict(sorted(Counter(row.status for row in selection.rows).items())),
        "families": dict(sorted(Counter(row.family for row in good).items())),
    }


def _environments_of(store: Store, rows: tuple[Measurement, ...]) -> dict[str, dict[str, Any]]:
    ids = {row.environment_id for row in rows}
    return {key: facts for key, facts in store.environments().items() if key in ids}


def _short(value: Any) -> Any:
    """Rounds floats to seven significant figures, far below the noise, except the labels."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, Mapping):
        return {k: item if k in _EXACT else _short(item) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return value


def _kernel_line(kernel: KernelTime) -> dict[str, Any]:
    record = asdict(kernel)
    record["kernel"] = record.pop("hash")
    record.pop("calls")
    for name in ("template", "components"):  # of rows without a record
        if record[name] is None:
            del record[name]
    latency_s, noise = float(f"{kernel.latency_s:.6g}"), round(kernel.noise, 4)
    return record | {"latency_s": latency_s, "noise": noise}


def _kernel_from(line: Mapping[str, Any]) -> KernelTime:
    record = {key: value for key, value in line.items() if key != "kernel"}
    parameters = tuple((tuple(shape), dtype) for shape, dtype in record.pop("parameters"))
    return KernelTime(hash=line["kernel"], calls=1, parameters=parameters, **record)


def _network_line(row: Measurement, order: Mapping[str, int]) -> dict[str, Any]:
    record = {} if row.components is None else {"components": dict(row.components)}
    return record | {
        "graph_hash": row.graph_hash,
        "graph": json.loads(row.graph) if row.graph else None,
        "family": row.family,
        "source": dict(row.source),
        "source_key": row.source_key,
        "status": row.status,
        "error": row.error,
        "timing": _short(timing_to_dict(row.timing)) if row.timing else None,
        "kernels": [[k.name, order[k.hash], k.calls] for k in row.kernels],
        "unscheduled": list(row.unscheduled),
        "environment": row.environment_id,
        "created_at": row.created_at,
        "seconds": _short(dict(row.seconds)),
    }


def _timing(record: Mapping[str, Any]) -> Timing:
    timing = timing_from_dict(record)
    for value in (timing.latency_s, timing.relative, timing.reference_s):
        if not isinstance(value, int | float):
            raise TypeError(f"{value!r} is no number of seconds")
    return timing


def _measurement_from(
    line: Mapping[str, Any], header: Mapping[str, Any], kernels: Sequence[KernelTime]
) -> Measurement:
    network = line["graph_hash"] or line["source_key"]
    timing = _timing(line["timing"]) if line["timing"] or line["status"] == "ok" else None
    calls_of = line["kernels"]
    used = tuple(replace(kernels[at], name=name, calls=calls) for name, at, calls in calls_of)
    return Measurement(
        key=measurement_key(network, header["device"], header["pipeline_key"], header["protocol"]),
        graph_hash=line["graph_hash"],
        graph=dumps(line["graph"]) if line["graph"] else "",
        device=header["device"],
        config_key=header["pipeline_key"],
        pipeline=header["pipeline"],
        family=line["family"],
        source=line["source"],
        source_key=line["source_key"],
        status=line["status"],
        error=line["error"],
        timing=timing,
        kernels=used,
        unscheduled=tuple(line["unscheduled"]),
        environment_id=line["environment"],
        protocol=header["protocol"],
        created_at=line["created_at"],
        seconds=line["seconds"],
        components=line.get("components"),
    )


def _read_rows(path: Path) -> tuple[dict[str, Any], list[Measurement]]:
    """The header and every row of an exported file, failed ones too."""
    header, lines = _open(path)
    kernels: list[KernelTime] = []
    rows = []
    for number, line in lines:
        with _line(path, number):
            if "kernel" in line:
                kernels.append(_kernel_from(line))
            else:
                row = _measurement_from(line, header, kernels)
                require_sane(row, f"{path} line {number}", _REMEDY)
                rows.append(row)
    return header, rows


def _open(path: Path) -> tuple[dict[str, Any], Iterator[tuple[int, dict[str, Any]]]]:
    """The header of an exported file, whole, and its further lines with their numbers."""
    lines = FORMAT.read(path)
    header = next(lines)
    try:
        require_types(header, _HEADER_TYPES)
    except ValueError as error:
        raise StoreError(f"{path} is damaged: its header's {error}; export it again") from None
    return header, enumerate(lines, 2)


@contextmanager
def _line(path: str | Path, number: int) -> Iterator[None]:
    """Turns errors of a malformed line into a StoreError that names it."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged: line {number} is no label ({type(error).__name__}: {error}); "
            "export the store again"
        ) from error


def _read_file(
    path: Path, device: str | None, pipeline_key: str | None, keep_stale: bool
) -> LabelSet:
    with _no_collection():
        header, rows = _read_rows(path)
        for name, value in (("device", device), ("pipeline_key", pipeline_key)):
            if value is not None and value != header[name]:
                raise StoreError(f"{path} holds labels of {name} {header[name]!r}, not {value!r}")
        return label_set(header, rows, str(path), keep_stale)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of objects that all stay: looking for garbage among them takes a third longer."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
