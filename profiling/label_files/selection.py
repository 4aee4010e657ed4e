"""One label set out of many rows: which rows belong to it, and latencies at one machine speed.

A label set holds the networks of one device, pipeline and measurement protocol. The speed of a
machine drifts, so each latency is the label in units of the reference kernel times the reference
kernel's median time over the set.
"""

from __future__ import annotations

import logging
import math
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
from tvm_costmodel.profiling.store.serialization import dumps
from tvm_costmodel.profiling.store.staleness import stale_components, stale_summary
from tvm_costmodel.profiling.store.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """A network under one set of decisions.

    Attributes:
        decisions: As `tvm_costmodel.tuning.space.candidate.Candidate.to_dict` writes them.
        status: See `tvm_costmodel.profiling.measuring.record.STATUSES`.
        ratio: Latency over the baseline's in the same rounds; NaN where it failed.
        noise: (median - minimum) / minimum of the repeats; NaN where it failed.
        max_rel_err: Largest difference of an output, relative to its largest magnitude; NaN where
            outputs were not compared.
    """

    decisions: Mapping[str, Any]
    status: str
    ratio: float
    noise: float
    max_rel_err: float


@dataclass(frozen=True)
class LabelRecord:
    """One measured network, with its variants where those were measured."""

    graph: OpGraph
    graph_hash: str
    latency_s: float
    """Latency at the machine's usual speed: ``relative`` times the set's ``reference_s``."""
    family: str
    source: Mapping[str, Any]
    measured_s: float = math.nan
    """The plain minimum over the repeats."""
    kernels: tuple[KernelTime, ...] = ()
    noise: float = 0.0
    """(median - minimum) / minimum of the repeats of a timed block."""
    quiet: bool = True
    """False when every attempt at the label was noisy."""
    variants: tuple[Variant, ...] = ()

    @property
    def good_variants(self) -> tuple[Variant, ...]:
        """The variants that have a label."""
        return tuple(v for v in self.variants if v.status == "ok")


@dataclass(frozen=True)
class LabelSet:
    """Labels of one device, made by one pipeline under one measurement protocol."""

    device: str
    pipeline_key: str
    """Pipeline of the networks' labels, which are the baselines of their variants."""
    protocol: int
    environments: Mapping[str, Mapping[str, Any]]
    records: tuple[LabelRecord, ...]
    reference_s: float
    """The reference kernel's median time over the labels, which latencies are scaled by."""
    pipeline: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def machine(self) -> dict[str, Any]:
        """What made the labels, for a card: processor, instruction sets, caches, cores, TVM.

        ``reference_s`` is the reference kernel's speed there. Facts that are not on record, as
        instruction sets in older labels, are left out.
        """
        facts = next(iter(self.environments.values()), {})
        known = ("cpu", "instruction_sets", "caches", "cores")
        machine = {name: facts[name] for name in known if name in facts}
        tvm = facts.get("packages", {}).get("apache-tvm")
        return machine | {"reference_s": self.reference_s} | ({"apache-tvm": tvm} if tvm else {})

    @property
    def hash(self) -> str:
        """Content key over device, pipeline, graphs, latencies and ratios of variants."""
        if any(record.variants for record in self.records):
            with_ratios = [
                (
                    record.graph_hash,
                    f"{record.latency_s:.6g}",
                    [(dumps(v.decisions), f"{v.ratio:.6g}") for v in record.good_variants],
                )
                for record in self.records
            ]
            return content_key(self.device, self.pipeline_key, with_ratios)
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


def fresh_rows(
    rows: Sequence[Measurement], where: str, graphs: Mapping[str, OpGraph] | None = None
) -> tuple[Measurement, ...]:
    """The rows that are not stale, with one warning that counts the others.

    Args:
        rows: Rows, good and failed.
        where: The store or file, for the warning.
        graphs: Graphs that were read already, by their hash.

    Raises:
        StoreError: There are good rows, but only stale ones.
    """
    stale = [stale_components(row, (graphs or {}).get(row.graph_hash)) for row in rows]
    fresh = tuple(row for row, names in zip(rows, stale, strict=True) if not names)
    if len(fresh) == len(rows):
        return fresh
    counted = stale_summary([names for names in stale if names])
    remedy = "measure them again with `tvm-costmodel profile --remeasure-stale --store DB`"
    if any(row.status == "ok" for row in rows) and not any(row.status == "ok" for row in fresh):
        raise StoreError(
            f"{where}: all its labels are stale: {counted} changed since; {remedy}, or take "
            "them as they are with --keep-stale (keep_stale=True)"
        )
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
    remedy = "measure the network again, or leave that row out"
    graphs = {row.graph_hash: require_own_graph(row, where, remedy) for row in good}
    if not keep_stale:
        good = list(fresh_rows(good, where, graphs))
    references = [row.timing.reference_s for row in good if row.timing is not None]
    reference_s = quantile(references, 0.5) if references else 0.0
    return LabelSet(
        device=header["device"],
        pipeline_key=header["pipeline_key"],
        pipeline=header["pipeline"],
        protocol=header["protocol"],
        environments=header["environments"],
        records=tuple(_record(row, graphs[row.graph_hash], reference_s) for row in good),
        reference_s=reference_s,
        note=header["note"],
    )


def _record(row: Measurement, graph: OpGraph, reference_s: float) -> LabelRecord:
    assert row.timing is not None
    return LabelRecord(
        graph=graph,
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
