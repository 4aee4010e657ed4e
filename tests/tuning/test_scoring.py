"""Scores of candidates: prices of kernels against whole annotated graphs."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import resnet_graph
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.training.registry import build_regressor
from tvm_costmodel.training.roofline import KernelFormerRegressor
from tvm_costmodel.tuning.annotation import Annotator
from tvm_costmodel.tuning.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.decisions import DECISIONS, STAGE_LAYOUTS
from tvm_costmodel.tuning.scoring import GraphScorer, KernelScorer, scorer_for
from tvm_costmodel.tuning.space import DecisionSpace

GRAPH = resnet_graph((1, 1), 16, 32, 10)
SPACE = DecisionSpace.for_graph(GRAPH, tolerance=1e-2, half_arithmetic=True)


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [SPACE.default, *(SPACE.explore(rng) for _ in range(40))]


@pytest.fixture(scope="module")
def former(candidates) -> KernelFormerRegressor:
    """Trained for a moment on made-up ratios: enough to make every decision count."""
    annotator = Annotator(GRAPH)
    graphs = [annotator.annotate(candidate) for candidate in candidates]
    latency = 1e-3 * np.linspace(1.0, 2.0, len(graphs))
    settings = {"epochs": 2, "channels": 32, "context_channels": 8}
    regressor = build_regressor("kernel_former", 0, settings)
    one = ["one"] * len(graphs)
    return regressor.fit(graphs, latency, (graphs, latency), networks=(one, one))


def test_prices_add_up_to_the_prediction_for_the_annotated_graph(former, candidates):
    fast, slow = KernelScorer(former, SPACE), GraphScorer(former, SPACE)
    assert isinstance(scorer_for(former, SPACE), KernelScorer)
    scores = fast.score(candidates)
    np.testing.assert_allclose(scores.latency_s, slow.score(candidates).latency_s, rtol=1e-5)
    assert scores.spread[0] == 0.0 and np.all(scores.spread[1:] >= 0)
    assert scores.spread[1:].max() > 0
    np.testing.assert_array_equal(fast.score(candidates[::-1]).latency_s, scores.latency_s[::-1])
    assert fast.score([]).latency_s.shape == (0,)


def test_prices_add_up_under_layouts_of_stages_and_in_half_precision(former):
    fast, slow = KernelScorer(former, SPACE), GraphScorer(former, SPACE)
    found = [name for name in SPACE.by_place if name[1] in STAGE_LAYOUTS]
    assert len(found) > 2
    rng = np.random.default_rng(3)
    networks = [Candidate.of({place: "NCHW"}) for place in found]
    networks += [Candidate.of(dict.fromkeys(found[:2], "NCHW"))]
    networks += [n.replaced([(NETWORK, "precision", "float16")]) for n in networks]
    drawn = [SPACE.under(SPACE.sample(rng, 0.5), network) for network in networks]
    assert [c.network for c in drawn] == [n.network for n in networks]
    assert all(SPACE.is_valid(c) and c.operators for c in drawn)
    both = [*networks, *drawn]
    scores = fast.score(both).latency_s
    np.testing.assert_allclose(scores, slow.score(both).latency_s, rtol=1e-5)
    assert len(set(scores.tolist())) == len(both)
    for network in networks:
        SPACE.check(fast.best_values(network))


def test_a_context_that_sees_decisions_is_not_priced_kernel_by_kernel(candidates):
    annotator = Annotator(GRAPH)
    graphs = [annotator.annotate(candidate) for candidate in candidates]
    latency = 1e-3 * np.linspace(1.0, 2.0, len(graphs))
    settings = {"epochs": 1, "channels": 16, "context_channels": 8, "context": "full"}
    seeing = build_regressor("kernel_former", 0, settings).fit(graphs, latency, (graphs, latency))
    scorer = scorer_for(seeing, SPACE)
    assert isinstance(scorer, GraphScorer)
    np.testing.assert_allclose(
        scorer.score(candidates).latency_s, seeing.predict(graphs), rtol=1e-6
    )


def test_best_values_are_the_best_of_all_for_one_decision(former):
    decisions = [d for d in DECISIONS if d.name in ("layout", "algorithm")]
    space = DecisionSpace.for_graph(GRAPH, decisions=decisions)
    scorer = KernelScorer(former, space)
    everything = list(space.candidates())
    assert len(everything) == space.joint_size
    latency = scorer.score(everything).latency_s
    nhwc = [dict(c.network).get("layout", "NHWC") == "NHWC" for c in everything]
    best = scorer.best_values(space.default)
    assert scorer.score([best]).latency_s[0] == pytest.approx(latency[nhwc].min(), rel=1e-9)
    channels_first = Candidate.of({(NETWORK, "layout"): "NCHW"})
    assert scorer.best_values(channels_first) == channels_first  # nothing else is allowed there


def test_best_values_can_be_kept_to_some_decisions(former):
    best = KernelScorer(former, SPACE).best_values(SPACE.default, ["algorithm"])
    assert {name for _, name, _ in best.decided} <= {"algorithm"}
    SPACE.check(KernelScorer(former, SPACE).best_values(SPACE.default))


@pytest.mark.parametrize("kind", [KernelScorer, GraphScorer])
def test_what_was_measured_moves_similar_candidates(former, kind):
    scorer = kind(former, SPACE)
    convolutions = sorted({i for i, name in SPACE.by_place if name == "algorithm"})
    one = Candidate.of({(convolutions[0], "algorithm"): "winograd4"})
    same = Candidate.of({(i, "algorithm"): "winograd4" for i in convolutions})
    other = Candidate.of({(NETWORK, "layout"): "NCHW"})
    before = scorer.score([SPACE.default, one, same, other]).latency_s
    ratio = before[2] / before[0]
    scorer.learn([same], [0.8 * ratio])
    after = scorer.score([SPACE.default, one, same, other]).latency_s
    assert after[0] == before[0] and after[3] == before[3]
    assert 0.79 * before[2] < after[2] < 0.83 * before[2]
    assert after[2] / before[2] < after[1] / before[1] < 1.0


def test_predictors_of_networks_are_refused():
    regressor = build_regressor("flops")
    with pytest.raises(ConfigError, match="cannot tell variants apart; use one of kernel_former"):
        scorer_for(regressor, SPACE)
