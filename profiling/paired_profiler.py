"""Measuring one network under several pipelines, interleaved with the baseline.

The gain of a decision is often smaller than the machine's drift between two labels. The builds that
are compared are therefore timed interleaved in one worker, and each row holds the times of the
baseline, the default build, from the same rounds as its own. A build that fails costs its row and
at most one worker.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import BuildError, DeviceError, MeasurementError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.measuring.cpu_affinity import off_label_cores
from tvm_costmodel.profiling.measuring.record import Measurement, Timing
from tvm_costmodel.profiling.outcome import failed_row, now, with_build
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.runners.runner import TensorSpec
from tvm_costmodel.profiling.sources import Source
from tvm_costmodel.profiling.store.serialization import timing_from_dict
from tvm_costmodel.profiling.variants import VariantResult, VariantRun
from tvm_costmodel.profiling.verdicts import fault, verdict_of
from tvm_costmodel.profiling.worker.client import WorkerFailure, error_type

logger = logging.getLogger(__name__)

BASELINE = "default"
"""Name that the worker holds the default build under."""

_CONTROL = "control"  # name of a second build of the default

# Bytes of a build's constants, packed and transformed for its kernels, over the network's own.
_COPIES = 3


@contextmanager
def clocked(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Adds what the block takes to ``seconds`` of a part."""
    start = time.monotonic()
    try:
        yield
    finally:
        seconds[part] = seconds.get(part, 0.0) + time.monotonic() - start


