"""Fills the pool of `graph_tuning`, network by network, so that a stop leaves all alike.

Programs that share a folder each take the network that has the fewest rows and that no other is at.
Each batch is chosen anew from what the stores hold, so that a killed run goes on where it was.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmarks.graph_tuning.tuning_pool import (
    CONFIRMED,
    FINAL,
    FIRST,
    NetworkPool,
    NotMeasuredYet,
    Replayed,
    everywhere,
)
from benchmarks.graph_tuning.tuning_strategies import Strategy
from tvm_costmodel.errors import CostModelError
from tvm_costmodel.profiling.measuring.cpu_affinity import TimingLock
from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.paired_profiler import PairedProfiler
from tvm_costmodel.profiling.sources import FileSource
from tvm_costmodel.tuning.space.candidate import Candidate, Value
from tvm_costmodel.tuning.space.decisions import DECISIONS
from tvm_costmodel.tuning.space.rule_of_thumb import rule_of_thumb

RULE, ANY, EXPERT = "direct kernels", "any", "rule of thumb"
TOP, DECIDING = 8, 3
"""Of the pool's fastest, how many are confirmed at once, and how many must be in the end."""
LEVELS = {"pool": FIRST, "confirm": CONFIRMED, "final": FINAL}
"""The purpose of the rows of each kind of batch."""
BATCH = 24
"""Candidates of one network that are measured at a time, at most."""
_LONGER = 8  # of our strategy's list, those after what it measured
_TILE = ("accumulators", "vectors", "loop_order")


@dataclass(frozen=True)
class Policy:
    """One fixed choice for all networks.

    Attributes:
        name: Its name in tables.
        kind: ``direct kernels`` where it is a parameter of the CPU rule's direct kernels alone;
            ``rule of thumb`` for what an expert decides from shapes.
        values: Values by name of the decision, each used wherever it is allowed.
    """

    name: str
    kind: str
    values: Mapping[str, Value] = field(default_factory=dict)

    def candidate(self, network: NetworkPool) -> Candidate:
        """The policy for a network; the empty candidate where nothing of it is allowed."""
        if self.kind == EXPERT:
            return rule_of_thumb(network.space)
        return everywhere(network.space, self.values)


def policies(tolerance: float = 1e-3) -> tuple[Policy, ...]:
    """Every single value of every decision, for all operators of all networks, and an expert's.

    Those that err more than the tolerance are not offered to anyone and left out here.
    """
    listed = [Policy("rule default", RULE), Policy("rule of thumb", EXPERT)]
    for decision in DECISIONS:
        for value in decision.values[1:]:
            if decision.errors.get(value, 0.0) > tolerance:
                continue
            kind = RULE if decision.name in _TILE else ANY
            name = f"{decision.title or decision.name} {decision.label(value)}"
            listed.append(Policy(name, kind, {decision.name: value}))
    return tuple(sorted(listed, key=lambda policy: policy.kind != RULE))


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        strategies: The strategies, ours last.
        seeds: Seeds of each strategy.
        candidates: Rows that a network shall have at least.
        bred: Rows beyond those that strategies and fixed choices want, at least so many: the next
            of our own list, then neighbours of the fastest.
        confirm_rounds: Rounds of a confirmation; of the last comparison twice as many.
    """

    strategies: tuple[Strategy, ...]
    seeds: int
    candidates: int
    bred: int = 16
    confirm_rounds: int = 4

    def replays(self, network: NetworkPool, seed: int) -> Replays:
        """A seed's replays of a network, as far as its rows allow."""
        replays = Replays()
        for strategy in reversed(self.strategies):
            try:
                replays.done.append(network.replay(strategy, seed))
            except NotMeasuredYet as more:
                wanted = replays.unsettled if more.level == CONFIRMED else replays.wanted
                wanted.extend(more.candidates)
        return replays

    def next(self, network: NetworkPool) -> tuple[str, list[Candidate]]:
        """What to measure of a network now: kind of batch and candidates; none when complete.

        A stop leaves whole seeds: what the first wants comes first, then the fixed choices.
        """
        seeds = [self.replays(network, seed) for seed in range(self.seeds)]
        fixed = [policy.candidate(network) for policy in policies()]
        wanted = [candidate for replays in seeds[1:] for candidate in replays.wanted]
        first = list(network.missing([*seeds[0].wanted, *fixed, *wanted]))
        if first:
            return "pool", first
        if confirm := unsettled(network, seeds):
            return "confirm", confirm
        more = self._beyond(network, seeds, fixed)
        if more:
            return "pool", more
        if confirm := unconfirmed(network, TOP):
            return "confirm", confirm
        return "final", finalists(network, seeds)

    def rounds(self, level: int) -> int | None:
        """Rounds of a row; the tuner's own number where None."""
        return {FIRST: None, CONFIRMED: self.confirm_rounds, FINAL: 2 * self.confirm_rounds}[level]

    def _beyond(
        self, network: NetworkPool, seeds: Sequence[Replays], fixed: Sequence[Candidate]
    ) -> list[Candidate]:
        """What nobody wanted, so that the best known candidate is nobody's by construction."""
        runs = [run for replays in seeds for run in replays.done]
        wanted = {c.key for run in runs for c in run.measured} | {c.key for c in fixed if c.entries}
        rows = len(network.rows())
        if rows >= max(self.candidates, len(wanted) + self.bred):
            return []
        if rows < len(wanted) + _LONGER:
            ours = next(run for run in runs if run.strategy == self.strategies[-1].name)
            listed = (scored.candidate for scored in ours.search.ranked)
            longer = list(islice(network.missing(listed), _LONGER))
            if longer:
                return longer
        return network.bred(seed=0)


