"""Labels as a training set: read from a store or from one compact, portable file.

The file is ``.jsonl.xz``: JSON Lines, compressed. Its first line is a header (format, device,
pipeline, protocol, environments, note on noise, counts), then follows a line for each kernel and
for each network, which names its kernels by their number. Equal stores give equal bytes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import StoreError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.profiling.line_files import LineFormat
from tvm_costmodel.profiling.measurement import (
    KernelTime,
    Measurement,
    Timing,
    content_key,
    measurement_key,
    quantile,
)
from tvm_costmodel.profiling.rows import dumps, timing_from_dict
from tvm_costmodel.profiling.store import Store

FORMAT = LineFormat("tvm-costmodel-labels", 1, "label")
SHIPPED = Path(__file__).parent / "labels"
"""Folder of the labels that ship with the package, ``<device>.jsonl.xz``."""

_EXACT = ("latency_s", "relative", "reference_s")
_HEADER = ("device", "pipeline_key", "pipeline", "protocol", "environments", "note")


@dataclass(frozen=True)
class LabelRecord:
    """One measured network."""

    graph: OpGraph
    graph_hash: str
    latency_s: float
    """Latency at the label set's usual speed of the machine: ``relative`` times the reference."""
    measured_s: float
    """The plain minimum over the repeats."""
    family: str
    source: Mapping[str, Any]
    kernels: tuple[KernelTime, ...] = ()
    noise: float = 0.0
    """(median - minimum) / minimum of the repeats of a visit."""
    quiet: bool = True
    """False when every attempt at the label was noisy."""


@dataclass(frozen=True)
class LabelSet:
    """Labels of one device, made by one pipeline under one measurement protocol."""

    device: str
    pipeline_key: str
    pipeline: Mapping[str, Any]
    protocol: int
    environments: Mapping[str, Mapping[str, Any]]
    records: tuple[LabelRecord, ...]
    reference_s: float
    """The reference kernel's usual time, the median over the labels, that latencies are put to."""
    note: str = ""

    @property
    def hash(self) -> str:
        """Content key over device, pipeline, graphs and latencies, whatever their order."""
        rows = sorted((r.graph_hash, f"{r.latency_s:.6g}") for r in self.records)
        return content_key(self.device, self.pipeline_key, self.protocol, rows)

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class LabelOutline:
    """The good labels of an exported file without graphs and kernels, which take long to read."""

    device: str
    pipeline_key: str
    graph_hashes: tuple[str, ...]
    families: tuple[str, ...]
    latency_s: tuple[float, ...]


@dataclass(frozen=True)
class _Selection:
    """The rows of a store that make one label set."""

    device: str
    pipeline_key: str
    protocol: int
    rows: tuple[Measurement, ...] = field(repr=False, default=())


def read_labels(
    path: str | Path, device: str | None = None, pipeline_key: str | None = None
) -> LabelSet:
    """Reads a training set from a store (``.db``) or an exported file (``.jsonl.xz``).

    Args:
        path: The store or file.
        device: Whose labels to take; may be left out when there is one device only.
        pipeline_key: Which pipeline's labels to take; may be left out when there is one only.

    Returns:
        The good labels, by graph hash. Each has a graph, at least one operator and a latency.

    Raises:
        StoreError: Missing, damaged or foreign file, no labels, or several devices or pipelines
            to choose from.
    """
    if str(path).endswith(".xz"):
        return _read_file(Path(path), device, pipeline_key)
    with Store(path, write=False) as store:
        chosen = _select(store, device, pipeline_key)
        header = _header(store, chosen)
    return _label_set(header, chosen.rows)


def read_outline(path: str | Path) -> LabelOutline:
    """Which networks an exported file (``.jsonl.xz``) holds, and their latencies.

    Raises:
        StoreError: The file is missing, damaged or foreign.
    """
    header, lines = _open(Path(path))
    hashes, families, times = [], [], []
    for number, line in lines:
        with _line(path, number):
            if "kernel" in line or line["status"] != "ok":
                continue
            hashes.append(line["graph_hash"])
            families.append(line["family"])
            timing = _timing(line["timing"])
            times.append((timing.relative, timing.reference_s))
    reference_s = quantile([own for _, own in times], 0.5) if times else 0.0
    latency_s = tuple(_usual_latency(relative, reference_s) for relative, _ in times)
    where = header["device"], header["pipeline_key"]
    return LabelOutline(*where, tuple(hashes), tuple(families), latency_s)


