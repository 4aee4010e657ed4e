"""What can be decided for a network, and what candidates become."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from tests.compilers.networks_small import NETWORKS, network, outputs_of_default, staged
from tvm_costmodel.compilers.relax import PipelineConfig, build, compare_outputs, cpu_target
from tvm_costmodel.compilers.relax.verification import random_inputs, run
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph_passes.tunable_ops import convolution_stages
from tvm_costmodel.ops import ANNOTATIONS
from tvm_costmodel.tuning.annotate.relax import Annotator, annotate
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import DECISIONS, STAGE_LAYOUTS, Decision


@pytest.fixture(scope="module")
def graph() -> OpGraph:
    """input, conv 3x3, norm, clip, depthwise 3x3, norm, relu, conv 1x1, norm, add, ..."""
    return from_relax(network("residual"))


def test_choices_follow_the_operators(graph):
    space = DecisionSpace.for_graph(graph, tolerance=1e-2)
    offered = {choice.place: choice.values for choice in space.choices}
    assert offered[NETWORK, "layout"] == ("NHWC", "NCHW")
    assert offered[NETWORK, "batch_norm"] == ("fold", "decompose")
    assert offered[1, "algorithm"] == ("direct", "winograd2", "winograd4", "im2col")
    assert (4, "algorithm") not in offered and (4, "accumulators") not in offered  # depthwise
    assert (7, "algorithm") not in offered and (7, "accumulators") in offered  # 1x1
    assert offered[1, "vectors"] == (0, 2)  # 20 channels, vectors of 16
    attention = DecisionSpace.for_graph(from_relax(network("attention")))
    names = {c.decision.name for c in attention.network_choices}
    assert names == {"fusion", "products", "transposes"}


def test_tolerance_bounds_the_space(graph):
    values = {
        tolerance: DecisionSpace.for_graph(graph, tolerance=tolerance).by_place[1, "algorithm"]
        for tolerance in (1e-3, 1e-4, 1e-6)
    }
    assert values[1e-3].values == ("direct", "winograd2", "winograd4", "im2col")
    assert values[1e-4].values == ("direct", "winograd2", "im2col")
    assert values[1e-6].values == ("direct", "im2col")
    for tolerance in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="positive number"):
            DecisionSpace.for_graph(graph, tolerance=tolerance)


def test_size_counts_the_valid_candidates():
    names = ("layout", "algorithm", "loop_order")
    chosen = [d for d in DECISIONS if d.name in names]
    space = DecisionSpace.for_graph(from_relax(network("dense")), decisions=chosen)
    # two convolutions, of them one 3x3 with stride 1: 4 algorithms for it, 2 for the strided one,
    # 3 orders for the one with enough channels for a vector; in NCHW only the orders are left
    algorithms = [c.values for c in space.choices if c.decision.name == "algorithm"]
    orders = [c.values for c in space.choices if c.decision.name == "loop_order"]
    expected = np.prod([len(v) for v in algorithms + orders]) + np.prod([len(v) for v in orders])
    candidates = list(space.candidates())
    assert space.size == space.joint_size == expected == len(candidates) == len(set(candidates))
    assert candidates[0] == space.default
    for candidate in candidates:
        space.check(candidate)


@pytest.fixture(scope="module")
def staged_space() -> DecisionSpace:
    return DecisionSpace.for_graph(from_relax(staged()), tolerance=1e-2, half_arithmetic=True)


def test_layouts_of_stages_are_offered_where_there_are_several(staged_space, graph):
    offered = [n for i, n in staged_space.by_place if n in STAGE_LAYOUTS]
    assert offered == ["stage1_layout", "stage2_layout", "stage3_layout"]
    one = DecisionSpace.for_graph(graph)  # all its convolutions make images of one size
    assert not [n for i, n in one.by_place if n in STAGE_LAYOUTS]
    assert staged_space.config(staged_space.default) == PipelineConfig()
    candidate = Candidate.of({(NETWORK, "stage2_layout"): "NCHW", (1, "algorithm"): "im2col"})
    config = staged_space.config(candidate)
    assert (config.layout, config.stage_layouts) == ("NHWC", ((2, "NCHW"),))
    assert Candidate.from_json(candidate.to_json()) == candidate


def test_what_needs_channels_last_needs_it_of_its_own_stage(staged_space):
    stages = convolution_stages(staged_space.graph)
    by_stage = {
        stage: i for i, stage in stages.items() if (i, "algorithm") in staged_space.by_place
    }
    for stage in (1, 2, 3):
        place = (NETWORK, f"stage{stage}_layout")
        for other, i in by_stage.items():
            candidate = Candidate.of({place: "NCHW", (i, "algorithm"): "im2col"})
            assert staged_space.is_valid(candidate) == (other != stage)
    first = Candidate.of({(NETWORK, "stage1_layout"): "NCHW", (by_stage[1], "algorithm"): "im2col"})
    with pytest.raises(ConfigError, match=r"needs layout NHWC and .*stage1_layout same"):
        staged_space.check(first)
    both = Candidate.of({(NETWORK, "stage1_layout"): "NCHW", (NETWORK, "layout"): "NCHW"})
    with pytest.raises(ConfigError, match="stage1_layout 'NCHW' of the network needs layout NHWC"):
        staged_space.check(both)


def test_half_precision_is_offered_where_it_gains_and_the_tolerance_allows_it(staged_space):
    graph = staged_space.graph
    assert staged_space.by_place[NETWORK, "precision"].values == ("float32", "float16")
    for tolerance, half in ((1e-3, True), (1e-2, False)):
        space = DecisionSpace.for_graph(graph, tolerance, half_arithmetic=half)
        assert (NETWORK, "precision") not in space.by_place
    halved = Candidate.of({(NETWORK, "precision"): "float16"})
    assert staged_space.config(halved) == PipelineConfig(precision="float16")
    convolution = min(i for i, name in staged_space.by_place if name == "algorithm")
    with pytest.raises(ConfigError, match="needs layout NHWC and precision float32"):
        staged_space.check(halved.replaced([(convolution, "algorithm", "im2col")]))


def test_what_is_drawn_to_learn_from_departs_in_every_decision(staged_space):
    rng = np.random.default_rng(0)
    drawn = [staged_space.explore(rng) for _ in range(400)]
    for candidate in drawn:
        staged_space.check(candidate)
    departing = {name for candidate in drawn for _, name, _ in candidate.entries}
    assert departing == {choice.decision.name for choice in staged_space.choices}
    in_stages = [any(n in STAGE_LAYOUTS for n, _ in c.network) for c in drawn]
    assert 0.03 < np.mean(in_stages) < 0.3  # most learn from the rest


def test_sizes_count_combinations_of_stages():
    names = ("layout", "algorithm", *STAGE_LAYOUTS)
    chosen = [d for d in DECISIONS if d.name in names]
    space = DecisionSpace.for_graph(from_relax(staged()), decisions=chosen)
    candidates = list(space.candidates())
    assert space.joint_size == len(candidates) == len(set(candidates))
    assert len({c.network for c in candidates}) == 2**3 + 1


def test_equal_kernels_are_decided_together():
    space = DecisionSpace.for_graph(from_relax(network("attention")))
    joint = {tuple(c.operator for c in part) for part in space.classes}
    assert (1, 2, 3, 16, 19) in joint  # the five projections of one shape
    assert space.joint_size < space.size


def test_draws_are_valid_and_follow_the_seed(graph):
    space = DecisionSpace.for_graph(graph, tolerance=1e-2)
    drawn = [space.sample(np.random.default_rng(seed), rate=0.7) for seed in range(60)]
    assert drawn == [space.sample(np.random.default_rng(seed), rate=0.7) for seed in range(60)]
    assert len(set(drawn)) > 50
    rng = np.random.default_rng(0)
    for one, other in itertools.pairwise(drawn):
        child = space.cross(one, other, rng)
        mutated = space.mutate(one, rng)
        for candidate in (one, child, mutated):
            space.check(candidate)
        assert mutated != one or dict(one.network).get("layout") == "NCHW"
        assert set(child.entries) <= set(one.entries) | set(other.entries)


def test_foreign_candidates_are_refused(graph):
    space = DecisionSpace.for_graph(graph)
    for values, message in (
        ({(4, "algorithm"): "im2col"}, "algorithm cannot be decided for operator 4"),
        ({(1, "algorithm"): "fft"}, "use one of direct, winograd2"),
        ({(NETWORK, "layout"): "NCHW", (1, "algorithm"): "im2col"}, "needs layout NHWC"),
    ):
        candidate = Candidate.of(values)
        assert not space.is_valid(candidate)
        with pytest.raises(ConfigError, match=message):
            space.config_fields(candidate)


def test_candidates_survive_json_and_have_keys_of_their_content():
    candidate = Candidate.of({(12, "algorithm"): "winograd4", (NETWORK, "layout"): "NCHW"})
    text = candidate.to_json()
    assert text == '{"network":{"layout":"NCHW"},"operators":{"12":{"algorithm":"winograd4"}}}'
    assert Candidate.from_json(text) == candidate
    assert Candidate.from_json(text).key == candidate.key != Candidate().key
    assert Candidate().to_json() == "{}"
    assert candidate.replaced([(NETWORK, "layout", None), (3, "vectors", 2)]).entries == (
        (3, "vectors", 2),
        (12, "algorithm", "winograd4"),
    )
    for text in ("[]", "{", '{"operators":{"x":{}}}', '{"networks":{}}', '{"network":{"a":[]}}'):
        with pytest.raises(ConfigError, match="no candidate"):
            Candidate.from_json(text)


def test_candidates_become_what_the_compiler_takes(graph):
    space = DecisionSpace.for_graph(graph, tolerance=1e-2)
    assert space.config(space.default) == PipelineConfig()
    candidate = Candidate.of(
        {
            (NETWORK, "fusion"): "depth2",
            (NETWORK, "batch_norm"): "decompose",
            (1, "algorithm"): "winograd2",
            (7, "vectors"): 2,
        }
    )
    config = space.config(candidate)
    assert (config.fuse, config.fuse_depth, config.fold_batch_norm) == (True, 2, False)
    kernels = {i: decision.to_dict() for i, decision in config.kernels}
    assert kernels == {1: {"algorithm": "winograd2"}, 7: {"vectors_per_tile": 2}}
    off = space.config(Candidate.of({(NETWORK, "fusion"): "off"}))
    assert (off.fuse, off.fuse_depth) == (False, 0)


@pytest.mark.parametrize("name", NETWORKS)
def test_drawn_candidates_compute_what_the_default_does(name):
    mod = network(name)
    graph = from_relax(mod)
    space = DecisionSpace.for_graph(graph, tolerance=1e-2)
    inputs = random_inputs(mod)
    expected = outputs_of_default(mod)()
    candidate = space.sample(np.random.default_rng(len(graph)), rate=0.5)
    built = build(mod, cpu_target(), space.config(candidate))
    got = run(built.executable, inputs)
    comparison = compare_outputs(got, expected, rtol=space.setting.tolerance)
    assert comparison.equal and built.unscheduled == (), (candidate, comparison)


def test_decisions_show_in_the_annotated_graph(graph):
    candidate = Candidate.of(
        {(1, "algorithm"): "winograd4", (7, "vectors"): 2, (7, "loop_order"): "pixels"}
    )
    annotator = Annotator(graph)
    base, annotated = annotator.base(candidate), annotator.annotate(candidate)
    assert annotator.base(Candidate()) is base
    changed = annotator.changes(candidate)
    assert sorted(changed) == sorted(base.positions[i] for i in (1, 7))
    assert annotated.operators[base.positions[1]].attrs["algorithm"] == "winograd4"
    assert annotated.operators[base.positions[7]].attrs["tile"] == (0, 2, "pixels")
    assert annotated == annotate(graph, candidate)
    assert len({graph.hash, base.graph.hash, annotated.hash}) == 3
    assert OpGraph.from_json(annotated.to_json()).hash == annotated.hash
    added = {key for op in annotated.operators for key in op.attrs} - {
        key for op in graph.operators for key in op.attrs
    }
    assert added == set(ANNOTATIONS)


def test_every_decision_is_complete_and_adding_one_is_one_entry(graph):
    names = [decision.name for decision in DECISIONS]
    assert len(names) == len(set(names))
    for decision in DECISIONS:
        assert decision.becomes and len(decision.values) == len(set(decision.values)) > 1
        assert set(decision.errors) <= set(decision.values[1:])
    wide = Decision(
        "vector_bits",
        (0, 256),
        "operator",
        lambda graph, i, value, setting: graph.operators[i].op == "conv2d",
        lambda fields, value: fields.update(vector_bits=value),
        "the width of the CPU rule's vectors",
    )
    space = DecisionSpace.for_graph(graph, decisions=(*DECISIONS, wide))
    config = space.config(Candidate.of({(1, "vector_bits"): 256}))
    assert dict(config.kernels)[1].vector_bits == 256
    assert dataclasses.is_dataclass(space)