@dataclass
class Replays:
    """The replays of one seed.

    Attributes:
        done: Results of those that are through.
        wanted: What others want measured.
        unsettled: What others want confirmed.
    """

    done: list[Replayed] = field(default_factory=list)
    wanted: list[Candidate] = field(default_factory=list)
    unsettled: list[Candidate] = field(default_factory=list)


def unsettled(network: NetworkPool, seeds: Sequence[Replays]) -> list[Candidate]:
    """What replays want confirmed and nobody has measured so yet."""
    wanted = (candidate for replays in seeds for candidate in replays.unsettled)
    return list(network.missing(wanted, CONFIRMED))


def unconfirmed(network: NetworkPool, top: int) -> list[Candidate]:
    """The ``top`` fastest that are not confirmed; none when the `DECIDING` fastest are."""
    if not list(network.missing(network.fastest(DECIDING), CONFIRMED)):
        return []
    return list(network.missing(network.fastest(top), CONFIRMED))


def finalists(network: NetworkPool, seeds: Sequence[Replays]) -> list[Candidate]:
    """What is compared in the end and was not yet: what strategies returned, and the fastest."""
    returned = [run.winner for replays in seeds for run in replays.done]
    return list(network.missing([*network.fastest(DECIDING), *returned], FINAL))


@dataclass
class Filler:
    """Measures what a plan wants.

    Args:
        folder: The benchmark's folder.
        plan: What is wanted.
        networks: Each network's view of the pool.
        core: The core to measure on; the last one when not given.
        lock: File that programs share which measure at the same time.
        measurement: How a label is taken.
    """

    folder: Path
    plan: Plan
    networks: Mapping[str, NetworkPool]
    core: int | None = None
    lock: Path | None = None
    measurement: MeasurementConfig = field(default_factory=lambda: MeasurementConfig(kernels=False))

    def run(self, minutes: float) -> bool:
        """Fills until the plan is complete or the time is up; whether it is complete."""
        end = time.monotonic() + 60 * minutes
        complete: set[str] = set()
        self._profilers: dict[int, PairedProfiler] = {}
        try:
            while time.monotonic() < end:
                order = [n for n in self._by_rows() if n not in complete]
                if not order:
                    return True
                if not any(self._fill(name, end, complete) for name in order):
                    if len(complete) == len(self.networks):
                        return True
                    time.sleep(2)  # others are at all that is left
            return False
        finally:
            for profiler in self._profilers.values():
                profiler.close()

    def _by_rows(self) -> list[str]:
        counts = {name: len(network.rows()) for name, network in self.networks.items()}
        return sorted(counts, key=lambda name: counts[name])

    def _fill(self, name: str, end: float, complete: set[str]) -> bool:
        """Measures one batch of a network; whether anything was done."""
        with claim(self.folder, name) as mine:
            if not mine:
                return False
            network = self.networks[name]
            with self._working():
                kind, candidates = self.plan.next(network)
            if not candidates:
                complete.add(name)
                return False
            start = time.monotonic()
            profiler = self._profiler(LEVELS[kind])
            try:
                profiler.open(FileSource(str(self.folder / "networks" / f"{name}.onnx")))
                done = self._measure(network, profiler, kind, candidates[:BATCH], end)
            except CostModelError as error:
                print(f"{name}: {error}", flush=True)
                complete.add(name)
                return False
            seconds = time.monotonic() - start
            line = {"network": name, "kind": kind, "count": done, "seconds": round(seconds, 2)}
            line["clocks"] = {k: round(v, 2) for k, v in profiler.seconds.items()}
            with open(self.folder / "visits.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
            ratio = network.ratio(network.best)
            fastest = f", best {ratio.value:.3f}" if ratio else ""
            print(f"{name}: {kind} {done} in {seconds:.0f} s{fastest}", flush=True)
            return True

    def _measure(
        self,
        network: NetworkPool,
        profiler: PairedProfiler,
        kind: str,
        candidates: Sequence[Candidate],
        end: float,
    ) -> int:
        rounds = self.plan.rounds(LEVELS[kind])
        left, done = iter(candidates), 0
        while part := list(islice(left, 12)):
            trials = [network.trial(candidate) for candidate in part]
            done += len(profiler.measure(trials, 1e-3, rounds))
            if time.monotonic() > end:
                break
        return done

    def _profiler(self, level: int) -> PairedProfiler:
        if level not in self._profilers:
            any_pool = next(iter(self.networks.values())).pool
            self._profilers[level] = PairedProfiler(
                any_pool.device,
                any_pool.stores[level],
                self.measurement,
                cores=None if self.core is None else (self.core,),
                progress=False,
                timing_lock=self.lock,
            )
        return self._profilers[level]

    def _working(self) -> AbstractContextManager[None]:
        """Holds the lock while this program computes, so that it never disturbs one that times."""
        return TimingLock(self.lock).working() if self.lock else nullcontext()


@contextmanager
def claim(folder: Path, name: str) -> Iterator[bool]:
    """Whether no other program of a folder is at something; it stays this one's inside."""
    with open(folder / f".{name}.claim", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
