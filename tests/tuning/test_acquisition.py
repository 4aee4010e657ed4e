"""Which candidates are worth a measurement: favourites, but different ones, and unknown ones."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_costmodel.tuning.search.acquisition import FAILED, FAVOURITE, UNKNOWN, Outcome, propose
from tvm_costmodel.tuning.search.ledger import Scored
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate

DEFAULT = Scored(Candidate(), 1.0)


def scored(latency_s: float, spread: float = 0.0, **values: object) -> Scored:
    """A candidate of decisions about operators: ``o1=2`` decides ``vectors`` 2 for operator 1."""
    by_place = {(int(name[1:]), "vectors"): value for name, value in values.items()}
    return Scored(Candidate.of(by_place), latency_s, spread)


def family(latency_s: float, first: int, count: int = 6, step: float = 1e-4) -> list[Scored]:
    """Near-copies: forty operators with equal decisions, one of them in ``count`` ways."""
    shared = {f"o{first + i}": 2 for i in range(40)}
    return [
        scored(latency_s * (1 + step * i), **{**shared, f"o{first}": 10 + i}) for i in range(count)
    ]


def test_the_predicted_best_comes_first_and_near_copies_do_not_follow() -> None:
    fast, other = family(0.70, 0), family(0.75, 100)
    proposals = propose([*fast, *other], DEFAULT, {}, 2)
    assert proposals[0].scored is fast[0] and proposals[0].why == FAVOURITE
    assert proposals[1].scored in other, "a near-copy of the favourite was preferred"


def test_near_copies_do_not_crowd_out_what_is_different() -> None:
    crowd = family(0.70, 0, count=3000, step=1e-5)  # predicted between 0.70 and 0.721
    other = scored(0.73, o100=2, o101=2)
    assert other in [proposal.scored for proposal in propose([*crowd, other], DEFAULT, {}, 2)]


def test_the_least_known_are_chosen_among_those_that_could_win() -> None:
    sure = family(0.80, 0)
    unsure = scored(0.85, spread=0.3, o50=2)
    hopeless = scored(9.0, spread=0.4, o60=2)
    proposals = propose([*sure, unsure, hopeless], DEFAULT, {}, 2, unsure=1)
    assert [proposal.scored for proposal in proposals] == [sure[0], unsure]
    assert [proposal.why for proposal in proposals] == [FAVOURITE, UNKNOWN]


def test_a_measurement_informs_about_those_that_share_its_decisions() -> None:
    liked, other = family(0.70, 0), family(0.80, 100)
    # the favourite turned out to be slower than the default; its near-copies will be, too
    measured = {liked[0].candidate: Outcome(np.log(1.2), 0.01)}
    (proposal,) = propose([*liked, *other], DEFAULT, measured, 1)
    assert proposal.scored in other
    assert liked[0].candidate not in [
        p.scored.candidate for p in propose([*liked, *other], DEFAULT, measured, 11)
    ]


def test_a_failure_warns_of_those_that_share_its_decisions() -> None:
    liked, other = family(0.70, 0), family(0.80, 100)
    (proposal,) = propose([*liked, *other], DEFAULT, {liked[0].candidate: FAILED}, 1)
    assert proposal.scored in other


def test_a_decision_about_the_network_weighs_as_much_as_all_operators() -> None:
    networks = [
        Scored(Candidate.of({(NETWORK, "fusion"): "off", (i, "vectors"): 2}), 0.9 + 1e-4 * i)
        for i in range(4)
    ]
    alone = scored(0.9009, o9=2)
    proposals = propose([*networks, alone], DEFAULT, {}, 2)
    assert [proposal.scored for proposal in proposals] == [networks[0], alone]


def test_never_the_default_never_twice_and_no_more_than_there_are() -> None:
    pool = [DEFAULT, *family(0.9, 0, 3)]
    proposals = propose(pool, DEFAULT, {}, 8, unsure=2)
    assert sorted(p.scored.latency_s for p in proposals) == [s.latency_s for s in pool[1:]]
    measured = {s.candidate: Outcome(0.0, 0.01) for s in pool[1:]}
    assert propose(pool, DEFAULT, measured, 4) == []
    assert propose([DEFAULT], DEFAULT, {}, 4) == []


@pytest.mark.parametrize("unsure", [0, 2])
def test_thousands_of_candidates_are_no_trouble(unsure: int) -> None:
    rng = np.random.default_rng(0)
    pool = [
        Scored(
            Candidate.of({(int(i), "vectors"): 2 for i in rng.choice(60, 20, replace=False)}),
            float(latency),
            float(rng.random() * 0.1),
        )
        for latency in np.sort(rng.uniform(0.6, 1.4, 4000))
    ]
    proposals = propose(pool, DEFAULT, {}, 8, unsure)
    assert len({proposal.scored.candidate for proposal in proposals}) == 8
    assert proposals[0].scored is pool[0]
