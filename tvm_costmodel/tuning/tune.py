"""``tune``: finds a network's graph-level decisions with a predictor and a few measurements."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import BadRowError, ConfigError, CostModelError
from tvm_costmodel.profiling.devices import Device, resolve_device
from tvm_costmodel.profiling.measuring.record import (
    MeasurementConfig,
    content_key,
    measurement_key,
)
from tvm_costmodel.profiling.paired_profiler import PairedProfiler
from tvm_costmodel.profiling.store.staleness import stale_components
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.config import MEASURE, TuneSettings
from tvm_costmodel.tuning.report import TuneReport
from tvm_costmodel.tuning.report_building import build_report
from tvm_costmodel.tuning.result import TuneResult, device_of_target, device_target
from tvm_costmodel.tuning.scoring.loading import load_scorer
from tvm_costmodel.tuning.search.search import BUDGET, strategy_for
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.task import TuneTask
from tvm_costmodel.tuning.tuner import Tuning

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.predictors.loading import Predictor
    from tvm_costmodel.tuning.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

STORE = "measurements.db"
"""The store in an output directory, where none is named."""


def tune(
    model: tvm.IRModule | str | os.PathLike[str],
    target: tvm.target.Target | Mapping[str, Any] | str | None = None,
    predictor: Predictor | Scorer | str | os.PathLike[str] | None = None,
    measure: int = MEASURE,
    *,
    device: Device | str = "cpu",
    compiler: str = "relax",
    store: Store | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    tolerance: float = 1e-3,
    rounds: int = 2,
    candidates: int = BUDGET,
    strategy: str = "auto",
    adapt: bool = False,
    minutes: float | None = None,
    blocks: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    cores: Sequence[int] | None = None,
    measurement: MeasurementConfig | None = None,
    force: bool = False,
    progress: bool = False,
) -> TuneResult:
    """Finds the graph-level decisions that make a network fastest, and compiles it with them.

    The predictor scores thousands of candidates; a few are built and timed, interleaved with the
    default build, and their outputs are compared with its outputs. The fastest is timed once more,
    and the default is returned where nothing beats it beyond the noise.

    Args:
        model: A module of the compiler with its weights as constants, or a model file.
        target: TVM's target, which must be that of the device; the device's when not given.
        predictor: What scores candidates, see `tvm_costmodel.tuning.scoring.loading.load_scorer`.
        measure: Candidates to measure at most.
        device: What to tune for, a device or its name; ``cpu`` is this machine.
        compiler: What compiles the network: ``relax``, or ``relay`` where TVM has it.
        store: Where measurements and the decisions are kept. A later call for the same graph,
            device and tolerance takes the decisions from there. Kept in ``output`` when only that
            is given, nowhere when neither is.
        output: Directory for library, report and candidate; none is written when not given.
        tolerance: Largest difference of an output, relative to the largest magnitude of it.
        rounds: Rounds that the measurements are spread over.
        candidates: Candidates that a search scores at most.
        strategy: ``auto``, ``exhaustive``, ``evolution``, ``beam`` or ``random``.
        adapt: Whether the predictor learns from each round's measurements before the next.
        minutes: Start no further round of measurements after this time.
        blocks: Timed blocks of each build in a paired measurement.
        seed: Seed of the search.
        shapes: Input name -> shape, for dynamic inputs of a model file.
        cores: Cores to measure on; the last ones of this machine by default.
        measurement: How a label is taken.
        force: Tune and measure anew, even where the store has the results already.
        progress: Show a bar on standard error.

    Returns:
        The module that won, with the report. After a keyboard interrupt, the best so far, and
        ``report.stopped`` says so.

    Raises:
        ConfigError: A setting is out of range, or the target is not the device's.
        DeviceError: The device is unknown or cannot be reached.
        ModelFileError: The model cannot be read.
        CheckpointError: There is no such predictor for the device.
        MissingDependencyError: The installed TVM does not have the compiler.
        MeasurementError: The default build itself cannot be built or run, or does not compute what
            another engine makes of the model.
        StoreError: The store cannot be written, or is another machine's.
        KeyboardInterrupt: Interrupted before anything was measured.
    """
    settings = TuneSettings(
        measure, rounds, tolerance, candidates, strategy, adapt, minutes, blocks, seed
    )
    result = decide(
        TuneTask.of(model, shapes, compiler),
        _device(device, target, compiler),
        settings,
        predictor,
        store=store,
        output=output,
        cores=cores,
        measurement=measurement,
        force=force,
        progress=progress,
    )
    if not result.report.stored:
        result = result.compiled()
    if output is not None:
        result.export(output)
    return result


def _device(device: Device | str, target: Any, compiler: str) -> Device:
    base = resolve_device(device) if isinstance(device, str) else device
    return device_of_target(base, target, compiler).with_compiler(compiler)


def decide(
    task: TuneTask,
    device: Device,
    settings: TuneSettings,
    predictor: Predictor | Scorer | str | os.PathLike[str] | None = None,
    *,
    store: Store | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    cores: Sequence[int] | None = None,
    measurement: MeasurementConfig | None = None,
    force: bool = False,
    progress: bool = False,
) -> TuneResult:
    """As `tune`, without compiling the winner in this program or writing any file but the store."""
    begin = time.monotonic()
    space = space_for(task, device, settings.tolerance)
    key = _decision_key(space, device, settings)
    path = store if store is not None or output is None else Path(output) / STORE
    if not force and (stored := _stored(path, key, settings, space, device)) is not None:
        return _result_of(TuneReport.from_dict(stored), space, task, device)
    if output is not None:
        _require_writable(Path(output))
    strategy_for(space, settings.candidates, settings.strategy)
    scorer, name = load_scorer(predictor, space, device, settings.seed)
    with _opened(path) as opened:
        unopened = PairedProfiler(device, opened, measurement, cores=cores, compiler=task.compiler)
        with unopened as profiler:
            profiler.open(task.source(opened.path.parent))
            profiler.require_right_outputs()
            tuning = Tuning(space, scorer, profiler, settings, not force, progress)
            tuning.run()
        report = build_report(tuning, task, device, name, begin)
        if report.stopped != "interrupted":
            opened.put_tuned(key, _record(report, settings))
    return _result_of(report, space, task, device)


def space_for(task: TuneTask, device: Device, tolerance: float) -> DecisionSpace:
    """What can be decided for a network on a device.

    Raises:
        DeviceError: The compiler makes no code for the device.
    """
    target = device_target(device, task.compiler)
    limits = backend_of(task.compiler).space_limits(target)
    return DecisionSpace.for_graph(
        task.graph,
        tolerance,
        compiler=task.compiler,
        runtime_weights=task.runtime_weights(),
        **limits,
    )


def _decision_key(space: DecisionSpace, device: Device, settings: TuneSettings) -> str:
    """The store's key of a tuned network; it depends on compiler and declared decisions."""
    decisions = backend_of(space.compiler).decisions
    declared = [(d.name, d.values, d.scope, dict(d.errors), d.becomes) for d in decisions]
    pipeline = space.config(space.default).key
    parts = (space.graph.hash, device.name, settings.tolerance, pipeline, declared)
    return content_key("tuned", *parts)


