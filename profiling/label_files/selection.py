"""One label set out of many rows: which rows belong to it, and latencies at one machine speed.

A label set holds the networks of one device, pipeline and measurement protocol. The speed of a
machine drifts, so each latency is the label in units of the reference kernel times the reference
kernel's median time over the set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm_costmodel.errors import StoreError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.measuring.record import (
    KernelTime,
    Measurement,
    content_key,
    quantile,
)
from tvm_costmodel.profiling.measuring.sanity import require_own_graph
from tvm_costmodel.profiling.store.staleness import stale_components, stale_summary
from tvm_costmodel.profiling.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRecord:
    """One measured network."""

    graph: OpGraph
    graph_hash: str
    latency_s: float
    """Latency at the machine's usual speed: ``relative`` times the set's ``reference_s``."""
    measured_s: float
    """The plain minimum over the repeats."""
    family: str
    source: Mapping[str, Any]
    kernels: tuple[KernelTime, ...] = ()
    noise: float = 0.0
    """(median - minimum) / minimum of the repeats of a timed block."""
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
    """The reference kernel's median time over the labels, which latencies are scaled by."""
    note: str = ""

    @property
    def hash(self) -> str:
        """Content key over device, pipeline, graphs and latencies, whatever their order."""
        rows = sorted((r.graph_hash, f"{r.latency_s:.6g}") for r in self.records)
        return content_key(self.device, self.pipeline_key, self.protocol, rows)

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class Selection:
    """The rows of a store that make one label set."""

    device: str
    pipeline_key: str
    protocol: int
    rows: tuple[Measurement, ...] = field(repr=False, default=())


def select_rows(store: Store, device: str | None, pipeline_key: str | None) -> Selection:
    """The rows of one device, pipeline and protocol, good and failed, by graph hash.

    Args:
        store: The store.
        device: Whose rows to take; may be left out when the store has one device only.
        pipeline_key: Which pipeline's rows to take; may be left out when there is one only.

    Raises:
        StoreError: No labels, or several devices or pipelines to choose from.
    """
    devices = sorted({s.device for s in store.summary() if s.ok})
    if device is None:
        if len(devices) > 1:
            raise StoreError(
                f"store {store.path} has labels of {len(devices)} devices: {', '.join(devices)}; "
                "name one with --device"
            )
        device = devices[0] if devices else "any"
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
    return Selection(device, pipeline_key, protocol, tuple(rows))


def fresh_rows(rows: Sequence[Measurement], where: str) -> tuple[Measurement, ...]:
    """The rows that are not stale, with one warning that counts the others.

    Args:
        rows: Rows, good and failed.
        where: The store or file, for the warning.

    Raises:
        StoreError: There are good rows, but only stale ones.
    """
    stale = [stale_components(row) for row in rows]
    fresh = tuple(row for row, names in zip(rows, stale, strict=True) if not names)
    if len(fresh) == len(rows):
        return fresh
    counted = stale_summary([names for names in stale if names])
    remedy = "measure them again with `tvm-costmodel profile --remeasure-stale --store DB`"
    if any(row.status == "ok" for row in rows) and not any(row.status == "ok" for row in fresh):
        raise StoreError(f"{where}: all its labels are stale: {counted} changed since; {remedy}")
    logger.warning("%s: left out %s whose code has changed since; %s", where, counted, remedy)
    return fresh


def label_set(
    header: Mapping[str, Any],
    rows: Sequence[Measurement],
    where: str,
    keep_stale: bool = False,
) -> LabelSet:
    """The good rows as labels at the machine's usual speed.

    Args:
        header: Device, pipeline, protocol, environments and note, as in an exported file.
        rows: The rows; failed ones are left out.
        where: The store or file that they are from, for messages.
        keep_stale: Also take labels of code that has changed since.

    Raises:
        StoreError: All labels are stale, or a row's graph is not the one that it is kept under.
    """
    good = [row for row in rows if row.status == "ok" and row.timing is not None]
    if not keep_stale:
        good = list(fresh_rows(good, where))
    references = [row.timing.reference_s for row in good if row.timing is not None]
    reference_s = quantile(references, 0.5) if references else 0.0
    return LabelSet(
        device=header["device"],
        pipeline_key=header["pipeline_key"],
        pipeline=header["pipeline"],
        protocol=header["protocol"],
        environments=header["environments"],
        records=tuple(_record(row, reference_s, where) for row in good),
        reference_s=reference_s,
        note=header["note"],
    )


def _record(row: Measurement, reference_s: float, where: str) -> LabelRecord:
    assert row.timing is not None
    return LabelRecord(
        graph=require_own_graph(row, where, "measure the network again, or leave that row out"),
        graph_hash=row.graph_hash,
        latency_s=usual_latency(row.timing.relative, reference_s),
        measured_s=row.timing.latency_s,
        family=row.family,
        source=row.source,
        kernels=row.kernels,
        noise=row.timing.noise,
        quiet=row.timing.quiet,
    )


def usual_latency(relative: float, reference_s: float) -> float:
    """Seconds at the usual speed of the machine, to seven significant figures."""
    return float(f"{relative * reference_s:.7g}")


def noise_note(rows: tuple[Measurement, ...]) -> str:
    """One line that says how noisy the labels' repeats were."""
    timings = [row.timing for row in rows if row.timing is not None]
    if not timings:
        return "no labels"
    spreads = [t.noise for t in timings]
    noisy = sum(not t.quiet for t in timings)
    return (
        f"median over minimum of the repeats: {quantile(spreads, 0.5):.2%} typical, "
        f"{quantile(spreads, 0.9):.2%} at the 90th percentile; "
        f"{noisy} of {len(timings)} labels stayed noisy after re-measuring"
    )