class PairedProfiler(Profiler):
    """Measures pipelines of one network after the other; see `Profiler` for the arguments.

    Use as a context manager: the worker stays between calls and ends with it.

    Attributes:
        keep: Keys of pipelines whose builds stay in the worker's memory after they were measured;
            all others are dropped before the next builds.
        controls: Timings, from the last `measure` that asked for them, of a second build of the
            baseline: how far they are from it is what nothing but noise makes.
    """

    keep: Collection[str] = ()
    controls: list[Timing]
    _has_control = False

    def __enter__(self) -> PairedProfiler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, source: Source, graph_hash: str = "") -> OpGraph:
        """Makes the network of a source the one that trials measure.

        Args:
            source: Where the worker takes it from, and takes it again after a crash.
            graph_hash: The graph that the caller means, where it knows it.

        Returns:
            Its graph before any pass, whose ids decisions name.

        Raises:
            MeasurementError: The source gives no network, or another one than the caller means.
            CostModelError: The source's own error: a file that is no model, for instance.
        """
        self._source, self._graph_hash = source, graph_hash
        self._slots: set[str] = set()
        self._built: dict[str, dict[str, Any]] = {}  # what the worker said of each slot's build
        self._start_of_slots = 0
        self.controls = []
        self.seconds = {"builds": 0.0, "runs": 0.0}  # of this network's trials, failed ones too
        with off_label_cores(self.cores, self.device):
            self._worker.refresh()
            if not self._pipeline_key:
                self._greet()
            try:
                response = self._describe()
            except WorkerFailure as failure:
                kind = error_type(failure.raised)
                text = str(failure) if kind is not None else f"{source.family}: {failure}"
                raise (kind or MeasurementError)(text) from failure
        self._start_of_slots = self._worker.starts
        self._graph_json = response["graph"]
        self._graph = OpGraph.from_json(response["graph"])
        return self._graph

    def runtime_weights(self) -> frozenset[int]:
        """Ids of the opened network's operators whose weights are passed to it at run time."""
        return frozenset(self._request("runtime_weights")["operators"])

    def measure(
        self,
        trials: Sequence[VariantRun],
        tolerance: float | None = math.inf,
        rounds: int | None = None,
        reuse: bool = True,
        control: bool = False,
    ) -> list[VariantResult]:
        """Measures the opened network under each pipeline, interleaved with the baseline.

        Args:
            trials: What to measure.
            tolerance: Largest difference of an output from the baseline's, relative to the largest
                magnitude of it; a trial that differs more has ``wrong_output``. None compares no
                outputs, for pipelines that build for timing only; the rows then hold
                no difference.
            rounds: Timed blocks of each build; ``MeasurementConfig.blocks`` when not given.
            reuse: Take a row that the store has already instead of measuring again.
            control: Time a second build of the baseline along with the trials, see `controls`.

        Returns:
            One result for each trial, in their order; rows are in the store.

        Raises:
            MeasurementError: The baseline itself cannot be built or run.
            StoreError: The store cannot be written.
        """
        with off_label_cores(self.cores, self.device):
            rows = self._empty_rows(trials)
            results: dict[int, VariantResult] = {}
            for i, (trial, row) in enumerate(zip(trials, rows, strict=True)):
                stored = self._usable(row.key, kernels=True) if reuse else None
                if stored is not None and (stored.status == "ok" or not self._retry_failed):
                    results[i] = VariantResult(trial, stored, reused=True)
            waiting = [i for i in range(len(trials)) if i not in results]
            self.controls, self._has_control = [], control
            size = self._group_size()
            for start in range(0, len(waiting), size):
                group = {i: rows[i] for i in waiting[start : start + size]}
                done = self._group(group, tolerance, rounds or self.measurement.blocks)
                for i, row in done.items():
                    self.store.put_measurement(row)
                    results[i] = VariantResult(trials[i], row)
        return [results[i] for i in range(len(trials))]

    def require_right_outputs(self) -> None:
        """Compares the opened network's default build with another engine, once for a store.

        Raises:
            MeasurementError: It computes something else, or cannot be built or run.
        """

        def check() -> dict[str, Any]:
            with clocked(self.seconds, "check"):
                self._build_baseline()
                return self._compared_outputs(self._graph, BASELINE)

        with off_label_cores(self.cores, self.device):
            text = fault(verdict_of(self.store, self._place(self._graph_hash), check))
        if text:
            if BASELINE in self._built:  # the verdict is new
                row = self._row_of_network(self._pipeline_key, self._pipeline)
                row = replace(row, status="wrong_output", error=text, created_at=now())
                self.store.put_measurement(with_build(row, self._built[BASELINE]))
            raise MeasurementError(f"{self._source.family}: {text}")

    def export(self, fields: Mapping[str, Any] | None, path: Path) -> list[TensorSpec]:
        """Writes the library of the opened network as the worker built it.

        Args:
            fields: Fields of the pipeline, as of a `VariantRun`; None for the baseline. One that
                the worker does not hold any more is built again.
            path: The library's file.

        Returns:
            Shape and dtype of each input of the network.

        Raises:
            BuildError: It could not be built or written.
        """
        with off_label_cores(self.cores, self.device), clocked(self.seconds, "export"):
            try:
                self._build_baseline()
                slot, limit = BASELINE, self.measurement.build_timeout_s
                if fields:
                    (row,) = self._empty_rows([VariantRun(fields)])
                    slot = row.config_key
                    self._build(row)
                answer = self._worker.request("export", limit, slot=slot, path=str(path))
                return [(tuple(shape), dtype) for shape, dtype in answer["inputs"]]
            except WorkerFailure as failure:
                kind = error_type(failure.raised) or BuildError
                raise kind(str(failure)) from failure

    @property
    def baseline(self) -> Measurement | None:
        """The stored row of the opened network's default build."""
        return self.store.get(self._key(self._graph_hash))

    def _describe(self) -> dict[str, Any]:
        self._same_pipeline(self._worker.start())
        limit = self.measurement.source_timeout_s
        response = self._worker.request("describe", limit, source=self._source.to_dict())
        known, described = self._graph_hash, response["graph_hash"]
        if known not in ("", described):  # decisions name operators by their ids in the graph
            raise MeasurementError(
                f"the worker reads another network than this program, graph {described} instead of "
                f"{known}: the model changed meanwhile; start again"
            )
        self._graph_hash = described
        return response

    def _group_size(self) -> int:
        """How many trials fit into memory together with the baseline."""
        weights = sum(t.bytes for o in self._graph.operators for t in o.weights)
        most = self.measurement.memory_limit_mib * (1 << 19) / max(1, _COPIES * weights)
        return max(1, min(16, int(most)) - 1)

    def _make_room(self, keys: Collection[str]) -> None:
        """Drops builds, so that those of ``keys`` fit into memory next to those to keep."""
        others = [key for key in self.keep if key in self._slots and key not in keys]
        kept = {BASELINE, _CONTROL, *keys, *others[: max(0, self._group_size() - len(keys))]}
        dropped = sorted(self._slots - kept)
        if dropped and self._worker.starts == self._start_of_slots:
            with suppress(WorkerFailure):  # a worker that ended holds nothing
                self._worker.request("drop", self.measurement.run_timeout_s, slots=dropped)
        self._slots &= kept

    def _empty_rows(self, trials: Sequence[VariantRun]) -> list[Measurement]:
        fields = [{**self._pipeline["config"], **trial.pipeline} for trial in trials]
        pipelines = self._request("pipelines", fields=fields)["pipelines"]
        rows = []
        for trial, described in zip(trials, pipelines, strict=True):
            settings = {**described["pipeline"], "decisions": dict(trial.decisions)}
            rows.append(self._row_of_network(described["pipeline_key"], settings))
        return rows

    def _row_of_network(self, pipeline_key: str, pipeline: Mapping[str, Any]) -> Measurement:
        graph = (self._graph_hash, self._graph_json)
        return self._row(self._source, graph, (pipeline_key, pipeline))

    def _request(self, op: str, **fields: Any) -> dict[str, Any]:
        """The response to a request that only a broken worker fails."""
        try:
            return self._worker.request(op, self.measurement.source_timeout_s, **fields)
        except WorkerFailure as failure:
            kind = error_type(failure.raised) or MeasurementError
            raise kind(str(failure)) from failure

    def _group(
        self, rows: Mapping[int, Measurement], tolerance: float | None, rounds: int
    ) -> dict[int, Measurement]:
        """Builds and times rows interleaved; one by one where one of them ends the worker."""
        done: dict[int, Measurement] = {}
        built: list[int] = []
        self._make_room([row.config_key for row in rows.values()])
        for i, row in rows.items():
            try:
                self._build(row)
                built.append(i)
            except WorkerFailure as failure:
                self._refuse_device_fault(failure)
                done[i] = self._failed(row, "build", failure)
        if not built:
            return done
        try:
            for i in built:  # builds again those that were lost when a later one ended the worker
                self._build(rows[i])
            done |= self._timed({i: rows[i] for i in built}, tolerance, rounds)
        except WorkerFailure as failure:
            self._refuse_device_fault(failure)
            if len(built) == 1:
                return done | {built[0]: self._failed(rows[built[0]], "run", failure)}
            for i in built:
                done |= self._group({i: rows[i]}, tolerance, rounds)
        return done

    def _build(self, row: Measurement) -> None:
        """Builds a row's pipeline unless the worker holds it, and the baseline before it."""
        self._build_baseline()
        if row.config_key not in self._slots:
            self._build_slot(row.config_key, row.pipeline["config"])

    def _build_baseline(self) -> None:
        """Builds the baseline unless the worker holds it."""
        self._worker.start()  # another one, where the last was lost
        if self._worker.starts != self._start_of_slots:
            self._describe()
            self._slots, self._start_of_slots = set(), self._worker.starts
        if BASELINE in self._slots:
            return
        try:
            self._build_slot(BASELINE, self._pipeline["config"])
        except WorkerFailure as failure:
            self._give_up(failure, "build")

    def _build_slot(self, slot: str, pipeline: Mapping[str, Any]) -> None:
        limit = self.measurement.build_timeout_s
        with clocked(self.seconds, "builds"):
            fields = {"slot": slot, "pipeline": dict(pipeline), "anew": slot == _CONTROL}
            self._built[slot] = self._worker.request("build_variant", limit, **fields)
        self._slots.add(slot)

    def _timed(
        self, rows: Mapping[int, Measurement], tolerance: float | None, rounds: int
    ) -> dict[int, Measurement]:
        slots = [row.config_key for row in rows.values()]
        if self._has_control:
            if _CONTROL not in self._slots:
                self._build_slot(_CONTROL, self._pipeline["config"])
            slots.append(_CONTROL)
        limit = self.measurement.run_timeout_s * (1 + len(slots))
        options = {"rounds": rounds, "compare": tolerance is not None}
        with clocked(self.seconds, "runs"):
            response = self._worker.request(
                "measure_interleaved", limit, slots=[BASELINE, *slots], **options
            )
        timed = response["slots"]
        baseline = timing_from_dict(timed[BASELINE]["timing"])
        self._store_baseline(baseline)
        if self._has_control:
            control = timing_from_dict(timed[_CONTROL]["timing"])
            self.controls.append(replace(control, baseline_blocks=baseline.blocks))
        return {
            i: self._judged(row, timed[row.config_key], baseline, tolerance)
            for i, row in rows.items()
        }

    def _judged(
        self, row: Measurement, timed: Mapping[str, Any], baseline: Timing, tolerance: float | None
    ) -> Measurement:
        """The row with its timing; with ``wrong_output`` where an output differs too much."""
        errors: dict[str, Any] = {name: timed.get(name) for name in ("max_abs_err", "max_rel_err")}
        timing = timing_from_dict(timed["timing"])
        timing = replace(timing, baseline_blocks=baseline.blocks, **errors)
        row = replace(with_build(row, self._built[row.config_key]), timing=timing, created_at=now())
        if tolerance is None:
            return row
        if not timed["finite"]:
            return replace(row, status="wrong_output", error="the outputs hold NaN or infinity")
        if not timed["max_rel_err"] <= tolerance:
            text = (
                f"an output differs by {timed['max_rel_err']:.2g} of its largest magnitude, over "
                f"the tolerance {tolerance:.2g}"
            )
            return replace(row, status="wrong_output", error=text)
        return row

    def _store_baseline(self, timing: Timing) -> None:
        row = self._row_of_network(self._pipeline_key, self._pipeline)
        stored = self._usable(row.key)
        if stored is None or stored.status != "ok":
            row = with_build(row, self._built[BASELINE])
            self.store.put_measurement(replace(row, timing=timing, created_at=now()))

    def _failed(self, row: Measurement, stage: str, failure: WorkerFailure) -> Measurement:
        row = failed_row(row, stage, failure, self._error_text(failure))
        logger.warning("%s: %s: %s", row.family, row.status, str(failure)[:300])
        return replace(row, created_at=now())

    def _refuse_device_fault(self, failure: WorkerFailure) -> None:
        if error_type(failure.raised) is DeviceError:
            raise DeviceError(str(failure)) from failure

    def _give_up(self, failure: WorkerFailure, stage: str) -> None:
        """Stores the failed baseline and raises, as there is nothing to compare a trial with."""
        row = self._row_of_network(self._pipeline_key, self._pipeline)
        self.store.put_measurement(self._failed(row, stage, failure))
        raise MeasurementError(
            f"the network cannot be measured even in its default build: {failure}"
        ) from failure
