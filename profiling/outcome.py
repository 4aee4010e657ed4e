"""Outcomes of measuring: what a row becomes, and what a run reports of its networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from tvm_costmodel.profiling.measuring.record import KernelTime, Measurement, measurement_key
from tvm_costmodel.profiling.sources import Source
from tvm_costmodel.profiling.store.staleness import record_of_failure
from tvm_costmodel.profiling.worker.client import WorkerFailure


@dataclass(frozen=True)
class SourceResult:
    """The outcome of one source."""

    family: str
    key: str
    graph_hash: str
    status: str
    latency_s: float | None
    reused: bool
    error: str = ""


@dataclass(frozen=True)
class ProfileSummary:
    """Counts and results of a run.

    ``measured + reused + failed`` is the number of networks that it went through.
    """

    measured: int
    reused: int
    failed: int
    store: str
    device: str
    pipeline_key: str
    seconds: float
    stopped: str
    """Why it ended: ``finished``, ``count``, ``minutes`` or ``interrupted``."""
    results: tuple[SourceResult, ...] = field(repr=False, default=())

    @property
    def interrupted(self) -> bool:
        """Whether a keyboard interrupt ended it."""
        return self.stopped == "interrupted"


def empty_row(
    source: Source,
    device: str,
    pipeline: tuple[str, Mapping[str, Any]],
    environment_id: str,
    graph: tuple[str, str] = ("", ""),
) -> Measurement:
    """A row of a source before anything was measured.

    Args:
        source: The network.
        device: Name of the device.
        pipeline: Key and settings of what it is built with.
        environment_id: Key of the machine's facts.
        graph: Hash and JSON of its graph; empty where they are not known yet.
    """
    key, settings = pipeline
    return Measurement(
        key=measurement_key(graph[0] or source.key, device, key),
        graph_hash=graph[0],
        graph=graph[1],
        device=device,
        config_key=key,
        pipeline=settings,
        family=source.family,
        source=source.to_dict(),
        source_key=source.key,
        status="ok",
        environment_id=environment_id,
    )


def status_of(stage: str, failure: WorkerFailure) -> str:
    """A row's status from the stage that failed and how."""
    if stage == "source":
        return "source_failed"
    return f"{stage}_timeout" if failure.kind == "timeout" else f"{stage}_failed"


def now() -> str:
    """The time as rows keep it: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def better_row(new: Measurement, old: Measurement | None) -> Measurement:
    """The new row, with the old label where that was quieter or, both being noisy, faster."""
    if old is None or old.timing is None or old.status != "ok" or new.timing is None:
        return new
    if new.timing.quiet or new.timing.latency_s < old.timing.latency_s:
        return new
    return replace(new, timing=old.timing, environment_id=old.environment_id)


def kernel_time(kernel: Mapping[str, Any], times: Sequence[float]) -> KernelTime:
    """A kernel's row, from the worker's description of it and its times (latency, noise)."""
    parameters = tuple((tuple(shape), dtype) for shape, dtype in kernel["parameters"])
    return KernelTime(
        name=kernel["name"],
        hash=kernel["hash"],
        calls=kernel["calls"],
        latency_s=times[0],
        noise=times[1],
        parameters=parameters,
        template=kernel.get("template"),
        components=kernel.get("components"),
    )


def with_build(row: Measurement, built: Mapping[str, Any]) -> Measurement:
    """The row with what the worker says of its build."""
    return replace(row, unscheduled=tuple(built["unscheduled"]), components=built.get("components"))


def failed_row(row: Measurement, stage: str, failure: WorkerFailure, error: str) -> Measurement:
    """The row of a network that failed in a stage, ``source``, ``build`` or ``run``."""
    components = record_of_failure(row) if row.components is None else row.components
    return replace(row, status=status_of(stage, failure), error=error, components=components)


def result_of(row: Measurement) -> SourceResult:
    """The outcome of a newly measured source, from its row."""
    return SourceResult(
        family=row.family,
        key=row.key,
        graph_hash=row.graph_hash,
        status=row.status,
        latency_s=row.latency_s if row.status == "ok" else None,
        reused=False,
        error=row.error,
    )