def noise_note(rows: tuple[Measurement, ...]) -> str:
    """One line on how noisy the labels' repeats were."""
    timings = [row.timing for row in rows if row.timing is not None]
    if not timings:
        return "no labels"
    noise = [t.noise for t in timings]
    loud = sum(not t.quiet for t in timings)
    return (
        f"median over minimum of the repeats: {quantile(noise, 0.5):.2%} typical, "
        f"{quantile(noise, 0.9):.2%} at the 90th percentile; "
        f"{loud} of {len(timings)} labels stayed noisy after re-measuring"
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
    chosen = _select(store, device, pipeline_key)
    kernels = {k.hash: k for row in chosen.rows for k in row.kernels}
    header = _header(store, chosen)
    order = {h: number for number, h in enumerate(sorted(kernels))}
    lines = [header, *(_kernel_line(kernels[h]) for h in order)]
    lines += [_network_line(row, order) for row in chosen.rows]
    FORMAT.write(path, lines)
    return header


def import_dataset(store: Store, path: str | Path) -> int:
    """Adds the labels of an exported file to a store; of a damaged file, none.

    Returns:
        The number of rows added; rows that the store already has are left as they are.

    Raises:
        StoreError: The file is missing, damaged or foreign.
    """
    header, everything = _read_rows(Path(path))
    rows = [row for row in everything if store.status(row.key) is None]
    for environment_id, facts in header["environments"].items():
        store.put_environment(environment_id, facts)
    for row in rows:
        store.put_measurement(row)
    return len(rows)


def _select(store: Store, device: str | None, pipeline_key: str | None) -> _Selection:
    """Chooses the one device, pipeline and protocol to read, or says which there are."""
    held = sorted({s.device for s in store.summary() if s.ok})
    if device is None:
        if len(held) > 1:
            raise StoreError(
                f"store {store.path} has labels of {len(held)} devices: {', '.join(held)}; "
                "name one with --device"
            )
        device = held[0] if held else "any"
    if pipeline_key is None:
        pipeline_key, protocol = store.require_one_pipeline(device)
    else:
        fitting = [
            s
            for s in store.summary(variants=True)
            if s.ok and s.device == device and s.pipeline_key == pipeline_key
        ]
        if not fitting:
            raise StoreError(
                f"store {store.path} has no labels of pipeline {pipeline_key!r} for {device!r}"
            )
        protocol = max(s.protocol for s in fitting)
    rows = [
        row
        for row in store.measurements(device, status=None, pipeline_key=pipeline_key)
        if row.protocol == protocol
    ]
    rows.sort(key=lambda row: (row.graph_hash, row.source_key))
    return _Selection(device, pipeline_key, protocol, tuple(rows))


def _header(store: Store, chosen: _Selection) -> dict[str, Any]:
    """What the first line of a file says of the labels that follow."""
    good = [row for row in chosen.rows if row.status == "ok"]
    return {
        "format": FORMAT.name,
        "version": FORMAT.version,
        "device": chosen.device,
        "pipeline_key": chosen.pipeline_key,
        "pipeline": store.pipelines()[chosen.pipeline_key],
        "protocol": chosen.protocol,
        "environments": _environments_of(store, chosen.rows),
        "note": noise_note(chosen.rows),
        "networks": len(good),
        "kernels": len({k.hash for row in chosen.rows for k in row.kernels}),
        "statuses": dict(sorted(Counter(row.status for row in chosen.rows).items())),
        "families": dict(sorted(Counter(row.family for row in good).items())),
    }


def _label_set(header: Mapping[str, Any], rows: Sequence[Measurement]) -> LabelSet:
    """The good rows as labels at the machine's usual speed."""
    good = [row for row in rows if row.status == "ok" and row.timing is not None]
    references = [row.timing.reference_s for row in good if row.timing is not None]
    reference_s = quantile(references, 0.5) if references else 0.0
    return LabelSet(
        device=header["device"],
        pipeline_key=header["pipeline_key"],
        pipeline=header["pipeline"],
        protocol=header["protocol"],
        environments=header["environments"],
        records=tuple(_record(row, reference_s) for row in good),
        reference_s=reference_s,
        note=header["note"],
    )


def _environments_of(store: Store, rows: tuple[Measurement, ...]) -> dict[str, dict[str, Any]]:
    used = {row.environment_id for row in rows}
    return {key: facts for key, facts in store.environments().items() if key in used}


def _record(row: Measurement, reference_s: float) -> LabelRecord:
    assert row.timing is not None
    return LabelRecord(
        graph=OpGraph.from_json(row.graph),
        graph_hash=row.graph_hash,
        latency_s=_usual_latency(row.timing.relative, reference_s),
        measured_s=row.timing.latency_s,
        family=row.family,
        source=row.source,
        kernels=row.kernels,
        noise=row.timing.noise,
        quiet=row.timing.quiet,
    )


def _usual_latency(relative: float, reference_s: float) -> float:
    """Seconds at the usual speed of the machine."""
    return float(f"{relative * reference_s:.7g}")


def _short(value: Any) -> Any:
    """Floats to seven significant digits, far below the noise; the labels themselves stay."""
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
    latency_s, noise = float(f"{kernel.latency_s:.6g}"), round(kernel.noise, 4)
    return record | {"latency_s": latency_s, "noise": noise}


def _kernel_from(line: Mapping[str, Any]) -> KernelTime:
    record = {key: value for key, value in line.items() if key != "kernel"}
    parameters = tuple((tuple(shape), dtype) for shape, dtype in record.pop("parameters"))
    return KernelTime(hash=line["kernel"], calls=1, parameters=parameters, **record)


def _network_line(row: Measurement, order: Mapping[str, int]) -> dict[str, Any]:
    return {
        "graph_hash": row.graph_hash,
        "graph": json.loads(row.graph) if row.graph else None,
        "family": row.family,
        "source": dict(row.source),
        "source_key": row.source_key,
        "status": row.status,
        "error": row.error,
        "timing": _short(asdict(row.timing)) if row.timing else None,
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
    place = line["graph_hash"] or line["source_key"]
    timing = _timing(line["timing"]) if line["timing"] or line["status"] == "ok" else None
    used = []
    for name, number, calls in line["kernels"]:
        used.append(replace(kernels[number], name=name, calls=calls))
    return Measurement(
        key=measurement_key(place, header["device"], header["pipeline_key"], header["protocol"]),
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
        kernels=tuple(used),
        unscheduled=tuple(line["unscheduled"]),
        environment_id=line["environment"],
        protocol=header["protocol"],
        created_at=line["created_at"],
        seconds=line["seconds"],
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
                rows.append(_measurement_from(line, header, kernels))
    return header, rows


def _open(path: Path) -> tuple[dict[str, Any], Iterator[tuple[int, dict[str, Any]]]]:
    """The header of an exported file, whole, and its further lines with their numbers."""
    lines = FORMAT.read(path)
    header = next(lines)
    absent = [name for name in _HEADER if name not in header]
    if absent:
        raise StoreError(
            f"{path} is damaged: its header lacks {', '.join(absent)}; export it again"
        )
    return header, enumerate(lines, 2)


@contextmanager
def _line(path: str | Path, number: int) -> Iterator[None]:
    """Tells which line of a file is none that this package wrote."""
    try:
        yield
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StoreError(
            f"{path} is damaged: line {number} is no label ({type(error).__name__}: {error}); "
            "export the store again"
        ) from error


def _read_file(path: Path, device: str | None, pipeline_key: str | None) -> LabelSet:
    header, rows = _read_rows(path)
    for name, wanted in (("device", device), ("pipeline_key", pipeline_key)):
        if wanted is not None and wanted != header[name]:
            raise StoreError(f"{path} holds labels of {name} {header[name]!r}, not {wanted!r}")
    return _label_set(header, rows)
