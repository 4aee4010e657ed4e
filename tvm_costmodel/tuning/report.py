"""The report of a tuning: its decisions, every measured candidate, and what failed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from tvm_costmodel.profiling.measuring.record import Timing
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import Decision

_LEAST_ERROR = 0.005  # of a log ratio: what two timings of one build differ by at best
_SHOWN_DECISIONS = 30
_STORED_NAMES = {"summary": "said"}  # JSON key of a field, where it is not its name


@dataclass(frozen=True)
class Ratio:
    """A candidate's latency over the default's, from rounds in which both were interleaved.

    Attributes:
        log: Mean over the rounds of the logarithm.
        error: Standard error of ``log``: from the rounds' spread, but no less than the noise of
            the repeats within the timed blocks.
    """

    log: float
    error: float

    @property
    def value(self) -> float:
        """The ratio."""
        return math.exp(self.log)

    def beats_default(self, spread: float = 0.0) -> bool:
        """Whether it is below 1 by more than twice its error.

        Args:
            spread: What the logs of two timings of one build differ by, which counts as error.
        """
        return self.log + 2 * max(self.error, spread) < 0


def pooled(ratios: Sequence[Ratio | None]) -> Ratio | None:
    """One ratio of several measurements of a candidate; None where one of them failed.

    Its error is no less than what the measurements differ by.
    """
    known = [ratio for ratio in ratios if ratio is not None]
    if not known or len(known) < len(ratios):
        return None
    logs = [ratio.log for ratio in known]
    error = math.sqrt(sum(ratio.error**2 for ratio in known)) / len(known)
    return Ratio(float(np.mean(logs)), max(error, float(np.std(logs)), _LEAST_ERROR))


def shrunk(ratios: Sequence[Ratio]) -> list[float]:
    """Logs of ratios, each moved towards 0 by how much of what was seen is its noise.

    The posterior mean under a normal prior around the default, whose variance is what the ratios
    themselves show (empirical Bayes, Efron and Morris, 1973).
    """
    if not ratios:
        return []
    logs = np.array([ratio.log for ratio in ratios])
    noise = np.array([ratio.error for ratio in ratios]) ** 2
    prior = max(float(np.mean(logs**2 - noise)), 1e-6)
    return [float(log) for log in logs * prior / (prior + noise)]


def ratio_of(timing: Timing) -> Ratio | None:
    """The ratio of a variant's timing; None where it was not paired with the default build."""
    rounds = [
        math.log((mine / reference) / (default / default_reference))
        for (mine, reference), (default, default_reference) in zip(
            timing.blocks, timing.baseline_blocks, strict=False
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
        decisions: Its decisions, as ``Candidate.to_dict`` gives them.
        why: Why it was proposed.
        predicted_ms: The predictor's latency of it.
        status: Status of its row, see `tvm_costmodel.profiling.measuring.record.STATUSES`.
        measured_ms: Its latency at the default's speed of the machine.
        ratio: Its latency over the default's.
        noise: Standard error of the logarithm of the ratio.
        max_abs_err: Largest difference of an output from the default's.
        max_rel_err: The same, relative to the largest magnitude of the output.
        error: Why it failed.
        reused: Whether the store had it already.
        confirmed: Whether it was measured a second time, paired with the default, at the end.
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
    """The report of a tuning.

    Attributes:
        model: The network's name.
        graph_hash: Content hash of it before any pass.
        device: The device that it was tuned for.
        predictor: Name of what scored the candidates.
        strategy: How they were searched.
        tolerance: Largest relative difference of outputs that was allowed.
        default_ms: Measured latency of the default build, paired with the winner.
        best_ms: ``default_ms`` times the winner's ratio; ``default_ms`` where the default won.
        speedup: ``default_ms / best_ms``.
        noise: Standard error of the logarithm of the speed-up, or where it is more, what the logs
            of two timings of the default build differed by.
        default_predicted_ms: The predictor's latency of the default build.
        best_predicted_ms: The predictor's latency of the winner.
        measured: Candidates that were built and run with correct outputs, those of the store
            included.
        reused: How many of them the store had already.
        failed: Candidates that failed to build or run, or whose outputs were wrong.
        scored: Candidates that the predictor scored, over all searches.
        scored_per_second: How many it scored a second.
        space: How many valid candidates there are.
        joint_space: How many of them have equal decisions for equal kernels.
        max_abs_err: Largest difference of the winner's outputs from the default's.
        max_rel_err: The same, relative to the largest magnitude of the output.
        candidate: The winner, as ``Candidate.to_dict`` gives it.
        decisions: Its decisions, one entry for each decision and place.
        trials: Every measured candidate, in the order of measuring.
        seconds: Where the time went.
        stopped: Why it ended: ``finished``, ``minutes`` or ``interrupted``.
        summary: The outcome in words; ``said`` in JSON.
        stored: Whether it is the result of an earlier tuning.
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
    summary: str = ""
    stored: bool = False
    compiler: str = "relax"

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values."""
        return {_STORED_NAMES.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> TuneReport:
        """Reads the values of ``to_dict``; fields of later versions are left out."""
        trials = [_known(MeasuredCandidate, trial) for trial in record["trials"]]
        changed = {
            "decisions": tuple(record["decisions"]),
            "trials": tuple(MeasuredCandidate(**trial) for trial in trials),
        }
        return cls(**_known(cls, record) | changed)

    def to_text(self) -> str:
        """The report for people: measured candidates, decisions, and where the time went."""
        from tabulate import tabulate

        declared = {decision.name: decision for decision in backend_of(self.compiler).decisions}
        rows = [
            (
                _candidate_text(trial.decisions, declared),
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
        departures = [entry for entry in self.decisions if entry["value"] != entry["default"]]
        shown = [_decision_row(entry, declared) for entry in departures[:_SHOWN_DECISIONS]]
        if shown:
            names = ("where", "decision", "value", "default", "carried out by")
            parts.append(tabulate(shown, names, "simple", disable_numparse=True))
        if len(departures) > _SHOWN_DECISIONS:
            parts.append(f"and {len(departures) - _SHOWN_DECISIONS} more decisions")
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
            f"time: {spent}" if spent else "time: none, tuned earlier",
            f"default {_number(self.default_ms)} ms, best {_number(self.best_ms)} ms: "
            f"{self.speedup:.3f} times as fast (noise {self.noise:.1%}); outputs differ by at most "
            f"{self.max_abs_err:.2g}{self._paid()}",
            self.summary,
        ]

    def _paid(self) -> str:
        """After how many inferences the time that tuning took has been saved."""
        saved = (self.default_ms or 0.0) - (self.best_ms or 0.0)
        spent = self.seconds.get("in all", 0.0)
        return f"; paid back after {spent * 1e3 / saved:,.0f} inferences" if saved and spent else ""


def _known(kind: type, record: Mapping[str, Any]) -> dict[str, Any]:
    stored = {f.name: _STORED_NAMES.get(f.name, f.name) for f in fields(kind)}
    return {name: record[key] for name, key in stored.items() if key in record}


def listed_decisions(space: DecisionSpace, candidate: Candidate) -> tuple[dict[str, Any], ...]:
    """Every decision about the network, and those about operators that are not the default."""
    listed = []
    for choice in space.choices:
        value = candidate.values.get(choice.place, choice.decision.default)
        if choice.operator == NETWORK or value != choice.decision.default:
            operator = None if choice.operator == NETWORK else choice.operator
            listed.append(
                {
                    "operator": operator,
                    "op": None if operator is None else space.graph.operators[operator].op,
                    "decision": choice.decision.name,
                    "value": value,
                    "default": choice.decision.default,
                    "by": choice.decision.becomes,
                }
            )
    return tuple(listed)


def _words(declared: Mapping[str, Decision], name: str, value: Value) -> tuple[str, str]:
    """A decision and its value as people read them; a name of another version stays as it is."""
    decision = declared.get(name)
    if decision is None:
        return name, str(value)
    return decision.title or name, decision.label(value)


def _candidate_text(decisions: Mapping[str, Any], declared: Mapping[str, Decision]) -> str:
    """A candidate in a few words."""
    network = decisions.get("network", {})
    parts = [" ".join(_words(declared, name, value)) for name, value in network.items()]
    counts: dict[str, int] = {}
    for values in decisions.get("operators", {}).values():
        for name, value in values.items():
            title, _ = _words(declared, name, value)
            counts[title] = counts.get(title, 0) + 1
    parts += [f"{count} {name}" for name, count in sorted(counts.items())]
    return ", ".join(parts) or "default"


def _decision_row(
    entry: Mapping[str, Any], declared: Mapping[str, Decision]
) -> tuple[str, str, str, str, str]:
    title, value = _words(declared, entry["decision"], entry["value"])
    _, default = _words(declared, entry["decision"], entry["default"])
    return _place(entry), title, value, default, entry["by"]


def _place(entry: Mapping[str, Any]) -> str:
    return "network" if entry["operator"] is None else f"{entry['op']} {entry['operator']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _times(trial: MeasuredCandidate) -> str:
    if trial.ratio is None or trial.noise is None:
        return "-"
    return f"{trial.ratio:.3f} ± {trial.ratio * trial.noise:.3f}"
