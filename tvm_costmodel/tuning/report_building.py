"""Builds the report of a finished tuning."""

from __future__ import annotations

import math
import time

from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.measuring.record import Timing
from tvm_costmodel.tuning.report import MeasuredCandidate, TuneReport, listed_decisions
from tvm_costmodel.tuning.task import TuneTask
from tvm_costmodel.tuning.tuner import Trial, Tuning


def build_report(
    tuning: Tuning, task: TuneTask, device: Device, predictor: str, begin: float
) -> TuneReport:
    """The report of a finished tuning.

    Args:
        tuning: The tuning, after its `run`.
        task: The network that was tuned.
        device: The device that it was tuned for.
        predictor: Name of what scored the candidates.
        begin: Value of ``time.monotonic()`` at which the tuning began.
    """
    winner, space = tuning.winner, tuning.space
    candidate = winner.candidate if winner else space.default
    trials = tuple(_measured_candidate(trial) for trial in tuning.measured.values())
    default_ms = _default_ms(tuning)
    ratio = winner.ratio if winner else None
    speedup = 1 / ratio.value if ratio else 1.0
    timing = winner.result.timing if winner else None
    scored = sum(result.scored for result in tuning.searches)
    search_s = sum(result.seconds for result in tuning.searches)
    seconds = {**tuning.seconds, "in all": time.monotonic() - begin}
    return TuneReport(
        model=task.name(space.graph),
        graph_hash=space.graph.hash,
        device=device.name,
        predictor=predictor,
        strategy=tuning.searches[0].strategy,
        tolerance=tuning.settings.tolerance,
        default_ms=default_ms,
        best_ms=None if default_ms is None else default_ms / speedup,
        speedup=speedup,
        noise=max(ratio.error if ratio else 0.0, tuning.spread),
        default_predicted_ms=_milliseconds(tuning.default.latency_s),
        best_predicted_ms=_milliseconds(
            (winner.proposal.scored if winner else tuning.default).latency_s
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
        summary=_summary(tuning),
        compiler=task.compiler,
    )


def _measured_candidate(trial: Trial) -> MeasuredCandidate:
    timing, ratio = trial.result.row.timing, trial.ratio
    errors = [timing.max_abs_err, timing.max_rel_err] if timing else [None, None]
    default_ms = _paired_default_ms(timing) if timing else None
    return MeasuredCandidate(
        decisions=trial.candidate.to_dict(),
        why=trial.proposal.why,
        predicted_ms=_milliseconds(trial.proposal.scored.latency_s),
        status=trial.result.status,
        measured_ms=default_ms * ratio.value if ratio and default_ms else None,
        ratio=ratio.value if ratio else None,
        noise=ratio.error if ratio else None,
        max_abs_err=_finite(errors[0]),
        max_rel_err=_finite(errors[1]),
        error=trial.result.row.error,
        reused=trial.result.reused,
        confirmed=trial.confirmed,
    )


def _default_ms(tuning: Tuning) -> float | None:
    """The default build's latency: from the winner's rounds where there is a winner."""
    timing = tuning.winner.result.timing if tuning.winner else tuning.default_timing
    if timing is None:
        return None
    paired = _paired_default_ms(timing)
    return timing.latency_s * 1e3 if paired is None else paired


def _paired_default_ms(timing: Timing) -> float | None:
    """The default build's latency in the rounds of a variant's timing."""
    return min((latency * 1e3 for latency, _ in timing.baseline_blocks), default=None)


def _milliseconds(seconds: float) -> float | None:
    return _finite(seconds * 1e3)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _summary(tuning: Tuning) -> str:
    """The outcome in words."""
    tried = len(tuning.measured)
    if not tuning.space.choices:
        return "nothing can be decided for this network within the tolerance: the default is kept"
    if tuning.winner is not None and tuning.winner.confirmed:
        text = f"the best of {tried} measured candidates, confirmed together with the default"
    elif tuning.winner is not None:
        text = f"the best of {tried} measured candidates, not confirmed by a second measurement"
    else:
        text = f"none of {tried} measured candidates beats the default beyond noise: it is kept"
    if tuning.stopped == "interrupted":
        text = f"interrupted; so far: {text}"
    return f"{text}; time was up" if tuning.stopped == "minutes" else text
