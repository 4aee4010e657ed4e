"""Scores of candidates: costs of kernels compared with whole annotated graphs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.roofline_former import CONTEXT
from tests.graphs import resnet_graph
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.kernel_costs import Place
from tvm_costmodel.predictors.kernel_former import KernelFormerRegressor
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.profiling.workloads import FAMILIES
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens
from tvm_costmodel.tuning.annotate.relax import Annotator, annotate
from tvm_costmodel.tuning.scoring.scorer import GraphScorer, KernelScorer, scorer_for
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import DECISIONS, STAGE_LAYOUTS

GRAPH = resnet_graph((1, 1), 16, 32, 10)
SPACE = DecisionSpace.for_graph(GRAPH, tolerance=1e-2, half_arithmetic=True)


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    rng = np.random.default_rng(0)
    return [SPACE.default, *(SPACE.explore(rng) for _ in range(40))]


@pytest.fixture(scope="module")
def former(candidates) -> KernelFormerRegressor:
    """Trained for a moment on synthetic ratios: enough to make every decision count."""
    annotator = Annotator(GRAPH)
    graphs = [annotator.annotate(candidate) for candidate in candidates]
    latency = 1e-3 * np.linspace(1.0, 2.0, len(graphs))
    settings = {"epochs": 2, "channels": 32, "context_channels": 8}
    regressor = build_regressor("kernel_former", 0, settings)
    one = ["one"] * len(graphs)
    return regressor.fit(graphs, latency, (graphs, latency), networks=(one, one))


def test_costs_add_up_to_the_prediction_for_the_annotated_graph(former, candidates):
    fast, slow = KernelScorer(former, SPACE), GraphScorer(former, SPACE)
    assert isinstance(scorer_for(former, SPACE), KernelScorer)
    scores = fast.score(candidates)
    np.testing.assert_allclose(scores.latency_s, slow.score(candidates).latency_s, rtol=1e-5)
    assert scores.spread[0] == 0.0 and np.all(scores.spread[1:] >= 0)
    assert scores.spread[1:].max() > 0
    np.testing.assert_array_equal(fast.score(candidates[::-1]).latency_s, scores.latency_s[::-1])
    assert fast.score([]).latency_s.shape == (0,)


def test_costs_add_up_under_layouts_of_stages_and_in_half_precision(former):
    fast, slow = KernelScorer(former, SPACE), GraphScorer(former, SPACE)
    places = [place for place in SPACE.by_place if place[1] in STAGE_LAYOUTS]
    assert len(places) > 2
    rng = np.random.default_rng(3)
    networks = [Candidate.of({place: "NCHW"}) for place in places]
    networks += [Candidate.of(dict.fromkeys(places[:2], "NCHW"))]
    networks += [n.replaced([(NETWORK, "precision", "float16")]) for n in networks]
    drawn = [SPACE.under(SPACE.sample(rng, 0.5), network) for network in networks]
    assert [c.network for c in drawn] == [n.network for n in networks]
    assert all(SPACE.is_valid(c) and c.operators for c in drawn)
    both = [*networks, *drawn]
    scores = fast.score(both).latency_s
    np.testing.assert_allclose(scores, slow.score(both).latency_s, rtol=1e-5)
    assert len(set(scores.tolist())) == len(both)
    for best in fast.best_values(networks):
        SPACE.check(best)


class ExactCostModel:
    """Costs whose every bit follows from a kernel and its neighbours, for two members."""

    sees_decisions = False

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[np.ndarray]:
        return [self._context(network) for network in tokens]

    def _context(self, tokens: PhysicalTokens) -> np.ndarray:
        own = tokens.slot + tokens.numbers[:, CONTEXT].astype(np.float64).sum(axis=1)
        context = own.copy()
        for source, target in tokens.edges.tolist():
            context[target] += 0.5 * own[source]
            context[source] += 0.25 * own[target]
        return context

    def cache_key(self, context: np.ndarray) -> list[float]:
        return context.tolist()

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        context = np.concatenate([context[at] for context, at in places])
        weights = np.sin(np.arange(numbers.shape[1]))
        free = np.tanh(0.1 * context + (numbers * weights).sum(axis=1))
        bound = work.astype(np.float64).sum(axis=1)
        return bound[:, None] * np.exp(free[:, None] * np.array([1.0, 0.7]))


@pytest.mark.parametrize("name", ["", "densenet", "shufflenet_v2", "vit"])
def test_what_networks_share_changes_no_score(name):
    """Compared with every candidate's graph annotated, encoded and computed on its own."""
    graph = GRAPH
    if name:
        family = FAMILIES[name]
        graph = from_relax(family.build(family.sample(np.random.default_rng(0), "tiny")))
    space = DecisionSpace.for_graph(graph, tolerance=1e-2, half_arithmetic=True)
    rng = np.random.default_rng(7)
    drawn = [space.default, *(space.sample(rng, rate) for rate in (0.1, 0.3, 0.6) * 8)]
    scorer = KernelScorer(ExactCostModel(), space)
    drawn += scorer.best_values(drawn)
    scores = scorer.score(drawn)
    logs = np.log([_plain_ms(graph, candidate) for candidate in drawn])  # [N, M]
    np.testing.assert_allclose(scores.latency_s, np.exp(logs.mean(axis=1)) * 1e-3, rtol=1e-12)
    np.testing.assert_allclose(scores.spread, (logs - logs[0]).std(axis=1), atol=1e-12)
    assert len(set(scores.latency_s.tolist())) > 20


def _plain_ms(graph: OpGraph, candidate: Candidate) -> np.ndarray:
    """Milliseconds by each member, nothing shared with any other candidate."""
    tokens = KernelTokenizer().encode(annotate(graph, candidate))
    (context,) = ExactCostModel().contexts_of([tokens])
    place = (context, np.arange(len(tokens)))
    return ExactCostModel().costs([place], tokens.numbers, tokens.work).sum(axis=0)


def test_a_context_that_sees_decisions_is_not_computed_kernel_by_kernel(candidates):
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
    channels_first = Candidate.of({(NETWORK, "layout"): "NCHW"})
    best, other = scorer.best_values([space.default, channels_first])
    assert scorer.score([best]).latency_s[0] == pytest.approx(latency[nhwc].min(), rel=1e-9)
    assert other == channels_first  # nothing else is allowed there


def test_best_values_can_be_kept_to_some_decisions(former):
    scorer = KernelScorer(former, SPACE)
    alone, same = scorer.best_values([SPACE.default] * 2, ["algorithm"])
    assert {name for _, name, _ in alone.entries} <= {"algorithm"} and same == alone
    (best,) = scorer.best_values([SPACE.default])
    SPACE.check(best)
    latency = scorer.score([SPACE.default, alone, best]).latency_s
    assert latency[0] >= latency[1] >= latency[2]


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
