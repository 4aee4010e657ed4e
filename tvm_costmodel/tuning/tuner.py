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
from tvm_costmodel.profiling.measurement import Timing
from tvm_costmodel.profiling.trials import Trial, TrialProfiler, TrialResult, clocked
from tvm_costmodel.tuning.candidate import Candidate
from tvm_costmodel.tuning.report import Ratio, ratio_of
from tvm_costmodel.tuning.search import Scored, SearchResult, search
from tvm_costmodel.tuning.selection import FAILED, Outcome, Pick, choose
from tvm_costmodel.tuning.settings import TuneSettings
from tvm_costmodel.tuning.space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring import Scorer

logger = logging.getLogger(__name__)

_GROUP = 4  # candidates that take turns with one another: an interrupt loses at most so many
_CONFIRMED = 3  # favourites that are measured a second time
_UNSURE = 4  # one in so many measurements goes to what the model knows least about
_SEARCH_SHARE = 0.25  # of the minutes, for all searches together


@dataclass(frozen=True)
class Measured:
    """A measured candidate.

    Attributes:
        pick: What was measured and why.
        result: The row and whether it was there already.
        ratio: Its latency over the default's; None where it failed.
        confirmed: Whether this is its second measurement.
    """

    pick: Pick
    result: TrialResult
    ratio: Ratio | None
    confirmed: bool = False

    @property
    def candidate(self) -> Candidate:
        """What was decided."""
        return self.pick.scored.candidate


@dataclass
class Tuning:
    """One tuning in progress; `run` goes through it, the other attributes tell of it.

    Attributes:
        space: What can be decided.
        scorer: What predicts latencies.
        profiler: Measures; the network is open in it.
        settings: Budgets.
        reuse: Take rows that the store has already.
        progress: Show a bar on standard error.
        measured: Every candidate that was measured, in that order.
        searches: What each search found.
        winner: The confirmed candidate that beats the default beyond noise; None where none does.
        stopped: Why it ended.
        seconds: Where the time went.
        default_timing: A timing of, or beside, the undecided network.
    """

    space: DecisionSpace
    scorer: Scorer
    profiler: TrialProfiler
    settings: TuneSettings
    reuse: bool = True
    progress: bool = False
    measured: dict[Candidate, Measured] = field(default_factory=dict)
    searches: list[SearchResult] = field(default_factory=list)
    winner: Measured | None = None
    stopped: str = "finished"
    seconds: dict[str, float] = field(default_factory=dict)
    default_timing: Timing | None = None
    _learnt: set[Candidate] = field(default_factory=set)

    def run(self) -> None:
        """Searches, measures and confirms; an interrupt keeps the best so far.

        Raises:
            DeviceError: The device cannot be reached.
            MeasurementError: The undecided network itself cannot be built or run.
            StoreError: The store cannot be written.
        """
        self._begin = time.monotonic()
        with tqdm(total=self.settings.measure, unit="cand", disable=not self.progress) as bar:
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
            picks = choose(
                self.searches[-1].ranked,
                self.default,
                {measured.candidate: _outcome(measured) for measured in self.measured.values()},
                share,
                0 if last else share // _UNSURE,
            )
            self._measure(picks)

    def _search(self, number: int) -> None:
        settings = self.settings
        new = {
            candidate: m.ratio.value
            for candidate, m in self.measured.items()
            if m.ratio is not None and candidate not in self._learnt
        }
        if new:
            with clocked(self.seconds, "learning"):
                self.scorer.learn(list(new), list(new.values()))
            self._learnt |= set(new)
        seconds = None
        if settings.minutes is not None:
            seconds = settings.minutes * 60 * _SEARCH_SHARE / len(settings.shares())
        with clocked(self.seconds, "search"):
            found = search(
                self.space,
                self.scorer,
                settings.candidates,
                seconds,
                settings.strategy,
                settings.seed + number,
                start=list(self.measured),
            )
        self.searches.append(found)
        if not math.isfinite(self.default.latency_s):
            raise CheckpointError(
                "the predictor gives no latency for this network, so that nothing can be held "
                "against it; use another predictor"
            )

    def _measure(self, picks: Sequence[Pick], rounds: int | None = None) -> list[Measured]:
        """Measures candidates; more rounds than usual mean a confirmation, of which all is new."""
        done: list[Measured] = []
        confirming = rounds is not None
        for at in range(0, len(picks), _GROUP):
            if done and self._late() and not confirming:
                break
            group = picks[at : at + _GROUP]
            trials = [self._trial(pick.scored.candidate) for pick in group]
            results = self.profiler.measure(
                trials,
                self.settings.tolerance,
                rounds or self.settings.visits,
                reuse=self.reuse and not confirming,
            )
            for pick, result in zip(group, results, strict=True):
                done.append(self._kept(pick, result, confirming))
        return done

    def _trial(self, candidate: Candidate) -> Trial:
        return Trial(self.space.config_fields(candidate), candidate.to_dict())

    def _kept(self, pick: Pick, result: TrialResult, confirmed: bool) -> Measured:
        timing = result.timing
        ratio = ratio_of(timing) if timing is not None else None
        measured = Measured(pick, result, ratio, confirmed)
        self.measured[measured.candidate] = measured
        if result.row.timing is not None and result.row.timing.beside:
            self.default_timing = result.row.timing
        self._show(confirmed)
        return measured

    def _show(self, confirmed: bool) -> None:
        good = [m.ratio.value for m in self.measured.values() if m.ratio is not None]
        failed = len(self.measured) - len(good)
        best = f"{1 / min(good):.2f}x" if good else "-"
        self._bar.set_postfix_str(f"best {best}, failed {failed}", refresh=False)
        self._bar.update(0 if confirmed else 1)

    def _faster(self) -> list[Measured]:
        """Candidates that were faster than the default beyond noise, the fastest first."""
        good = [m for m in self.measured.values() if m.ratio is not None and m.ratio.beats_default]
        return sorted(good, key=_log_ratio)

    def _confirm(self) -> Measured | None:
        """Measures the favourites again: the fastest of many is often just a lucky one."""
        good = [m for m in self.measured.values() if m.ratio is not None and m.ratio.log < 0]
        waiting = sorted(good, key=_log_ratio)
        rounds = 2 * (self.settings.visits or self.profiler.measurement.visits)
        while waiting:
            tried, waiting = waiting[:_CONFIRMED], waiting[_CONFIRMED:]
            again = self._measure([m.pick for m in tried], rounds)
            right = [m for m in again if m.ratio is not None]
            if right:
                best = min(right, key=_log_ratio)
                return best if best.ratio is not None and best.ratio.beats_default else None
        return None

    def _time_default(self) -> None:
        """Times the undecided network where no candidate did it on the side."""
        (result,) = self.profiler.measure([Trial()], math.inf, self.settings.visits, reuse=True)
        self.default_timing = result.timing

    def _late(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.monotonic() - self._begin > minutes * 60


def _log_ratio(measured: Measured) -> float:
    return measured.ratio.log if measured.ratio is not None else math.inf


def _outcome(measured: Measured) -> Outcome:
    if measured.ratio is None:
        return FAILED
    return Outcome(measured.ratio.log, measured.ratio.error)
