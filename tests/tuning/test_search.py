"""Searches find what a scorer takes for the fastest, within their budget, the same for a seed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compilers.networks_small import network, staged
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.tuning.search.search import WHOLE, search
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import DECISIONS, STAGE_LAYOUTS

GAINS = {
    ("layout", "NCHW"): -0.05,  # tempting alone, but it rules out the algorithms
    ("fusion", "depth4"): -0.02,
    ("fusion", "off"): 0.4,
    ("batch_norm", "decompose"): 0.1,
    ("algorithm", "winograd2"): -0.2,
    ("algorithm", "im2col"): 0.3,
    ("vectors", 2): 0.1,
    ("accumulators", 16): -0.03,
    ("loop_order", "pixels"): -0.01,
}
BEST = {
    (NETWORK, "fusion"): "depth4",
    (1, "algorithm"): "winograd2",
    (1, "accumulators"): 16,
    (1, "loop_order"): "pixels",
    (7, "accumulators"): 16,
    (7, "loop_order"): "pixels",
}


@pytest.fixture(scope="module")
def space() -> DecisionSpace:
    return DecisionSpace.for_graph(from_relax(network("residual")))


@pytest.fixture(scope="module")
def small_space() -> DecisionSpace:
    names = ("layout", "fusion", "algorithm", "loop_order")
    chosen = [decision for decision in DECISIONS if decision.name in names]
    return DecisionSpace.for_graph(from_relax(network("residual")), decisions=chosen)


@pytest.mark.parametrize("strategy", ["evolution", "beam"])
def test_guided_searches_find_the_best_of_a_hundred_thousand(space, strategy) -> None:
    assert space.joint_size > 100_000
    scorer = KnownScorer(GAINS)
    result = search(space, scorer, candidates=4000, strategy=strategy)
    assert dict(result.ranked[0].candidate.values) == BEST
    assert result.ranked[0].latency_s == pytest.approx(1e-3 * np.exp(-0.3))
    assert result.scored == len(result.ranked) == len(set(scorer.scored)) <= 4000
    assert len(scorer.scored) == result.scored, "a candidate was scored twice"
    latencies = [scored.latency_s for scored in result.ranked]
    assert latencies == sorted(latencies)


def test_a_small_space_is_scored_whole(small_space) -> None:
    scorer = KnownScorer(GAINS)
    result = search(small_space, scorer)
    assert result.strategy == "exhaustive"
    assert result.scored == small_space.joint_size <= WHOLE
    fastest = min(small_space.candidates(), key=scorer.log_latency)
    assert result.ranked[0].latency_s == pytest.approx(1e-3 * np.exp(scorer.log_latency(fastest)))


def test_a_small_budget_is_kept_whatever_the_space(small_space) -> None:
    result = search(small_space, KnownScorer(GAINS), candidates=20)
    assert (result.strategy, result.scored) == ("evolution", 20)
    with pytest.raises(ConfigError, match=f"scores {small_space.joint_size} candidates.*of 20"):
        search(small_space, KnownScorer(GAINS), candidates=20, strategy="exhaustive")


@pytest.fixture(scope="module")
def staged_space() -> DecisionSpace:
    return DecisionSpace.for_graph(from_relax(staged()), tolerance=1e-2, half_arithmetic=True)


@pytest.mark.parametrize("strategy", ["evolution", "beam"])
def test_layouts_of_stages_are_found_with_few_graphs(staged_space, strategy) -> None:
    gains = {("stage1_layout", "NCHW"): -0.1, ("stage3_layout", "NCHW"): -0.2}
    gains |= {("stage2_layout", "NCHW"): 0.1, ("accumulators", 16): -0.03, ("fusion", "off"): 0.4}
    scorer = KnownScorer(gains)
    result = search(staged_space, scorer, candidates=3000, strategy=strategy)
    best = result.ranked[0].candidate
    assert dict(best.network) == {"stage1_layout": "NCHW", "stage3_layout": "NCHW"}
    assert {name for _, name, _ in best.operators} == {"accumulators"}
    plain = {c.network for c in scorer.scored if not {n for n, _ in c.network} & {*STAGE_LAYOUTS}}
    assert len({c.network for c in scorer.scored}) <= len(plain) + 6 + 8


def test_random_search_meets_few_graphs(staged_space) -> None:
    scorer = KnownScorer({})
    search(staged_space, scorer, candidates=2000, strategy="random")
    assert len({c.network for c in scorer.scored}) <= 256


@pytest.mark.parametrize("strategy", ["evolution", "beam", "random"])
def test_equal_seeds_find_equal_candidates(space, strategy) -> None:
    def ranked(seed: int) -> list[Candidate]:
        result = search(space, KnownScorer({}), candidates=500, strategy=strategy, seed=seed)
        return [scored.candidate for scored in result.ranked]

    assert ranked(1) == ranked(1)
    if strategy != "beam":
        assert set(ranked(1)) != set(ranked(2))


def test_of_equally_fast_candidates_the_plainest_wins(space) -> None:
    result = search(space, KnownScorer({("algorithm", "winograd4"): -0.1}), candidates=3000)
    assert result.ranked[0].candidate.entries == ((1, "algorithm", "winograd4"),)


def test_what_the_scorer_knows_to_be_best_is_where_a_search_starts(space) -> None:
    known = Candidate.of(BEST)

    class Knowing(KnownScorer):
        def best_values(self, candidates, decisions=None):
            whole = decisions is None
            return [known if whole and not c.network else c for c in candidates]

    result = search(space, Knowing(GAINS), candidates=100)
    assert result.ranked[0].candidate == known
    assert search(space, KnownScorer(GAINS), candidates=3, start=[known]).of(known) is not None


def test_no_time_still_scores_the_default(space) -> None:
    result = search(space, KnownScorer(GAINS), seconds=0.0)
    assert [scored.candidate for scored in result.ranked] == [Candidate()]


def test_what_cannot_be_predicted_ranks_last(space) -> None:
    class Broken(KnownScorer):
        def score(self, candidates):
            scores = super().score(candidates)
            scores.latency_s[[bool(c.network) for c in candidates]] = np.nan
            return scores

    result = search(space, Broken(GAINS), candidates=600)
    assert np.isinf(result.ranked[-1].latency_s)
    assert not result.ranked[0].candidate.network


def test_unknown_strategies_and_empty_budgets_are_refused(space) -> None:
    with pytest.raises(ConfigError, match="unknown search strategy 'evolve'; use auto, exhaustive"):
        search(space, KnownScorer({}), strategy="evolve")
    with pytest.raises(ConfigError, match="give 1 or more"):
        search(space, KnownScorer({}), candidates=0)
