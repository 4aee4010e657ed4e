"""Measuring many networks: skip what is stored, build, time, commit, one row at a time."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tvm_costmodel.compilers.registry import DEFAULT_COMPILER
from tvm_costmodel.errors import BadRowError, DeviceError, MeasurementError, StoreError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.devices import Device, resolve_device
from tvm_costmodel.profiling.measuring.cpu_affinity import (
    TimingLock,
    default_cores,
    off_label_cores,
)
from tvm_costmodel.profiling.measuring.environment import environment_id
from tvm_costmodel.profiling.measuring.record import (
    KernelTime,
    Measurement,
    MeasurementConfig,
    measurement_key,
)
from tvm_costmodel.profiling.outcome import (
    ProfileSummary,
    SourceResult,
    better_row,
    empty_row,
    failed_row,
    kernel_time,
    now,
    result_of,
    with_build,
)
from tvm_costmodel.profiling.runners.rpc import session_remedy
from tvm_costmodel.profiling.sources import FileSource, Source, stored_sources
from tvm_costmodel.profiling.store.serialization import timing_from_dict
from tvm_costmodel.profiling.store.staleness import stale_components
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.verdicts import fault, stored_verdict, verdict_of
from tvm_costmodel.profiling.worker.client import Worker, WorkerFailure, error_type

logger = logging.getLogger(__name__)


class Profiler:
    """Measures networks on one device into one store.

    Args:
        device: A device or its name; ``cpu`` is this machine.
        store: Where rows go; a path is opened, and created where there is none.
        measurement: How a label is taken.
        pipeline: Fields of the compiler's config; None for its defaults.
        cores: Cores that labels are taken on; the last ones of this machine by default.
        retry_failed: Measure networks again whose stored row is a failure.
        progress: Show a bar on standard error.
        compiler: ``relax``, ``relay``, or ``package.module:ATTRIBUTE`` for a compiler of one's own,
            see `tvm_costmodel.compilers.registry.compiler_named`.
        check_machine: Refuse a store whose labels of this device come from another processor.
        timing_lock: File that programs share which measure on this machine at the same time, each
            on other cores: they build at the same time and time alone, see `TimingLock`.
        model_folders: Folders from which model files may be read that the store's rows name.
        check_outputs: Compare what a network computes with another engine's outputs, once; one
            that is wrong has ``wrong_output``.
    """

    def __init__(
        self,
        device: Device | str,
        store: Store | str | Path,
        measurement: MeasurementConfig | None = None,
        pipeline: Mapping[str, Any] | None = None,
        cores: Sequence[int] | None = None,
        retry_failed: bool = False,
        progress: bool = True,
        compiler: str = DEFAULT_COMPILER,
        check_machine: bool = True,
        timing_lock: str | Path | None = None,
        model_folders: Sequence[str | Path] = (),
        check_outputs: bool = False,
    ) -> None:
        self.device = resolve_device(device) if isinstance(device, str) else device
        self.store = store if isinstance(store, Store) else Store(store)
        self.measurement = measurement or MeasurementConfig()
        self.cores = default_cores(self.device) if cores is None else tuple(cores)
        self.model_folders = tuple(model_folders)
        self._retry_failed = retry_failed
        self._progress = progress
        self._check_machine = check_machine
        self._check_outputs = check_outputs
        self._compiler = compiler
        start = {
            "device": self.device.to_dict(),
            "cores": list(self.cores),
            "measurement": self.measurement.to_dict(),
            "pipeline": dict(pipeline) if pipeline is not None else None,
            "compiler": compiler,
        }
        lock = None if timing_lock is None else TimingLock(timing_lock)
        memory = self.measurement.memory_limit_mib
        self._worker = Worker(start, self.device.threads, memory, lock=lock)
        self._environment_id = ""
        self._pipeline_key = ""
        self._pipeline: Mapping[str, Any] = {}

    def run(
        self,
        sources: Iterable[Source],
        count: int | None = None,
        minutes: float | None = None,
        remeasure: bool = False,
    ) -> ProfileSummary:
        """Measures each source that has no row yet.

        Args:
            sources: What to measure, in this order.
            count: Stop after so many networks, measured, reused or failed.
            minutes: Start no further network after this time.
            remeasure: Measure again what has a row, its kernels too, and replace it unless the
                new label is noisy and slower.

        Returns:
            Counts and one result for each network. A keyboard interrupt ends the run cleanly, and
            ``stopped`` says so; every row committed so far stays.

        Raises:
            StoreError: The store cannot be written (the disk is full, for instance).
            CostModelError: No worker can be started on the device, the board went away, or a
                `FileSource` names a file that is not a model. What was measured before is kept.
        """
        begin = time.monotonic()
        deadline = begin + minutes * 60 if minutes is not None else float("inf")
        results: list[SourceResult] = []
        stopped = "finished"
        with off_label_cores(self.cores, self.device), self._bar(sources, count) as bar:
            try:
                self._greet()
                for source in sources:
                    if count is not None and len(results) >= count:
                        stopped = "count"
                        break
                    if time.monotonic() >= deadline:
                        stopped = "minutes"
                        break
                    results.append(self._one(source, remeasure))
                    _show(bar, results)
            except KeyboardInterrupt:
                stopped = "interrupted"
            finally:
                self._worker.stop()
        return self.summary(results, stopped, time.monotonic() - begin)

    def remeasure_stale(self, minutes: float | None = None) -> ProfileSummary:
        """Measures again the networks whose labels older code, or an older protocol, made.

        A label under an older key is dropped once its network has a row under this one.
        """
        self._greet()
        stale = self.store.stale(self.device.name, self._pipeline_key, self._pipeline)
        summary = self.run(self._stored(record for _, record in stale), minutes=minutes)
        self.store.delete_superseded(self.device.name, self._pipeline_key, self._pipeline)
        return summary

    def remeasure_noisy(self, minutes: float | None = None) -> ProfileSummary:
        """Measures again the networks whose every attempt was noisy, and their kernels."""
        self._greet()
        rows = self.store.measurements(self.device.name, pipeline_key=self._pipeline_key)
        noisy = [row.source for row in rows if row.timing is not None and not row.timing.quiet]
        return self.run(self._stored(noisy), minutes=minutes, remeasure=True)

    def _stored(self, records: Iterable[Mapping[str, Any]]) -> list[Source]:
        """Sources that the store names, from places that may be read."""
        return stored_sources(records, Path(self.store.path), self.model_folders)

    def close(self) -> None:
        """Ends the worker, which every finished run has done already."""
        self._worker.stop()

    def _greet(self) -> None:
        """Starts the worker and notes its pipeline and environment."""
        greeting = self._worker.start()
        self._pipeline_key = greeting["pipeline_key"]
        self._pipeline = greeting["pipeline"]
        facts = greeting["environment"]
        self._environment_id = environment_id(facts)
        if self._check_machine:
            self._refuse_other_machine(facts)
        self.store.put_environment(self._environment_id, facts)

    def _same_pipeline(self, greeting: Mapping[str, Any]) -> None:
        """A worker that was started later must still be the same compiler."""
        if greeting["pipeline_key"] != self._pipeline_key:
            raise MeasurementError(
                f"the compiler changed during this run (pipeline {self._pipeline_key} became "
                f"{greeting['pipeline_key']}); start the command again"
            )

    def _refuse_other_machine(self, facts: Mapping[str, Any]) -> None:
        """Labels of two processors under one device name would be mixed silently."""
        for used in self.store.environments_of_device(self.device.name):
            if used.get("cpu") != facts.get("cpu"):
                raise StoreError(
                    f"store {self.store.path} has labels for {self.device.name!r} made on "
                    f"{used.get('cpu', {}).get('model name', '?')}, and this machine is "
                    f"{facts.get('cpu', {}).get('model name', '?')}; use another --store, or a "
                    "device file with a name of its own"
                )

    def _one(self, source: Source, remeasure: bool) -> SourceResult:
        """Skips or measures one source and commits its row."""
        source_key = source.key
        graph_hash = self.store.graph_of_source(source_key)
        if graph_hash is not None and not remeasure:
            known = self._known(source, graph_hash or source_key)
            if known is not None:
                return known
        row, known = self._attempt(self._row(source), source, remeasure)
        if known is not None:
            return known
        row = replace(row, created_at=now())
        if remeasure:
            row = better_row(row, self._usable(row.key, kernels=True))
        self.store.put_measurement(row)
        if row.status != "ok":
            logger.warning("%s: %s: %s", source.family, row.status, row.error[:300])
        return result_of(row)

    def _row(
        self,
        source: Source,
        graph: tuple[str, str] = ("", ""),
        pipeline: tuple[str, Mapping[str, Any]] | None = None,
    ) -> Measurement:
        """An empty row of a source, with the run's own pipeline when none is given."""
        pipeline = pipeline or (self._pipeline_key, self._pipeline)
        return empty_row(source, self.device.name, pipeline, self._environment_id, graph)

    def _attempt(
        self, row: Measurement, source: Source, remeasure: bool
    ) -> tuple[Measurement, SourceResult | None]:
        """Describes, builds and times a source; a failure becomes the row's status."""
        limits = self.measurement
        stage, seconds = "source", {}
        try:
            self._worker.refresh()
            self._same_pipeline(self._worker.start())
            start = time.perf_counter()
            response = self._worker.request("describe", limits.source_timeout_s, source=row.source)
            seconds["source"] = time.perf_counter() - start
            graph_hash = response["graph_hash"]
            row = replace(
                row, key=self._key(graph_hash), graph_hash=graph_hash, graph=response["graph"]
            )
            known = None if remeasure else self._known(source, graph_hash)
            if known is not None:
                self.store.link_source(row.source_key, graph_hash, source.family, row.source)
                return row, known
            stage, start = "build", time.perf_counter()
            built = self._worker.request("build", limits.build_timeout_s)
            seconds["build"] = time.perf_counter() - start
            row = with_build(row, built)
            stage = "run"
            row = self._measure(row, built["kernels"], seconds, remeasure)
            self._worker.request("forget", limits.run_timeout_s)
        except WorkerFailure as failure:
            fault = error_type(failure.raised)
            if fault is DeviceError:  # the board's fault, not the network's
                raise DeviceError(str(failure)) from failure
            if stage == "source" and isinstance(source, FileSource) and fault is not None:
                raise fault(str(failure)) from failure  # the caller has to fix a bad file
            row = failed_row(row, stage, failure, self._error_text(failure))
        return replace(row, seconds=seconds), None

    def _error_text(self, failure: WorkerFailure) -> str:
        """The failure's text; TVM ends the whole worker on some breaks of a board's session."""
        if failure.kind != "crash" or self.device.runner != "rpc":
            return str(failure)
        return f"{failure}; {session_remedy(self.device)}"

    def _measure(
        self,
        row: Measurement,
        kernels: list[dict[str, Any]],
        seconds: dict[str, float],
        remeasure: bool,
    ) -> Measurement:
        """Times the built network and those kernels that have no time yet."""
        kernels = kernels if self.measurement.kernels else []
        stored = {kernel["hash"]: self._stored_kernel(kernel) for kernel in kernels}
        wanted = [h for h, known in stored.items() if known is None or remeasure]
        response = self._worker.request("measure", self.measurement.run_timeout_s, kernels=wanted)
        seconds.update(response["seconds"])
        timed: list[KernelTime] = []
        for kernel in kernels:
            times, known = response["kernels"].get(kernel["hash"]), stored[kernel["hash"]]
            if times is not None and (known is None or times[0] < known.latency_s):
                timed.append(kernel_time(kernel, times))
            elif known is not None:
                timed.append(replace(known, name=kernel["name"], calls=kernel["calls"]))
        row = replace(row, timing=timing_from_dict(response["timing"]), kernels=tuple(timed))
        text = "" if response["finite"] else "the outputs hold NaN or infinity"
        if not text and self._check_outputs:
            text = self._fault(row.graph_hash, OpGraph.from_json(row.graph))
        return replace(row, status="wrong_output", error=text) if text else row

    def _fault(self, graph_hash: str, graph: OpGraph) -> str:
        """What is wrong with the outputs of the network that was built last."""
        check = partial(self._compared_outputs, graph)
        text = fault(verdict_of(self.store, self._place(graph_hash), check))
        self._worker.start()  # another one, where the comparison ended it
        return text

    def _place(self, graph_hash: str) -> tuple[str, str, str, str]:
        """What the verdict on a network's default build is kept under."""
        return (graph_hash, self.device.name, self._pipeline_key, self._compiler)

    def _compared_outputs(self, graph: OpGraph, slot: str = "") -> dict[str, Any]:
        """The worker's verdict on the build that was made last, or is held under a name."""
        limit, fields = self.measurement.run_timeout_s, {"slot": slot, "flops": graph.flops}
        return self._worker.request("check_outputs", limit, **fields)

    def _known(self, source: Source, place: str) -> SourceResult | None:
        """The stored row of a graph hash, or of a source without one, unless to be retried."""
        row = self._usable(self._key(place))
        if row is None or (row.status != "ok" and self._retry_failed):
            return None
        compared = not self._check_outputs or row.status != "ok"
        if not compared and stored_verdict(self.store, self._place(row.graph_hash)) is None:
            return None
        return replace(result_of(row), family=source.family, reused=True)

    def _usable(self, key: str, kernels: bool = False) -> Measurement | None:
        """The stored row of a key; None where there is none, or it has to be measured again."""
        try:
            row = self.store.get(key, kernels)
        except BadRowError as error:
            logger.warning("measured again: %s", error)
            return None
        stale = stale_components(row) if row is not None else ()
        if stale:
            logger.info("measured again: row %s is stale (%s changed)", key, ", ".join(stale))
        return None if stale else row

    def _stored_kernel(self, kernel: Mapping[str, Any]) -> KernelTime | None:
        """The stored time of a kernel, made by the same versions as now."""
        place = (kernel["hash"], self.device.name, self._pipeline_key)
        return self.store.kernel(*place, kernel.get("components", {}))

    def _key(self, place: str) -> str:
        return measurement_key(place, self.device.name, self._pipeline_key)

    def summary(self, results: list[SourceResult], stopped: str, seconds: float) -> ProfileSummary:
        """Counts of a run's results."""
        done = [r for r in results if r.status == "ok"]
        return ProfileSummary(
            measured=sum(not r.reused for r in done),
            reused=sum(r.reused for r in done),
            failed=len(results) - len(done),
            store=str(self.store.path),
            device=self.device.name,
            pipeline_key=self._pipeline_key,
            seconds=seconds,
            stopped=stopped,
            results=tuple(results),
        )

    def _bar(self, sources: Iterable[Source], count: int | None) -> Any:
        held = len(sources) if isinstance(sources, Sequence) else None
        limits = [n for n in (held, count) if n is not None]
        total = min(limits) if limits else None
        return tqdm(total=total, unit="net", disable=not self._progress, smoothing=0.1)


def _show(bar: Any, results: list[SourceResult]) -> None:
    failed = sum(r.status != "ok" for r in results)
    last = results[-1].latency_s
    shown = f"{last * 1e3:.3g} ms" if last is not None else results[-1].status
    bar.set_postfix_str(f"failed {failed}, last {results[-1].family} {shown}", refresh=False)
    bar.update(1)
