"""The loop: search with the predictor, measure a few favourites, learn, search again, confirm."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.profiling.measuring.record import Timing
from tvm_costmodel.profiling.paired_profiler import (
    PairedProfiler,
    VariantResult,
    VariantRun,
    clocked,
)
from tvm_costmodel.tuning.config import TuneSettings
from tvm_costmodel.tuning.report import Ratio, ratio_of
from tvm_costmodel.tuning.search.acquisition import FAILED, Outcome, Proposal, propose
from tvm_costmodel.tuning.search.ledger import Scored
from tvm_costmodel.tuning.search.search import SearchResult, search
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

_GROUP = 4  # candidates whose timing is interleaved: an interrupt loses at most so many
_CONFIRMED = 3  # favourites that are measured a second time
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
            proposals = propose(
                self.searches[-1].ranked,
                self.default,
                {trial.candidate: _outcome(trial) for trial in self.measured.values()},
                share,
                0 if last else share // _UNSURE,
            )
            self._measure(proposals)

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
                start=list(self.measured),
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
            )
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
        good = [m.ratio.value for m in self.measured.values() if m.ratio is not None]
        failed = len(self.measured) - len(good)
        best = f"{1 / min(good):.2f}x" if good else "-"
        self._bar.set_postfix_str(f"best {best}, failed {failed}", refresh=False)
        self._bar.update(0 if confirmed else 1)

    def _faster(self) -> list[Trial]:
        """Candidates that were faster than the default beyond noise, the fastest first."""
        return [m for m in self._favourites() if m.ratio is not None and m.ratio.beats_default]

    def _favourites(self) -> list[Trial]:
        """Candidates that were faster than the default, the fastest first."""
        good = [m for m in self.measured.values() if m.ratio is not None and m.ratio.log < 0]
        return sorted(good, key=_log_ratio)

    def _confirm(self) -> Trial | None:
        """Measures the favourites again: the fastest of many is often just a lucky one."""
        waiting = self._favourites()
        rounds = 2 * (self.settings.blocks or self.profiler.measurement.blocks)
        while waiting:
            favourites, waiting = waiting[:_CONFIRMED], waiting[_CONFIRMED:]
            confirmed = self._measure([m.proposal for m in favourites], rounds)
            good = [m for m in confirmed if m.ratio is not None]
            if good:
                best = min(good, key=_log_ratio)
                return best if best.ratio is not None and best.ratio.beats_default else None
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
