"""The loop on a machine whose every timing is scripted: what it measures, confirms, returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from tests.compilers.networks_small import network
from tests.profiling.labels import measurement, timing
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.profiling.measuring.record import MeasurementConfig, Timing
from tvm_costmodel.profiling.variants import VariantResult, VariantRun
from tvm_costmodel.tuning.config import TuneSettings
from tvm_costmodel.tuning.report import Ratio, pooled, ratio_of, shrunk
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.rule_of_thumb import rule_of_thumb
from tvm_costmodel.tuning.tuner import Tuning

Ratios = Callable[[Candidate, int], float | str]
GAINS = {("algorithm", "winograd2"): -0.3, ("algorithm", "winograd4"): -0.2, ("vectors", 2): -0.1}


class ScriptedProfiler:
    """Stands for a `PairedProfiler`: ratios by candidate and number of the measurement.

    Args:
        ratio: Latency over the default's, or the status of a failure.
        noise: Relative noise of a round's ratio, one up and one down.
        control: Ratio of a second build of the default.
    """

    measurement = MeasurementConfig()

    def __init__(self, ratio: Ratios, noise: float = 0.0, control: float = 1.0) -> None:
        self.ratio, self.noise, self.control = ratio, noise, control
        self.controls: list[Timing] = []
        self.seconds = {"builds": 0.0, "runs": 0.0}
        self.requests: list[tuple[list[Candidate], int, bool]] = []
        self.times: dict[Candidate, int] = {}

    def measure(
        self,
        trials: Sequence[VariantRun],
        tolerance: float,
        rounds: int | None = None,
        reuse: bool = True,
        control: bool = False,
    ) -> list[VariantResult]:
        candidates = [Candidate.from_dict(trial.decisions) for trial in trials]
        blocks = rounds or self.measurement.blocks
        self.requests.append((candidates, blocks, reuse))
        self.controls = [self._timing(self.control, blocks)] if control else []
        return [self._one(t, c, blocks) for t, c in zip(trials, candidates, strict=True)]

    def _one(self, trial: VariantRun, candidate: Candidate, blocks: int) -> VariantResult:
        number = self.times[candidate] = self.times.get(candidate, -1) + 1
        ratio = self.ratio(candidate, number)
        if isinstance(ratio, str):
            row = measurement(4, status=ratio, error="as scripted", timing=None)
            return VariantResult(trial, row)
        return VariantResult(trial, measurement(4, timing=self._timing(ratio, blocks)))

    def _timing(self, ratio: float, blocks: int) -> Timing:
        signs = [1 if i % 2 else -1 for i in range(blocks)]
        return timing(
            1e-3 * ratio,
            blocks=tuple((1e-3 * ratio * (1 + s * self.noise), 1e-3) for s in signs),
            baseline_blocks=((1e-3, 1e-3),) * blocks,
            noise=0.001,
            max_abs_err=1e-6,
            max_rel_err=1e-6,
        )


@pytest.fixture(scope="module")
def space() -> DecisionSpace:
    return DecisionSpace.for_graph(from_relax(network("residual")))


def tuned(
    space: DecisionSpace,
    ratio: Ratios,
    scorer: KnownScorer | None = None,
    noise: float = 0.0,
    control: float = 1.0,
    **settings: Any,
) -> Tuning:
    chosen = TuneSettings(**{"candidates": 600, "measure": 6} | settings)
    profiler: Any = ScriptedProfiler(ratio, noise, control)
    tuning = Tuning(space, scorer or KnownScorer(GAINS), profiler, chosen)
    tuning.run()
    return tuning


def algorithms(candidate: Candidate) -> Mapping[int, object]:
    return {i: value for i, name, value in candidate.operators if name == "algorithm"}


def all_values(space: DecisionSpace) -> set[tuple[str, object]]:
    return {(c.decision.name, value) for c in space.choices for value in c.values[1:]}


def test_the_fastest_is_measured_twice_and_wins(space) -> None:
    def ratio(candidate: Candidate, number: int) -> float:
        return 0.6 if algorithms(candidate) == {1: "winograd4"} else 0.9

    tuning = tuned(space, ratio)
    winner = tuning.winner
    assert winner is not None and winner.confirmed and winner.ratio is not None
    assert winner.ratio.value == pytest.approx(0.6)
    assert algorithms(winner.candidate) == {1: "winograd4"}
    assert len(tuning.measured) == 6
    *rounds, first, second = tuning.profiler.requests
    assert [reuse for *_, reuse in rounds] == [True] * len(rounds)
    assert first == second and first[1:] == (2, False) and winner.candidate in first[0]
    assert space.default not in tuning.measured


def test_a_lucky_minimum_is_not_returned(space) -> None:
    lucky: list[Candidate] = []

    def ratio(candidate: Candidate, number: int) -> float:
        if not lucky:
            lucky.append(candidate)
        return 0.5 if candidate == lucky[0] and number == 0 else 1.02

    tuning = tuned(space, ratio)
    assert tuning.measured[lucky[0]].confirmed
    assert tuning.winner is None


@pytest.mark.parametrize(("noise", "wins"), [(0.001, True), (0.2, False)])
def test_the_noise_decides_whether_four_per_cent_are_a_gain(space, noise, wins) -> None:
    tuning = tuned(space, lambda candidate, number: 0.96, noise=noise)
    assert (tuning.winner is not None) is wins


@pytest.mark.parametrize(("control", "wins"), [(1.01, True), (0.97, False), (1.03, False)])
def test_no_gain_below_what_two_builds_of_the_default_differ_by_is_claimed(
    space, control, wins
) -> None:
    tuning = tuned(space, lambda candidate, number: 0.96, control=control)
    assert (tuning.winner is not None) is wins
    assert tuning.spread == pytest.approx(abs(np.log(control)))
    assert len(tuning.controls) == 2  # one in each pass of the confirmation


def test_what_an_expert_would_take_is_measured_whatever_the_predictor_says(space) -> None:
    expert = rule_of_thumb(space)
    assert algorithms(expert) == {1: "winograd4"}
    misled = KnownScorer({("algorithm", "winograd4"): 0.5})
    tuning = tuned(space, lambda c, n: 0.7 if c == expert else 1.1, misled)
    assert next(iter(tuning.measured)) == expert
    assert tuning.winner is not None and tuning.winner.candidate == expert


def test_what_is_predicted_far_slower_is_not_measured(space) -> None:
    slower = {(name, value): 0.4 for name, value in all_values(space)}
    tuning = tuned(space, lambda c, n: 1.2, KnownScorer(slower))
    assert len(tuning.measured) == 2  # what an expert would take, and the predicted best
    assert tuning.winner is None
    assert tuning.default_timing is not None


def test_failures_cost_their_measurement_and_no_more(space) -> None:
    def ratio(candidate: Candidate, number: int) -> float | str:
        return 0.8 if algorithms(candidate) == {1: "winograd4"} else "build_failed"

    tuning = tuned(space, ratio)
    statuses = [m.result.status for m in tuning.measured.values()]
    assert {"build_failed", "ok"} == set(statuses)
    assert tuning.winner is not None
    assert algorithms(tuning.winner.candidate) == {1: "winograd4"}


def test_where_everything_fails_the_default_is_timed_and_kept(space) -> None:
    measured: list[Candidate] = []

    def ratio(candidate: Candidate, number: int) -> float | str:
        measured.append(candidate)
        return "wrong_output" if candidate.entries else 1.0

    tuning = tuned(space, ratio)
    assert tuning.winner is None and len(tuning.measured) == 6
    assert measured[-1] == space.default
    assert tuning.default_timing is not None and tuning.default_timing.latency_s == 1e-3


def test_a_favourite_that_fails_at_last_leaves_the_next_one(space) -> None:
    def ratio(candidate: Candidate, number: int) -> float | str:
        if candidate not in seen:
            seen.append(candidate)
        if seen.index(candidate) < 2:
            return "run_failed" if number else 0.5
        return 0.8

    seen: list[Candidate] = []
    tuning = tuned(space, ratio)
    assert [m.result.status for m in tuning.measured.values()].count("run_failed") == 2
    assert tuning.winner is not None and tuning.winner.ratio is not None
    assert tuning.winner.ratio.value == pytest.approx(0.8)


def test_adapting_learns_each_measurement_once_before_the_next_search(space) -> None:
    class Learning(KnownScorer):
        calls: ClassVar[list[list[Candidate]]] = []

        def learn(self, candidates, ratios):
            self.calls.append(list(candidates))
            super().learn(candidates, ratios)

    scorer = Learning(GAINS)
    tuning = tuned(space, lambda c, n: 0.9, scorer, adapt=True, measure=6, rounds=3)
    assert [len(call) for call in scorer.calls] == [2, 2]
    assert len(tuning.searches) == 3
    assert list(scorer.learnt.values()) == pytest.approx([0.9] * 4)
    plain = Learning(GAINS)
    Learning.calls = []
    assert len(tuned(space, lambda c, n: 0.9, plain, rounds=3).searches) == 1
    assert plain.calls == []


def test_an_interrupt_keeps_the_best_so_far(space) -> None:
    def ratio(candidate: Candidate, number: int) -> float:
        if len(seen) == 4:
            raise KeyboardInterrupt
        seen.append(candidate)
        return 0.7 if len(seen) == 2 else 0.95

    seen: list[Candidate] = []
    tuning = tuned(space, ratio, measure=12, rounds=3)
    assert tuning.stopped == "interrupted" and len(tuning.measured) == 4
    assert tuning.winner is not None and tuning.winner.candidate == seen[1]
    assert not tuning.winner.confirmed


def test_an_interrupt_before_anything_is_measured_goes_through(space) -> None:
    def ratio(candidate: Candidate, number: int) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(space, ratio)


def test_no_round_begins_after_the_minutes(space, monkeypatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("tvm_costmodel.tuning.tuner.time.monotonic", lambda: clock[0])

    def ratio(candidate: Candidate, number: int) -> float:
        clock[0] += 20.0
        return 0.9

    tuning = tuned(space, ratio, measure=12, rounds=6, minutes=1.0)
    assert tuning.stopped == "minutes"
    assert len(tuning.measured) == 4, "two rounds of two, 40 s each"
    assert tuning.winner is not None and tuning.winner.confirmed


def test_ratios_come_from_rounds_in_units_of_the_reference() -> None:
    label = timing(
        2e-3,
        blocks=((2e-3, 1e-3), (4e-3, 2e-3)),  # the machine halved its speed between the rounds
        baseline_blocks=((1e-3, 1e-3), (2e-3, 2e-3)),
        noise=0.0,
    )
    ratio = ratio_of(label)
    assert ratio is not None and ratio.value == pytest.approx(2.0)
    assert ratio.error == 0.005 and not ratio.beats_default()
    rough = ratio_of(replace(label, blocks=((0.8e-3, 1e-3), (2.0e-3, 2e-3))))
    assert rough is not None
    assert rough.error == pytest.approx(np.std([np.log(0.8), 0.0], ddof=1) / np.sqrt(2))
    assert ratio_of(replace(label, baseline_blocks=())) is None


def test_several_ratios_of_a_candidate_become_one() -> None:
    both = pooled([Ratio(-0.1, 0.01), Ratio(-0.2, 0.01)])
    assert both is not None and both.log == pytest.approx(-0.15)
    assert both.error == pytest.approx(0.05)  # they differ by more than either's noise
    assert pooled([Ratio(-0.1, 0.01), None]) is None


def test_noisy_ratios_count_less() -> None:
    sure, noisy = shrunk([Ratio(-0.2, 0.005), Ratio(-0.25, 0.2)])
    assert sure == pytest.approx(-0.2, abs=0.01) and sure < noisy < 0
