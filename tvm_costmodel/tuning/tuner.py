"""The loop: search with the predictor, measure a few favourites, learn, search again, confirm."""

from __future__ import annotations

import functools
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tqdm import tqdm

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.profiling.measuring.record import Timing
from tvm_costmodel.profiling.paired_profiler import PairedProfiler, clocked
from tvm_costmodel.profiling.variants import VariantResult, VariantRun
from tvm_costmodel.tuning.config import TuneSettings
from tvm_costmodel.tuning.report import Ratio, pooled, ratio_of, shrunk
from tvm_costmodel.tuning.search.acquisition import (
    FAILED,
    RULE_OF_THUMB,
    Outcome,
    Proposal,
    propose,
)
from tvm_costmodel.tuning.search.ledger import Scored
from tvm_costmodel.tuning.search.search import SearchResult, search
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.rule_of_thumb import rule_of_thumb

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

_GROUP = 4  # candidates whose timing is interleaved: an interrupt loses at most so many
_CONFIRMED = 3  # favourites that are measured a second time
_PASSES = 2  # in which they are
_UNSURE = 4  # one in so many measurements goes to what the model knows least about
_SEARCH_SHARE = 0.25  # of the minutes, for all searches together


@dataclass(frozen=True)
class Trial:
    """A measured candidate.

    Attributes:
        proposal: The candidate, and why it was proposed.
        result: Its row, and whether the store had it already.
        ratio: Its latency over the default's; None where it failed.
        confirmed: Whether this is its second measurement.
    """

    proposal: Proposal
    result: VariantResult
    ratio: Ratio | None
    confirmed: bool = False

    @property
    def candidate(self) -> Candidate:
        """The candidate."""
        return self.proposal.scored.candidate


