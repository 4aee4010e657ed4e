"""``tune``: a network's graph-level decisions, found with a predictor and a few measurements."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import ConfigError, CostModelError
from tvm_costmodel.profiling.devices import Device, resolve_device
from tvm_costmodel.profiling.measurement import MeasurementConfig, Timing, content_key
from tvm_costmodel.profiling.store import Store
from tvm_costmodel.profiling.trials import TrialProfiler
from tvm_costmodel.tuning.candidate import Candidate
from tvm_costmodel.tuning.predictors import load_scorer
from tvm_costmodel.tuning.report import MeasuredCandidate, TuneReport, listed_decisions
from tvm_costmodel.tuning.result import COMPILERS, TuneResult, device_of_target, device_target
from tvm_costmodel.tuning.search import BUDGET, strategy_for
from tvm_costmodel.tuning.settings import MEASURE, TuneSettings
from tvm_costmodel.tuning.space import DECISIONS_OF, DecisionSpace
from tvm_costmodel.tuning.subject import Subject
from tvm_costmodel.tuning.tuner import Measured, Tuning

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.predictor import Predictor
    from tvm_costmodel.tuning.scoring import Scorer

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
    visits: int | None = None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    cores: Sequence[int] | None = None,
    measurement: MeasurementConfig | None = None,
    again: bool = False,
    progress: bool = False,
) -> TuneResult:
    """Finds the graph-level decisions that make a network fastest, and compiles it with them.

    The predictor scores thousands of candidates; a few are built and timed, taking turns with the
    undecided network, and their outputs are held against its outputs. The fastest is timed once
    more, and the default is returned where nothing beats it beyond the noise.

    Args:
        model: A module of the compiler with its weights as constants, or a model file.
        target: TVM's target, which must be that of the device; the device's when not given.
        predictor: What scores candidates, see `tvm_costmodel.tuning.predictors.load_scorer`.
        measure: Candidates to measure at most.
        device: What to tune for, a device or its name; ``cpu`` is this machine.
        compiler: What compiles the network: ``relax``, or ``relay`` where TVM has it.
        store: Where measurements and the decision are kept. A later call for the same graph,
            device and tolerance takes the decision from there. Kept in ``output`` when only that
            is given, nowhere when neither is.
        output: Directory for library, report and candidate; none is written when not given.
        tolerance: Largest difference of an output, relative to the largest magnitude of it.
        rounds: Rounds that the measurements are spread over.
        candidates: Candidates that a search scores at most.
        strategy: ``auto``, ``exhaustive``, ``evolution``, ``beam`` or ``random``.
        adapt: Whether the predictor learns from each round's measurements before the next.
        minutes: Start no further round of measurements after this time.
        visits: How often each build is visited in a round of turns.
        seed: Of the search.
        shapes: Input name -> shape, for dynamic inputs of a model file.
        cores: Cores to measure on; the last ones of this machine by default.
        measurement: How a label is taken.
        again: Tune and measure anew what the store has already.
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
        MeasurementError: The undecided network itself cannot be built or run.
        StoreError: The store cannot be written, or is another machine's.
        KeyboardInterrupt: Interrupted before anything was measured.
    """
    settings = TuneSettings(
        measure, rounds, tolerance, candidates, strategy, adapt, minutes, visits, seed
    )
    result = decide(
        Subject.of(model, shapes, compiler),
        _device(device, target, compiler),
        settings,
        predictor,
        store=store,
        output=output,
        cores=cores,
        measurement=measurement,
        again=again,
        progress=progress,
    )
    if not result.report.stored:
        result = result.compiled()
    if output is not None:
        result.export(output)
    return result


def _device(device: Device | str, target: Any, compiler: str) -> Device:
    found = resolve_device(device) if isinstance(device, str) else device
    return device_of_target(found, target, compiler).with_compiler(compiler)


def decide(
    subject: Subject,
    device: Device,
    settings: TuneSettings,
    predictor: Predictor | Scorer | str | os.PathLike[str] | None = None,
    *,
    store: Store | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    cores: Sequence[int] | None = None,
    measurement: MeasurementConfig | None = None,
    again: bool = False,
    progress: bool = False,
) -> TuneResult:
    """As `tune`, without compiling the winner in this program or writing any file but the store."""
    begin = time.monotonic()
    space = space_for(subject, device, settings.tolerance)
    key = _decision_key(space, device, settings)
    path = store if store is not None or output is None else Path(output) / STORE
    if not again and (stored := _stored(path, key, settings)) is not None:
        return _result_of(TuneReport.from_dict(stored), space, subject, device)
    if output is not None:
        _require_writable(Path(output))
    strategy_for(space, settings.candidates, settings.strategy)
    scorer, name = load_scorer(predictor, space, device, settings.seed)
    with _opened(path) as opened:
        compiler = f"{COMPILERS}.{subject.compiler}"
        made = TrialProfiler(device, opened, measurement, cores=cores, compiler=compiler)
        with made as profiler:
            profiler.open(subject.source(opened.path.parent))
            tuning = Tuning(space, scorer, profiler, settings, not again, progress)
            tuning.run()
        report = _report(tuning, subject, device, name, begin)
        if report.stopped != "interrupted":
            opened.put_tuned(key, _record(report, settings))
    return _result_of(report, space, subject, device)


def space_for(subject: Subject, device: Device, tolerance: float) -> DecisionSpace:
    """What can be decided for a network on a device.

    Raises:
        DeviceError: The compiler makes no code for the device.
    """
    target = device_target(device, subject.compiler)
    if subject.compiler == "relay":
        return DecisionSpace.for_graph(subject.graph, tolerance, compiler="relay")
    from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig
    from tvm_costmodel.compilers.cpu_rule.machine import Machine
    from tvm_costmodel.compilers.relax import has_half_arithmetic

    lanes = Machine.from_target(target, CpuRuleConfig()).lanes
    halves = has_half_arithmetic(target)
    return DecisionSpace.for_graph(subject.graph, tolerance, 32 * lanes, half_arithmetic=halves)


def _decision_key(space: DecisionSpace, device: Device, settings: TuneSettings) -> str:
    """Under what a decision is kept: another compiler, or other decisions, are another key."""
    decisions = DECISIONS_OF[space.compiler]
    declared = [(d.name, d.values, d.scope, dict(d.errors), d.becomes) for d in decisions]
    pipeline = space.config(space.default).key
    parts = (space.graph.hash, device.name, settings.tolerance, pipeline, declared)
    return content_key("tuned", *parts)


def _record(report: TuneReport, settings: TuneSettings) -> dict[str, Any]:
    limited = settings.minutes if report.stopped == "minutes" else None
    return {"measure": settings.measure, "minutes": limited, "report": report.to_dict()}


def _stored(
    store: Store | str | os.PathLike[str] | None, key: str, settings: TuneSettings
) -> dict[str, Any] | None:
    """The report of an earlier tuning with at least this budget."""
    if store is None or (not isinstance(store, Store) and not Path(store).exists()):
        return None
    with _opened(store, write=False) as opened:
        found = opened.tuned(key)
    if found is None or found["measure"] < settings.measure:
        return None
    if found["minutes"] is not None and (settings.minutes or float("inf")) > found["minutes"]:
        return None
    report: dict[str, Any] = found["report"]
    said = f"{report['said']}; decided earlier, --again (again=True) tunes anew"
    return {**report, "said": said, "stored": True, "seconds": {}}


@contextmanager
def _opened(store: Store | str | os.PathLike[str] | None, write: bool = True) -> Iterator[Store]:
    """The store; one that is made here and gets no row is taken away again."""
    if isinstance(store, Store):
        yield store
        return
    if store is None:
        with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / STORE) as opened:
            yield opened
        return
    path = Path(store)
    made = [p for p in (path, *path.parents) if not p.exists()] if write else []
    if write:
        path.parent.mkdir(parents=True, exist_ok=True)
    used = not made
    try:
        with Store(path, write) as opened:
            try:
                yield opened
            finally:
                used = not made or opened.count(status=None) > 0
    except (CostModelError, KeyboardInterrupt):
        if not used:
            _remove(made)
        raise


def _require_writable(output: Path) -> None:
    """Refuses a directory that cannot be written before work is put into what goes there."""
    there = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(
            f"output {output}: {there} is no folder that can be written; name another"
        )


def _remove(made: Sequence[Path]) -> None:
    """Takes away a store that was made, and the folders that were made for it alone."""
    for path in made:
        with suppress(OSError):
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _report(
    tuning: Tuning, subject: Subject, device: Device, predictor: str, begin: float
) -> TuneReport:
    """What a finished tuning did."""
    winner, space = tuning.winner, tuning.space
    candidate = winner.candidate if winner else space.default
    trials = tuple(_trial(tuning, measured) for measured in tuning.measured.values())
    default_ms = _default_ms(tuning)
    ratio = winner.ratio if winner else None
    speedup = 1 / ratio.value if ratio else 1.0
    timing = winner.result.timing if winner else None
    scored = sum(found.scored for found in tuning.searches)
    search_s = sum(found.seconds for found in tuning.searches)
    seconds = {**tuning.seconds, "in all": time.monotonic() - begin}
    return TuneReport(
        model=subject.name,
        graph_hash=subject.graph.hash,
        device=device.name,
        predictor=predictor,
        strategy=tuning.searches[0].strategy,
        tolerance=tuning.settings.tolerance,
        default_ms=default_ms,
        best_ms=None if default_ms is None else default_ms / speedup,
        speedup=speedup,
        noise=ratio.error if ratio else 0.0,
        default_predicted_ms=_milliseconds(tuning.default.latency_s),
        best_predicted_ms=_milliseconds(
            (winner.pick.scored if winner else tuning.default).latency_s
        ),
        measured=sum(trial.status == "ok" for trial in trials),
        reused=sum(trial.status == "ok" and trial.reused for trial in trials),
        failed=sum(trial.status != "ok" for trial in trials),
        scored=scored,
        scored_per_second=scored / search_s if search_s else 0.0,
        space=space.size,
        joint_space=space.joint_size,
        max_abs_err=(timing.max_abs_err or 0.0) if timing else 0.0,
        max_rel_err=(timing.max_rel_err or 0.0) if timing else 0.0,
        candidate=candidate.to_dict(),
        decisions=listed_decisions(space, candidate),
        trials=trials,
        seconds={part: round(took, 3) for part, took in seconds.items()},
        stopped=tuning.stopped,
        said=_said(tuning),
        compiler=subject.compiler,
    )


def _trial(tuning: Tuning, measured: Measured) -> MeasuredCandidate:
    timing, ratio = measured.result.row.timing, measured.ratio
    errors = [timing.max_abs_err, timing.max_rel_err] if timing else [None, None]
    default_ms = _beside_ms(timing) if timing else None
    scored = measured.pick.scored
    return MeasuredCandidate(
        decisions=measured.candidate.to_dict(),
        why=measured.pick.why,
        predicted_ms=_milliseconds(scored.latency_s),
        status=measured.result.status,
        measured_ms=default_ms * ratio.value if ratio and default_ms else None,
        ratio=ratio.value if ratio else None,
        noise=ratio.error if ratio else None,
        max_abs_err=_finite(errors[0]),
        max_rel_err=_finite(errors[1]),
        error=measured.result.row.error,
        reused=measured.result.reused,
        confirmed=measured.confirmed,
    )


def _default_ms(tuning: Tuning) -> float | None:
    """The undecided network's latency: of the winner's rounds where there is one."""
    timing = tuning.winner.result.timing if tuning.winner else tuning.default_timing
    if timing is None:
        return None
    beside = _beside_ms(timing)
    return timing.latency_s * 1e3 if beside is None else beside


def _beside_ms(timing: Timing) -> float | None:
    return min(latency for latency, _ in timing.beside) * 1e3 if timing.beside else None


def _milliseconds(seconds: float) -> float | None:
    return _finite(seconds * 1e3)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _said(tuning: Tuning) -> str:
    """The outcome in words."""
    tried = len(tuning.measured)
    if not tuning.space.choices:
        return "nothing can be decided for this network within the tolerance: the default it is"
    if tuning.winner is not None and tuning.winner.confirmed:
        said = f"the best of {tried} measured candidates, confirmed beside the default"
    elif tuning.winner is not None:
        said = f"the best of {tried} measured candidates, not confirmed by a second measurement"
    else:
        said = f"none of {tried} measured candidates beats the default beyond noise: it is kept"
    if tuning.stopped == "interrupted":
        said = f"interrupted; so far: {said}"
    return f"{said}; time was up" if tuning.stopped == "minutes" else said


def _result_of(
    report: TuneReport, space: DecisionSpace, subject: Subject, device: Device
) -> TuneResult:
    candidate = Candidate.from_dict(report.candidate)
    return TuneResult(report, candidate, space.config(candidate), subject, device)
