"""Variants as labels: networks, each measured under several decisions, interleaved.

In a store, variants are rows whose pipeline lists its decisions. The file is ``.jsonl.xz`` like
that of `tvm_costmodel.profiling.label_files.networks`: a header, then a line for each network with
its variants. Equal stores give equal bytes.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import BadRowError, StoreError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.label_files.jsonl_xz import LineFormat
from tvm_costmodel.profiling.label_files.selection import LabelRecord, LabelSet, Variant, fresh_rows
from tvm_costmodel.profiling.measuring.record import Measurement, quantile
from tvm_costmodel.profiling.measuring.sanity import is_latency, readable
from tvm_costmodel.profiling.store.serialization import dumps
from tvm_costmodel.profiling.store.staleness import stale_components, stale_summary
from tvm_costmodel.profiling.store.store import Store

logger = logging.getLogger(__name__)

_HEADER = ("device", "pipeline_key", "reference_s")
FORMAT = LineFormat("tvm-costmodel-variants", 1, "variants", _HEADER)


def read_variants(
    path: str | Path, device: str | None = None, keep_stale: bool = False
) -> LabelSet:
    """Reads variants from a store (``.db``) or an exported file (``.jsonl.xz``).

    Args:
        path: The store or file.
        device: Whose variants to take; may be left out when there is one device only.
        keep_stale: Also take variants of code that has changed since. They are left out
            otherwise, with a warning that counts them; so is a network whose baseline is stale.

    Raises:
        StoreError: Missing, damaged or foreign file, no variants, or several devices or baseline
            pipelines to choose from; a row that no measurement gives.
    """
    in_file = str(path).endswith(".xz")
    lines = FORMAT.read(Path(path)) if in_file else _lines(path, device, keep_stale)
    header = next(lines)
    if device is not None and header["device"] != device:
        raise StoreError(f"{path} holds variants of {header['device']!r}, not of {device!r}")
    pairs = [(_checked_record(line, str(path)), line) for line in lines]
    records = tuple(record for record, _ in pairs)
    if in_file and not keep_stale:
        records = _fresh_records(pairs, str(path))
    return LabelSet(
        device=header["device"],
        pipeline_key=header["pipeline_key"],
        protocol=header.get("protocol", 1),
        environments=header.get("environments", {}),
        records=records,
        reference_s=header["reference_s"],
    )


def export_variants(
    stores: Sequence[str | Path], path: str | Path, device: str | None = None
) -> dict[str, Any]:
    """Writes the variants of one or several stores as a ``.jsonl.xz`` file, atomically.

    Returns:
        The header that the file begins with.

    Raises:
        StoreError: As `read_variants`; or the file cannot be written.
    """
    headers, networks = [], []
    for store in stores:
        header, *lines = _lines(store, device)
        headers.append(header)
        # Latencies are scaled to the speed of the first store's machine.
        speed = headers[0]["reference_s"] / header["reference_s"]
        networks += [{**n, "latency_s": _seven_figures(n["latency_s"] * speed)} for n in lines]
    if len({(h["device"], h["pipeline_key"]) for h in headers}) > 1:
        raise StoreError("the stores hold variants of several devices or pipelines; export each")
    networks.sort(key=lambda line: line["graph_hash"])
    merged = {**headers[0], **_counts(networks)}
    for header in headers[1:]:
        merged["environments"] = {**merged["environments"], **header["environments"]}
    FORMAT.write(path, (merged, *networks))
    return merged


def _seven_figures(value: float) -> float:
    """A number to seven significant figures, far below the noise."""
    return float(f"{value:.7g}")


def _three_figures(error: float | None) -> float | None:
    """A difference of outputs to three significant figures; None where there was no comparison."""
    return None if error is None else float(f"{error:.3g}")


def _fresh_records(
    pairs: Sequence[tuple[LabelRecord, Mapping[str, Any]]], where: str
) -> tuple[LabelRecord, ...]:
    """The records of a file's lines without what is stale, with one warning that counts it."""
    fresh, stale = [], []
    for record, line in pairs:
        if names := stale_components(_outline(record, line, {}), record.graph):
            stale.append(names)
            continue
        kept = []
        for variant, entry in zip(record.variants, line["variants"], strict=True):
            names = stale_components(_outline(record, entry, variant.decisions), record.graph)
            (stale.append(names) if names else kept.append(variant))
        fresh.append(replace(record, variants=tuple(kept)))
    if stale:
        logger.warning("%s: left out %s whose code has changed since", where, stale_summary(stale))
    return tuple(fresh)


def _outline(
    record: LabelRecord, entry: Mapping[str, Any], decisions: Mapping[str, Any]
) -> Measurement:
    """What a file keeps of a row, as far as staleness depends on it."""
    settings: dict[str, Any] = {"kernels": decisions.get("operators")}
    if decisions.get("network"):
        settings |= {"join_products": True, "precision": True}  # it may be either
    return Measurement(
        key="",
        graph_hash=record.graph_hash,
        graph="",
        device="",
        config_key="",
        pipeline={"config": settings},
        family=record.family,
        source=record.source,
        source_key="",
        status="ok",
        components=entry.get("components"),
    )


