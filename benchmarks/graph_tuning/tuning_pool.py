"""Measured candidates of each network, and tunings that are replayed from them.

Every strategy is the tuner itself with another scorer: it runs unchanged on a profiler that answers
from the pool, and stops where the pool lacks what it wants to measure. What all strategies want is
then measured once, interleaved with the default, and the replays go on from there.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.graph_tuning.tuning_strategies import Strategy, fingerprint
from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.compilers.relax.config import PipelineConfig
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.measuring.record import (
    Measurement,
    MeasurementConfig,
    Timing,
    measurement_key,
)
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.variants import VariantResult, VariantRun
from tvm_costmodel.tuning.report import Ratio, ratio_of
from tvm_costmodel.tuning.scoring.loading import load_scorer
from tvm_costmodel.tuning.scoring.scorer import Scorer, Scores
from tvm_costmodel.tuning.search.ledger import Scored
from tvm_costmodel.tuning.search.search import SearchResult
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.tuner import Tuning

FIRST, CONFIRMED, FINAL = range(3)
"""The purpose of a row: a strategy's first look at a candidate, a strategy's confirmation of
a favourite, and the comparison of what all strategies returned with the fastest of the pool."""
_STORES = ("pool.db", "confirmed.db", "final.db")
_WAVE = 12  # candidates bred from the pool's fastest at a time
_PARENTS = 4
Rows = dict[str, dict[Candidate, Measurement]]
# How many of a search's candidates the tuner proposes from: the fastest, the least sure of others.
_FASTEST, _UNSURE = 256, 64


class NotMeasuredYet(Exception):
    """A replayed tuning wants what the pool lacks.

    Attributes:
        candidates: What it wants.
        level: What for, `FIRST` or `CONFIRMED`.
    """

    def __init__(self, candidates: Sequence[Candidate], level: int) -> None:
        super().__init__(f"{len(candidates)} candidates")
        self.candidates, self.level = tuple(candidates), level


@dataclass(frozen=True)
class Pool:
    """Measured candidates of all networks on one device.

    Attributes:
        stores: Rows by their purpose, each kind with more rounds than the last.
        device: The measured device.
    """

    stores: tuple[Store, ...]
    device: Device
    _rows: dict[int, tuple[int, Rows]] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: Path, device: Device) -> Pool:
        """Opens or makes the stores of a folder."""
        return cls(tuple(Store(folder / name) for name in _STORES), device)

    def rows(self, level: int) -> Rows:
        """Every row by network and candidate, read again when there are more."""
        store = self.stores[level]
        count = store.count(status=None)
        if level not in self._rows or self._rows[level][0] != count:
            rows: Rows = {}
            for row in store.measurements(self.device.name, status=None, variants=True):
                candidate = Candidate.from_dict(row.pipeline["decisions"])
                rows.setdefault(row.graph_hash, {})[candidate] = row
            self._rows[level] = (count, rows)
        return self._rows[level][1]


@dataclass
class Replayed:
    """The result of a replayed strategy.

    Attributes:
        strategy: Name of the strategy.
        seed: Its seed.
        measured: Candidates that it measured, in order.
        winner: The candidate that it returned; the empty one where that is the default.
        search: Its first search.
    """

    strategy: str
    seed: int
    measured: tuple[Candidate, ...]
    winner: Candidate
    search: SearchResult = field(repr=False)


class NetworkPool:
    """The pool's view of one network.

    Args:
        graph: The network before any pass.
        pool: The pool that holds its rows.
        searches: Folder in which searches are kept.
        measure: Candidates that a strategy may measure.
    """

    def __init__(self, name: str, graph: OpGraph, pool: Pool, searches: Path, measure: int) -> None:
        self.name, self.graph, self.pool = name, graph, pool
        self.space = DecisionSpace.for_graph(graph)
        self._searches, self._measure = searches, measure

    def trial(self, candidate: Candidate) -> VariantRun:
        """A candidate as the profiler takes it."""
        return VariantRun(self.space.config_fields(candidate), candidate.to_dict())

    def row(self, candidate: Candidate, level: int = FIRST) -> Measurement | None:
        """The row of a candidate; None where it was not measured for that."""
        return self.row_of(self.space.config_fields(candidate), level)

    def row_of(self, pipeline: Mapping[str, Any], level: int = FIRST) -> Measurement | None:
        """The same, by the fields of the compiler's configuration."""
        place = measurement_key(self.graph.hash, self.pool.device.name, self.key(pipeline))
        return self.pool.stores[level].get(place)

    def key(self, pipeline: Mapping[str, Any]) -> str:
        """The key of the builds of such fields in stores."""
        return PipelineConfig.from_dict(dict(pipeline)).key

    def rows(self, level: int = FIRST) -> dict[Candidate, Measurement]:
        """Every row of this network's variants, failed ones too."""
        return self.pool.rows(level).get(self.graph.hash, {})

    def ratio(self, candidate: Candidate, most: int = FINAL) -> Ratio | None:
        """Latency over the default's, from the row of most rounds.

        Args:
            candidate: What was measured.
            most: Rows that were measured for more are not read.

        Returns:
            None where the candidate failed or was not measured.
        """
        if not self.space.config_fields(candidate):
            return Ratio(0.0, 0.0)
        for level in range(most, -1, -1):
            row = self.row(candidate, level)
            if row is not None and row.status == "ok" and row.timing is not None:
                return ratio_of(row.timing)
        return None

    def fastest(self, count: int) -> list[Candidate]:
        """The pool's fastest by what was confirmed, or else by first looks.

        What was measured last of all chooses nothing, so that it is no lucky measurement of what it
        would have chosen itself.
        """
        return _by_ratio({c: self.ratio(c, CONFIRMED) for c in self.rows()})[:count]

    @property
    def best(self) -> Candidate:
        """The fastest known candidate, of those compared last where there are any."""
        compared = {c: self.ratio(c) for c in self.rows(FINAL)}
        known = _by_ratio({self.space.default: Ratio(0.0, 0.0), **compared})
        return known[0] if compared else next(iter(self.fastest(1)), known[0])

    def replay(self, strategy: Strategy, seed: int) -> Replayed:
        """Replays a strategy on this network's rows.

        Raises:
            NotMeasuredYet: It wants a candidate that was not measured.
        """
        predictor = strategy.predictor(seed)
        scorer = LazyScorer(lambda: load_scorer(predictor, self.space, self.pool.device, seed)[0])
        profiler: Any = PoolProfiler(self)
        settings = strategy.settings(self._measure, seed)
        tuning = ReplayedTuning(self.space, scorer, profiler, settings)
        tuning.search_file = self._searches / f"{self.name}.{strategy.name}.{seed}.json"
        marks = fingerprint(predictor, self.pool.device.name)
        tuning.key = f"{predictor} {marks} {settings} {self.graph.hash}"
        tuning.run()
        winner = tuning.winner.candidate if tuning.winner else self.space.default
        measured = tuple(tuning.measured)
        return Replayed(strategy.name, seed, measured, winner, tuning.searches[-1])

    def missing(self, candidates: Iterable[Candidate], level: int = FIRST) -> Iterator[Candidate]:
        """Those that were not measured, each pipeline once and the default left out."""
        seen = {self.key({})}
        for candidate in candidates:
            key = self.key(self.space.config_fields(candidate))
            if key not in seen and self.row(candidate, level) is None:
                yield candidate
            seen.add(key)

    def bred(self, seed: int) -> list[Candidate]:
        """Neighbours of the pool's fastest that were not measured."""
        rng = np.random.default_rng([seed, len(self.rows())])
        parents = self.fastest(_PARENTS) or [self.space.default]
        drawn: list[Candidate] = []
        for _ in range(20 * _WAVE):
            one, other = (parents[int(i)] for i in rng.integers(len(parents), size=2))
            if one != other and rng.random() < 0.4:
                drawn.append(self.space.cross(one, other, rng))
            else:
                drawn.append(self.space.mutate(one, rng, int(rng.integers(1, 3))))
        return list(itertools.islice(self.missing(drawn), _WAVE))


