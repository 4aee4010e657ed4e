"""``tune``: finds a network's graph-level decisions with a predictor and a few measurements."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.compilers.build_stages import has_linker, require_linker
from tvm_costmodel.compilers.registry import known_compiler
from tvm_costmodel.errors import BadRowError, ConfigError, CostModelError, StoreError
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
from tvm_costmodel.tuning.config import MEASURE, STORE, TuneSettings
from tvm_costmodel.tuning.report import TuneReport
from tvm_costmodel.tuning.report_building import build_report
from tvm_costmodel.tuning.result import (
    TuneResult,
    device_of_target,
    device_target,
    is_linked,
)
from tvm_costmodel.tuning.scoring.loading import load_predictor_of, load_scorer
from tvm_costmodel.tuning.search.search import BUDGET, strategy_for
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.task import TuneTask
from tvm_costmodel.tuning.tuner import Tuning

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.graph.op_graph import OpGraph
    from tvm_costmodel.predictors.loading import Predictor
    from tvm_costmodel.tuning.scoring.scorer import Scorer

logger = logging.getLogger(__name__)


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
        measure=measure,
        rounds=rounds,
        tolerance=tolerance,
        candidates=candidates,
        strategy=strategy,
        adapt=adapt,
        minutes=minutes,
        blocks=blocks,
        seed=seed,
        predictor=predictor,
        store=store,
        output=output,
        cores=cores,
        measurement=measurement,
        force=force,
        progress=progress,
    )
    base = resolve_device(device) if isinstance(device, str) else device
    chosen = device_of_target(base, target, compiler).with_compiler(compiler)
    result = decide(TuneTask.of(model, shapes, compiler), chosen, settings, library=True)
    if output is not None:
        result.export(output)
    return result


def decide(
    task: TuneTask, device: Device, settings: TuneSettings, library: bool = False
) -> TuneResult:
    """As `tune`, without writing any file but the store; with the ``library`` where wanted."""
    begin = time.monotonic()
    earlier = None if settings.force else _earlier(task, device, settings)
    if earlier is not None:
        return earlier
    target = device_target(device, task.compiler)
    predictor = load_predictor_of(settings.predictor, task.compiler, device)
    if settings.output is not None:
        _require_writable(Path(settings.output))
        if device.runner == "local":  # a board's runner asks for its cross compiler
            require_linker()
    with _opened(settings.place) as store:
        unopened = PairedProfiler(
            device, store, settings.measurement, cores=settings.cores, compiler=task.compiler
        )
        with unopened as profiler:
            graph = profiler.open(task.source(store.path.parent), task.graph_hash)
            space = space_for(task, graph, target, settings, profiler.runtime_weights())
            earlier = None if settings.force else _stored(store, task, space, device, settings)
            if earlier is not None:
                return earlier
            strategy_for(space, settings.candidates, settings.strategy)
            scorer, name = load_scorer(predictor, space, device, settings.seed)
            profiler.require_right_outputs()
            tuning = Tuning(space, scorer, profiler, settings)
            tuning.run()
            report = build_report(tuning, task, device, name, begin)
            result = _result_of(report, space, task, device)
            if report.stopped == "interrupted":
                return result
            store.put_tuned(_decision_key(space, device, settings), _record(report, settings))
            return _with_library(result, tuning, begin) if library else result


def _with_library(result: TuneResult, tuning: Tuning, begin: float) -> TuneResult:
    """The result with the library as the worker built it, where this system can link one."""
    device = result.device
    if is_linked(device) and not has_linker(device.cross_compiler):
        return result
    folder = tempfile.TemporaryDirectory(prefix="tvm-costmodel-")
    fields = tuning.space.config_fields(result.candidate)
    inputs = tuning.profiler.export(fields, result.artifact(folder.name))
    seconds = {**tuning.seconds, **tuning.profiler.seconds, "in all": time.monotonic() - begin}
    rounded = {part: round(took, 3) for part, took in seconds.items()}
    report = replace(result.report, seconds=rounded)
    return replace(result, report=report, built=folder, inputs=tuple(inputs))


def space_for(
    task: TuneTask,
    graph: OpGraph,
    target: tvm.target.Target,
    settings: TuneSettings,
    runtime_weights: frozenset[int] = frozenset(),
) -> DecisionSpace:
    """What can be decided for a network.

    Args:
        task: The network.
        graph: Its graph before any pass.
        target: TVM's target of the device.
        settings: Of these, the tolerance.
        runtime_weights: Ids of operators whose weights are passed at run time.
    """
    return DecisionSpace.for_graph(
        graph,
        settings.tolerance,
        compiler=task.compiler,
        runtime_weights=runtime_weights,
        **backend_of(task.compiler).space_limits(target),
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


def _earlier(task: TuneTask, device: Device, settings: TuneSettings) -> TuneResult | None:
    """The result of an earlier tuning, where the network is known without reading its file."""
    place = settings.place
    if place is None or (not isinstance(place, Store) and not Path(place).exists()):
        return None
    with _opened(place, write=False) as store:
        default = known_compiler(task.compiler).config().key
        graph = task.graph_in(store, device.name, default)
        if graph is None:
            return None
        space = space_for(task, graph, device_target(device, task.compiler), settings)
        return _stored(store, task, space, device, settings)


def _stored(
    store: Store, task: TuneTask, space: DecisionSpace, device: Device, settings: TuneSettings
) -> TuneResult | None:
    """The result of an earlier tuning with at least this budget, by code that is the same."""
    record = store.tuned(_decision_key(space, device, settings))
    if record is None or record["measure"] < settings.measure:
        return None
    winner = Candidate.from_dict(record["report"]["candidate"])
    if any(_is_stale(store, space, device, choice) for choice in (space.default, winner)):
        return None
    if record["minutes"] is not None and (settings.minutes or float("inf")) > record["minutes"]:
        return None
    summary = f"{record['report']['said']}; tuned earlier, --force (force=True) tunes anew"
    stored = {**record["report"], "said": summary, "stored": True, "seconds": {}}
    return _result_of(TuneReport.from_dict(stored), space, task, device)


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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"store {path} cannot be created ({error.strerror}: {error.filename}); name "
                "another place with --store, or --output"
            ) from error
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