def _lines(
    path: str | Path, device: str | None, keep_stale: bool = False
) -> Iterator[dict[str, Any]]:
    """The lines of a file with a store's variants."""
    with Store(path, write=False) as store:
        rows = [r for r in store.measurements(device, status=None) if r.graph_hash]
        environments = store.environments()
    if not keep_stale:
        rows = list(fresh_rows(rows, str(path)))
    with_decisions = [row for row in rows if row.pipeline.get("decisions")]
    devices = sorted({row.device for row in with_decisions})
    if len(devices) != 1:
        names = ", ".join(devices) or "none"
        raise StoreError(
            f"{path} holds variants of {len(devices)} devices ({names}); name one, or measure some "
            "with `tvm-costmodel profile --suite default --variants 7`"
        )
    baseline_of = {
        row.graph_hash: row for row in rows if not row.pipeline.get("decisions") and row.timing
    }
    variants: dict[str, list[Measurement]] = {}
    for row in with_decisions:
        if row.graph_hash in baseline_of:
            variants.setdefault(row.graph_hash, []).append(row)
    keys = {baseline_of[graph_hash].config_key for graph_hash in variants}
    if len(keys) != 1:
        raise StoreError(
            f"{path} holds variants of {len(keys)} baseline pipelines; use one store each"
        )
    baselines = [baseline_of[graph_hash] for graph_hash in sorted(variants)]
    references = [row.timing.reference_s for row in baselines if row.timing is not None]
    reference_s = _seven_figures(quantile(references, 0.5))
    networks = [_network_line(row, variants[row.graph_hash], reference_s) for row in baselines]
    ids = {row.environment_id for row in baselines}
    yield {
        "format": FORMAT.name,
        "version": FORMAT.version,
        "device": devices[0],
        "pipeline_key": keys.pop(),
        "protocol": baselines[0].protocol,
        "environments": {key: facts for key, facts in environments.items() if key in ids},
        "reference_s": reference_s,
        **_counts(networks),
    }
    yield from networks


def _counts(networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    statuses = Counter(v["status"] for line in networks for v in line["variants"])
    return {
        "networks": len(networks),
        "statuses": dict(sorted(statuses.items())),
        "families": dict(sorted(Counter(line["family"] for line in networks).items())),
    }


def _network_line(
    row: Measurement, variants: Sequence[Measurement], reference_s: float
) -> dict[str, Any]:
    assert row.timing is not None
    lines = [_variant_line(v) for v in variants]
    return _record_of(row) | {
        "graph_hash": row.graph_hash,
        "graph": json.loads(row.graph),
        "family": row.family,
        "source": dict(row.source),
        "latency_s": _seven_figures(row.timing.relative * reference_s),
        "variants": sorted(lines, key=lambda line: dumps(line["decisions"])),
    }


def _record_of(row: Measurement) -> dict[str, Any]:
    return {} if row.components is None else {"components": dict(row.components)}


def _variant_line(row: Measurement) -> dict[str, Any]:
    line = {"decisions": row.pipeline["decisions"], "status": row.status, **_record_of(row)}
    timing = row.timing
    if timing is not None and timing.ratio is not None:
        line |= {
            "ratio": float(f"{timing.ratio:.6g}"),
            "noise": round(timing.noise, 4),
            "max_rel_err": _three_figures(timing.max_rel_err),
        }
    return line if row.status == "ok" else line | {"error": row.error[:500]}


def _checked_record(line: Mapping[str, Any], where: str) -> LabelRecord:
    """A line of a file as a record.

    Raises:
        BadRowError: It is damaged, or holds what no measurement gives.
    """
    name, remedy = str(line.get("graph_hash")), "export the variants again, without that network"
    with readable(where, name, remedy):
        record = _record(line)
        fault = "" if is_latency(record.latency_s) else f"latency_s is {record.latency_s}"
        for variant in record.good_variants:
            if not 1e-6 <= variant.ratio <= 1e6:
                fault = f"a variant takes {variant.ratio} of the baseline's time"
    if not fault and record.graph.hash != record.graph_hash:
        fault = f"its graph has the hash {record.graph.hash}"
    if fault:
        raise BadRowError(f"{where}: row {name}: {fault}; {remedy}")
    return record


def _record(line: Mapping[str, Any]) -> LabelRecord:
    nan = float("nan")
    variants = tuple(
        Variant(
            v["decisions"],
            v["status"],
            v.get("ratio", nan),
            v.get("noise", nan),
            nan if v.get("max_rel_err") is None else v["max_rel_err"],
        )
        for v in line["variants"]
    )
    return LabelRecord(
        graph=OpGraph.from_json(json.dumps(line["graph"])),
        graph_hash=line["graph_hash"],
        family=line["family"],
        source=line["source"],
        latency_s=line["latency_s"],
        variants=variants,
    )