def _by_ratio(ratios: Mapping[Candidate, Ratio | None]) -> list[Candidate]:
    """Those that have one, the smallest first."""
    good = {candidate: ratio.log for candidate, ratio in ratios.items() if ratio is not None}
    return sorted(good, key=lambda candidate: good[candidate])


class PoolProfiler:
    """Stands for the profiler in a replayed tuning: answers from the pool."""

    def __init__(self, network: NetworkPool) -> None:
        self._network = network
        self.measurement = MeasurementConfig()
        self.seconds: dict[str, float] = {}
        self.controls: list[Timing] = []

    def measure(
        self,
        trials: Sequence[VariantRun],
        tolerance: float = math.inf,
        rounds: int | None = None,
        reuse: bool = True,
        control: bool = False,
    ) -> list[VariantResult]:
        """Rows from the pool; those that are not to be reused are confirmations.

        The pool holds no second build of the default.

        Raises:
            NotMeasuredYet: Some are not there.
        """
        level = FIRST if reuse else CONFIRMED
        rows = [self._network.row_of(trial.pipeline, level) for trial in trials]
        missing = [t for t, row in zip(trials, rows, strict=True) if row is None]
        if missing:
            raise NotMeasuredYet([Candidate.from_dict(t.decisions) for t in missing], level)
        return [
            VariantResult(trial, row, True)
            for trial, row in zip(trials, rows, strict=True)
            if row is not None
        ]