def _record(report: TuneReport, settings: TuneSettings) -> dict[str, Any]:
    limited = settings.minutes if report.stopped == "minutes" else None
    return {"measure": settings.measure, "minutes": limited, "report": report.to_dict()}


def _stored(
    store: Store | str | os.PathLike[str] | None,
    key: str,
    settings: TuneSettings,
    space: DecisionSpace,
    device: Device,
) -> dict[str, Any] | None:
    """The report of an earlier tuning with at least this budget, by code that is still the same."""
    if store is None or (not isinstance(store, Store) and not Path(store).exists()):
        return None
    with _opened(store, write=False) as opened:
        record = opened.tuned(key)
        if record is None or record["measure"] < settings.measure:
            return None
        winner = Candidate.from_dict(record["report"]["candidate"])
        if any(_is_stale(opened, space, device, choice) for choice in (space.default, winner)):
            return None
    if record["minutes"] is not None and (settings.minutes or float("inf")) > record["minutes"]:
        return None
    report: dict[str, Any] = record["report"]
    summary = f"{report['said']}; tuned earlier, --force (force=True) tunes anew"
    return {**report, "said": summary, "stored": True, "seconds": {}}


@contextmanager
def _opened(store: Store | str | os.PathLike[str] | None, write: bool = True) -> Iterator[Store]:
    """The store; one that is created here and gets no row is removed again."""
    if isinstance(store, Store):
        yield store
        return
    if store is None:
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / STORE) as opened:
            yield opened
        return
    path = Path(store)
    created = [p for p in (path, *path.parents) if not p.exists()] if write else []
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
    used = not created
    try:
        with Store(path, write) as opened:
            try:
                yield opened
            finally:
                used = not created or opened.count(status=None) > 0
    except (CostModelError, KeyboardInterrupt):
        if not used:
            _remove(created)
        raise


def _is_stale(store: Store, space: DecisionSpace, device: Device, candidate: Candidate) -> bool:
    """Whether code that a candidate's label was measured with has changed since."""
    pipeline = space.config(candidate).key
    key = measurement_key(space.graph.hash, device.name, pipeline)
    try:
        row = store.get(key, kernels=False)
    except BadRowError as error:
        logger.warning("tuned anew: %s", error)
        return True
    stale = stale_components(row, space.graph) if row is not None else ()
    if stale:
        logger.info("tuned anew: %s changed since the last time", ", ".join(stale))
    return bool(stale)


def _require_writable(output: Path) -> None:
    """Refuses an output directory that cannot be written, before anything is computed."""
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(
            f"output {output}: {existing} is no folder that can be written; name another"
        )


def _remove(created: Sequence[Path]) -> None:
    """Removes a store that was created, and the folders that were created for it alone."""
    for path in created:
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _result_of(
    report: TuneReport, space: DecisionSpace, task: TuneTask, device: Device
) -> TuneResult:
    candidate = Candidate.from_dict(report.candidate)
    return TuneResult(report, candidate, space.config(candidate), task, device)