@dataclass
class Tuning:
    """One tuning in progress: `run` carries it out, and the attributes hold its state.

    Attributes:
        space: What can be decided.
        scorer: What predicts latencies.
        profiler: What measures; the network is open in it.
        settings: Budgets.
        measured: Trial of every candidate that was measured, in that order.
        searches: Result of each search.
        winner: The confirmed candidate that beats the default beyond noise; None where none does.
        stopped: Why it ended.
        seconds: Where the time went.
        default_timing: A timing of the default build, or of a variant that was timed with it.
        controls: Ratios of a second build of the default, timed along with each confirmation.
    """

    space: DecisionSpace
    scorer: Scorer
    profiler: PairedProfiler
    settings: TuneSettings
    measured: dict[Candidate, Trial] = field(default_factory=dict)
    searches: list[SearchResult] = field(default_factory=list)
    winner: Trial | None = None
    stopped: str = "finished"
    seconds: dict[str, float] = field(default_factory=dict)
    default_timing: Timing | None = None
    controls: list[Ratio] = field(default_factory=list)
    _learnt: set[Candidate] = field(default_factory=set)

    def run(self) -> None:
        """Searches, measures and confirms; an interrupt keeps the best so far.

        Raises:
            DeviceError: The device cannot be reached.
            MeasurementError: The default build itself cannot be built or run.
            StoreError: The store cannot be written.
        """
        self._begin = time.monotonic()
        with tqdm(
            total=self.settings.measure, unit="cand", disable=not self.settings.progress
        ) as bar:
            self._bar = bar
            try:
                self._rounds()
                self.winner = self._confirm()
                if self.default_timing is None:
                    self._time_default()
            except KeyboardInterrupt:
                if self.default_timing is None:
                    raise  # nothing to keep: not even the default was measured
                logger.warning("interrupted: the best so far is compiled; again to leave at once")
                self.stopped = "interrupted"
                self.winner = next(iter(self._faster()), None)
        self.seconds |= self.profiler.seconds

    @property
    def default(self) -> Scored:
        """The score of the default candidate."""
        scored = self.searches[-1].of(self.space.default)
        assert scored is not None  # every search scores it
        return scored

    def _rounds(self) -> None:
        shares = self.settings.shares()
        for number, share in enumerate(shares):
            if number and self._late():
                self.stopped = "minutes"
                return
            if not number or self.settings.adapt:
                self._search(number)
            last = number == len(shares) - 1 and number > 0
            known = [] if number or not share else self._rule_of_thumb()
            expert = {proposal.scored.candidate for proposal in known}
            proposals = propose(
                [s for s in self.searches[-1].ranked if s.candidate not in expert],
                self.default,
                {trial.candidate: _outcome(trial) for trial in self.measured.values()},
                share - len(known),
                0 if last else share // _UNSURE,
            )
            self._measure([*known, *proposals])

    @functools.cached_property
    def _expert(self) -> Candidate:
        return rule_of_thumb(self.space)

    def _rule_of_thumb(self) -> list[Proposal]:
        """What is measured whatever the predictor says, so that the winner is never behind it."""
        scored = self.searches[-1].of(self._expert)
        if scored is None or scored.candidate == self.space.default:
            return []
        return [Proposal(scored, RULE_OF_THUMB)]

    def _search(self, number: int) -> None:
        settings = self.settings
        new = {
            candidate: trial.ratio.value
            for candidate, trial in self.measured.items()
            if trial.ratio is not None and candidate not in self._learnt
        }
        if new:
            with clocked(self.seconds, "learning"):
                self.scorer.learn(list(new), list(new.values()))
            self._learnt |= set(new)
        seconds = None
        if settings.minutes is not None:
            seconds = settings.minutes * 60 * _SEARCH_SHARE / len(settings.shares())
        with clocked(self.seconds, "search"):
            result = search(
                self.space,
                self.scorer,
                settings.candidates,
                seconds,
                settings.strategy,
                settings.seed + number,
                start=[self._expert, *self.measured],
            )
        self.searches.append(result)
        if not math.isfinite(self.default.latency_s):
            raise CheckpointError(
                "the predictor gives no latency for this network, so that no candidate can be "
                "compared with it; use another predictor"
            )

    def _measure(self, proposals: Sequence[Proposal], rounds: int | None = None) -> list[Trial]:
        """Measures candidates; with ``rounds`` it is a confirmation, which reuses no row."""
        done: list[Trial] = []
        confirming = rounds is not None
        for at in range(0, len(proposals), _GROUP):
            if done and self._late() and not confirming:
                break
            group = proposals[at : at + _GROUP]
            runs = [self._variant_run(proposal.scored.candidate) for proposal in group]
            results = self.profiler.measure(
                runs,
                self.settings.tolerance,
                rounds or self.settings.blocks,
                reuse=not (self.settings.force or confirming),
                control=confirming,
            )
            self.controls += [r for r in map(ratio_of, self.profiler.controls) if r is not None]
            for proposal, result in zip(group, results, strict=True):
                done.append(self._keep(proposal, result, confirming))
            favourites = self._favourites()[:_CONFIRMED]  # may be confirmed, and win
            self.profiler.keep = [trial.result.row.config_key for trial in favourites]
        return done

    def _variant_run(self, candidate: Candidate) -> VariantRun:
        return VariantRun(self.space.config_fields(candidate), candidate.to_dict())

    def _keep(self, proposal: Proposal, result: VariantResult, confirmed: bool) -> Trial:
        timing = result.timing
        ratio = ratio_of(timing) if timing is not None else None
        trial = Trial(proposal, result, ratio, confirmed)
        self.measured[trial.candidate] = trial
        if result.row.timing is not None and result.row.timing.baseline_blocks:
            self.default_timing = result.row.timing
        self._show(confirmed)
        return trial

    def _show(self, confirmed: bool) -> None:
        good = [m.ratio for m in self.measured.values() if m.ratio is not None]
        failed = len(self.measured) - len(good)
        best = f"{math.exp(-min(0.0, *shrunk(good))):.2f}x" if good else "-"
        self._bar.set_postfix_str(f"best {best}, failed {failed}", refresh=False)
        self._bar.update(0 if confirmed else 1)

    def _faster(self) -> list[Trial]:
        """Candidates that were faster than the default beyond noise, the fastest first."""
        return [m for m in self._favourites() if self._beats_default(m)]

    def _beats_default(self, trial: Trial) -> bool:
        return trial.ratio is not None and trial.ratio.beats_default(self.spread)

    @property
    def spread(self) -> float:
        """By how much the logs of two timings of one build differed, root mean square."""
        logs = [control.log for control in self.controls]
        return math.sqrt(sum(log * log for log in logs) / len(logs)) if logs else 0.0

    def _favourites(self) -> list[Trial]:
        """Candidates that were faster than the default, the fastest first.

        The fastest of many is often a lucky one: noisy ratios count less.
        """
        good = {m.candidate: m.ratio for m in self.measured.values() if m.ratio is not None}
        logs = dict(zip(good, shrunk(list(good.values())), strict=True))
        faster = sorted((c for c in logs if logs[c] < 0), key=lambda c: logs[c])
        return [self.measured[candidate] for candidate in faster]

    def _confirm(self) -> Trial | None:
        """Measures the favourites again: the fastest of many is often just a lucky one.

        It is done in passes, one after the other, as what disturbs a machine lasts for seconds.
        """
        waiting = self._favourites()
        rounds = self.settings.blocks or self.profiler.measurement.blocks
        while waiting:
            favourites, waiting = waiting[:_CONFIRMED], waiting[_CONFIRMED:]
            passes = [
                self._measure([m.proposal for m in favourites], rounds) for _ in range(_PASSES)
            ]
            for trials in zip(*passes, strict=True):
                ratio = pooled([trial.ratio for trial in trials])
                self.measured[trials[-1].candidate] = replace(trials[-1], ratio=ratio)
            confirmed = [self.measured[m.candidate] for m in favourites]
            good = [m for m in confirmed if m.ratio is not None]
            if good:
                best = min(good, key=_log_ratio)
                return best if self._beats_default(best) else None
        return None

    def _time_default(self) -> None:
        """Times the default build where no candidate was timed together with it."""
        (result,) = self.profiler.measure(
            [VariantRun()], math.inf, self.settings.blocks, reuse=True
        )
        self.default_timing = result.timing

    def _late(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.monotonic() - self._begin > minutes * 60


def _log_ratio(trial: Trial) -> float:
    return trial.ratio.log if trial.ratio is not None else math.inf


def _outcome(trial: Trial) -> Outcome:
    if trial.ratio is None:
        return FAILED
    return Outcome(trial.ratio.log, trial.ratio.error)