class LazyScorer:
    """A scorer that is loaded at its first use: a replay often needs none.

    Args:
        make: Loads the scorer.
    """

    def __init__(self, make: Callable[[], Scorer]) -> None:
        self._make = make

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""
        return self._scorer.score(candidates)

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions."""
        self._scorer.learn(candidates, ratios)

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """The scorer's own optima under candidates' network decisions."""
        arguments = () if decisions is None else (decisions,)
        return self._scorer.best_values(candidates, *arguments)

    @functools.cached_property
    def _scorer(self) -> Scorer:
        return self._make()


class ReplayedTuning(Tuning):
    """The tuner, with its first search kept in a file: measurements do not change that search."""

    search_file: Path
    key: str

    def _search(self, number: int) -> None:
        if number:
            return super()._search(number)
        stored = json.loads(self.search_file.read_text()) if self.search_file.exists() else {}
        if stored.get("key") == self.key:
            self.searches.append(_search_from(stored))
            return None
        super()._search(number)
        result = _shortened(self.searches[-1], self.space.default)
        write_atomically(self.search_file, json.dumps({"key": self.key, **_search_to(result)}))
        self.searches[-1] = result
        return None


def _shortened(result: SearchResult, default: Candidate) -> SearchResult:
    """A search without the candidates that the acquisition function never looks at."""
    others = [s for s in result.ranked if s.candidate != default]
    unsure = sorted(others[_FASTEST:], key=lambda s: -s.spread)[:_UNSURE]
    looked_at = {s.candidate for s in (*others[:_FASTEST], *unsure)} | {default}
    return replace(result, ranked=tuple(s for s in result.ranked if s.candidate in looked_at))


def _search_to(result: SearchResult) -> dict[str, Any]:
    ranked = [[s.candidate.to_dict(), s.latency_s, s.spread] for s in result.ranked]
    fields = {"strategy": result.strategy, "scored": result.scored, "seconds": result.seconds}
    return {**fields, "ranked": ranked}


def _search_from(fields: Mapping[str, Any]) -> SearchResult:
    ranked = tuple(Scored(Candidate.from_dict(c), *numbers) for c, *numbers in fields["ranked"])
    return SearchResult(ranked, fields["strategy"], fields["scored"], fields["seconds"])


def everywhere(space: DecisionSpace, values: Mapping[str, Value]) -> Candidate:
    """The candidate with the same values for all operators, wherever each value is allowed.

    Args:
        space: The network's space.
        values: Value by name of the decision.
    """
    network = {n: v for n, v in values.items() if _takes(space, NETWORK, n, v)}
    candidate = Candidate.of({(NETWORK, name): value for name, value in network.items()})
    for choice in space.choices:
        value = values.get(choice.decision.name)
        if choice.operator == NETWORK or value is None or value not in choice.values:
            continue
        if value == choice.decision.default:
            continue
        more = candidate.replaced([(*choice.place, value)])
        candidate = more if space.is_valid(more) else candidate
    return candidate


def _takes(space: DecisionSpace, place: int, name: str, value: Value) -> bool:
    choice = space.by_place.get((place, name))
    return choice is not None and value in choice.values and value != choice.decision.default
