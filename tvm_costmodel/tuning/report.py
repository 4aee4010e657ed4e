"""What a tuning did and why: every decision, what was predicted and measured, what failed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from tvm_costmodel.profiling.measurement import Timing
from tvm_costmodel.tuning.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space import DecisionSpace

_LEAST_ERROR = 0.005  # of a log ratio: what two timings of one build differ by at best
_SHOWN_DECISIONS = 30


@dataclass(frozen=True)
class Ratio:
    """A candidate's latency over the default's, from rounds in which both took turns.

    Attributes:
        log: Mean over the rounds of the logarithm.
        error: Standard error of it: from the rounds' spread, at least what the repeats within
            the visits leave open.
    """

    log: float
    error: float

    @property
    def value(self) -> float:
        """The ratio."""
        return math.exp(self.log)

    @property
    def beats_default(self) -> bool:
        """Whether it is below 1 by more than twice its error."""
        return self.log + 2 * self.error < 0


def ratio_of(timing: Timing) -> Ratio | None:
    """The ratio that a trial's timing tells; None where nothing took turns with it."""
    rounds = [
        math.log((mine / reference) / (default / default_reference))
        for (mine, reference), (default, default_reference) in zip(
            timing.visits, timing.beside, strict=False
        )
    ]
    if not rounds:
        return None
    spread = float(np.std(rounds, ddof=1)) if len(rounds) > 1 else 0.0
    error = max(spread, math.sqrt(2) * timing.noise) / math.sqrt(len(rounds))
    return Ratio(float(np.mean(rounds)), max(error, _LEAST_ERROR))


@dataclass(frozen=True)
class MeasuredCandidate:
    """A candidate that was measured, or failed to be.

    Attributes:
        decisions: What was decided, as ``Candidate.to_dict`` gives it.
        why: Why it was chosen.
        predicted_ms: The predictor's latency of it.
        status: Status of its row, see `tvm_costmodel.profiling.measurement.STATUSES`.
        measured_ms: Its latency at the default's speed of the machine.
        ratio: Its latency over the default's.
        noise: Standard error of the logarithm of the ratio.
        max_abs_err: Largest difference of an output from the default's.
        max_rel_err: The same, relative to the largest magnitude of the output.
        error: Why it failed.
        reused: Whether the store had it already.
        confirmed: Whether it was measured a second time, beside the default, at the end.
    """

    decisions: Mapping[str, Any]
    why: str
    predicted_ms: float | None
    status: str
    measured_ms: float | None = None
    ratio: float | None = None
    noise: float | None = None
    max_abs_err: float | None = None
    max_rel_err: float | None = None
    error: str = ""
    reused: bool = False
    confirmed: bool = False


@dataclass(frozen=True)
class TuneReport:
    """What a tuning did.

    Attributes:
        model: The network's name.
        graph_hash: Content hash of it before any pass.
        device: What it was tuned for.
        predictor: What scored the candidates.
        strategy: How they were searched.
        tolerance: Largest relative difference of outputs that was allowed.
        default_ms: Measured latency of the undecided network, beside the winner.
        best_ms: ``default_ms`` times the winner's ratio; ``default_ms`` where the default won.
        speedup: ``default_ms / best_ms``.
        noise: Standard error of the logarithm of the speed-up.
        default_predicted_ms: The predictor's latency of the undecided network.
        best_predicted_ms: And of the winner.
        measured: Candidates that were built, run and found right, those of the store included.
        reused: How many of them the store had already.
        failed: Candidates that failed to build or run, or whose outputs were wrong.
        scored: Candidates that the predictor scored, over all searches.
        scored_per_second: How many it scored a second.
        space: How many valid candidates there are.
        joint_space: How many of them decide equal kernels together.
        max_abs_err: Largest difference of the winner's outputs from the default's.
        max_rel_err: The same, relative to the largest magnitude of the output.
        candidate: The winner, as ``Candidate.to_dict`` gives it.
        decisions: What it decides, one entry for each decision and place.
        trials: Every measured candidate, in the order of measuring.
        seconds: Where the time went.
        stopped: Why it ended: ``finished``, ``minutes`` or ``interrupted``.
        said: What a reader should know of the outcome.
        stored: Whether an earlier tuning had decided this.
        compiler: What compiles the network.
    """

    model: str
    graph_hash: str
    device: str
    predictor: str
    strategy: str
    tolerance: float
    default_ms: float | None
    best_ms: float | None
    speedup: float
    noise: float
    default_predicted_ms: float | None
    best_predicted_ms: float | None
    measured: int
    reused: int
    failed: int
    scored: int
    scored_per_second: float
    space: int
    joint_space: int
    max_abs_err: float
    max_rel_err: float
    candidate: Mapping[str, Any]
    decisions: tuple[Mapping[str, Any], ...]
    trials: tuple[MeasuredCandidate, ...] = field(repr=False, default=())
    seconds: Mapping[str, float] = field(default_factory=dict)
    stopped: str = "finished"
    said: str = ""
    stored: bool = False
    compiler: str = "relax"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> TuneReport:
        """Reads what ``to_dict`` made; fields of later versions are left out."""
        trials = [_known(MeasuredCandidate, trial) for trial in record["trials"]]
        changed = {
            "decisions": tuple(record["decisions"]),
            "trials": tuple(MeasuredCandidate(**trial) for trial in trials),
        }
        return cls(**_known(cls, record) | changed)

    def to_text(self) -> str:
        """The report for people: measured candidates, decisions taken, and where the time went."""
        from tabulate import tabulate

        rows = [
            (
                _summary(trial.decisions),
                trial.why,
                _number(trial.predicted_ms),
                _number(trial.measured_ms),
                _times(trial),
                trial.status if not trial.error else f"{trial.status}: {trial.error[:60]}",
            )
            for trial in self.trials
        ]
        headers = ("decisions", "chosen as", "predicted ms", "measured ms", "ratio", "status")
        parts = [tabulate(rows, headers, "simple", disable_numparse=True)] if rows else []
        taken = [entry for entry in self.decisions if entry["value"] != entry["default"]]
        shown = [
            (_place(entry), entry["decision"], entry["value"], entry["default"], entry["by"])
            for entry in taken[:_SHOWN_DECISIONS]
        ]
        if shown:
            names = ("where", "decision", "value", "default", "carried out by")
            parts.append(tabulate(shown, names, "simple", disable_numparse=True))
        if len(taken) > _SHOWN_DECISIONS:
            parts.append(f"and {len(taken) - _SHOWN_DECISIONS} more decisions")
        return "\n\n".join([*parts, "\n".join(self._lines())])

    def _lines(self) -> list[str]:
        speed = f"{self.scored_per_second:,.0f}"
        space = f"{self.space:,}" if self.space < 10**9 else f"{float(self.space):.1e}"
        spent = ", ".join(f"{part} {took:.1f} s" for part, took in self.seconds.items())
        return [
            f"{self.model} on {self.device}, graph {self.graph_hash}",
            f"{space} candidates, {self.scored:,} scored ({speed} a second, {self.predictor}, "
            f"{self.strategy}), {self.measured} measured ({self.reused} from the store), "
            f"{self.failed} failed",
            f"time: {spent}" if spent else "time: none, decided earlier",
            f"default {_number(self.default_ms)} ms, best {_number(self.best_ms)} ms: "
            f"{self.speedup:.3f} times as fast (noise {self.noise:.1%}); outputs differ by at most "
            f"{self.max_abs_err:.2g}",
            self.said,
        ]


def _known(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: record[f.name] for f in fields(kind) if f.name in record}


def listed_decisions(space: DecisionSpace, candidate: Candidate) -> tuple[dict[str, Any], ...]:
    """Every decision about the network, and those about operators that are not the default."""
    found = []
    for choice in space.choices:
        value = candidate.values.get(choice.place, choice.decision.default)
        if choice.operator == NETWORK or value != choice.decision.default:
            operator = None if choice.operator == NETWORK else choice.operator
            found.append(
                {
                    "operator": operator,
                    "op": None if operator is None else space.graph.operators[operator].op,
                    "decision": choice.decision.name,
                    "value": value,
                    "default": choice.decision.default,
                    "by": choice.decision.becomes,
                }
            )
    return tuple(found)


def _summary(decisions: Mapping[str, Any]) -> str:
    """A candidate in a few words."""
    parts = [f"{name} {value}" for name, value in decisions.get("network", {}).items()]
    counts: dict[str, int] = {}
    for chosen in decisions.get("operators", {}).values():
        for name in chosen:
            counts[name] = counts.get(name, 0) + 1
    parts += [f"{count} {name}" for name, count in sorted(counts.items())]
    return ", ".join(parts) or "default"


def _place(entry: Mapping[str, Any]) -> str:
    return "network" if entry["operator"] is None else f"{entry['op']} {entry['operator']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _times(trial: MeasuredCandidate) -> str:
    if trial.ratio is None or trial.noise is None:
        return "-"
    return f"{trial.ratio:.3f} ± {trial.ratio * trial.noise:.3f}"
