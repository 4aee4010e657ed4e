"""Candidates of Relay, seen by predictors; no TVM is needed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graphs import resnet_graph
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.loading import Predictor
from tvm_costmodel.predictors.xgboost import RelayXGBoostRegressor
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.label_files.selection import LabelRecord, Variant
from tvm_costmodel.tokenizer.kernel_features import KERNEL_FEATURES
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.kernel_totals import RELAY_FEATURE_NAMES, relay_features
from tvm_costmodel.tokenizer.relay_kernel_features import (
    RELAY_KERNEL_FEATURES,
    RELAY_MARKS,
    RelayKernelTokenizer,
)
from tvm_costmodel.tuning.annotate.relay import RelayAnnotator
from tvm_costmodel.tuning.learning.variant_dataset import labels_of_record
from tvm_costmodel.tuning.scoring.loading import load_scorer
from tvm_costmodel.tuning.search.search import search
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

GRAPH = resnet_graph()
ANNOTATOR = RelayAnnotator(GRAPH)


def annotated(**values: Value) -> OpGraph:
    return ANNOTATOR.annotate(of(**values))


def of(**values: Value) -> Candidate:
    return Candidate.of({(NETWORK, name): value for name, value in values.items()})


def marks(graph: OpGraph) -> dict[str, int]:
    """Kernels that each mark is on."""
    tokens = RelayKernelTokenizer().encode(graph)
    on = tokens.numbers[:, len(KERNEL_FEATURES) :].sum(axis=0).astype(int).tolist()
    return {mark: count for mark, count in zip(RELAY_MARKS, on, strict=True) if count}


def test_every_valid_candidate_has_tokens_of_its_own() -> None:
    space = DecisionSpace.for_graph(GRAPH, 1e-2, compiler="relay")
    assert space.joint_size == space.size == sum(1 for _ in space.candidates())
    seen = {}
    for candidate in space.candidates():
        tokens = RelayKernelTokenizer().encode(ANNOTATOR.annotate(candidate))
        assert tokens.numbers.shape[1] == len(RELAY_KERNEL_FEATURES)
        seen[tokens.numbers.tobytes()] = candidate
    assert len(seen) == space.joint_size


def test_a_level_rules_out_what_its_passes_would_do() -> None:
    space = DecisionSpace.for_graph(GRAPH, compiler="relay")
    assert space.is_valid(of(opt_level=2, fusion="depth2"))
    assert not space.is_valid(of(opt_level=0, fusion="depth2"))
    with pytest.raises(ConfigError, match="alter_layout 'off' of the network needs opt_level 3"):
        space.check(of(opt_level=2, alter_layout="off"))
    drawn = [space.sample(np.random.default_rng(seed), 0.9) for seed in range(50)]
    assert all(map(space.is_valid, drawn))


def test_marks_tell_what_concerns_a_kernel() -> None:
    default, unpacked = marks(annotated()), marks(annotated(alter_layout="off"))
    convolutions = sum(o.op in ("conv2d", "dense") for o in GRAPH.operators)
    assert default == {
        "compiled by relay": default["compiled by relay"],
        "packed channels": convolutions,
    }
    assert set(unpacked) == {"compiled by relay"}
    assert "packed channels" not in marks(annotated(opt_level=2))
    assert marks(annotated(layout="NHWC"))["packed channels"] == 1  # the dense layer
    whole = marks(annotated(opt_level=0))
    assert whole["opt level 0"] == whole["compiled by relay"] > default["compiled by relay"]
    assert marks(annotated(precision="float16"))["half precision"] == default["compiled by relay"]


def test_scales_are_folded_at_level_3_alone() -> None:
    ops = [
        [o.op for o in annotated(**values).operators]
        for values in ({}, {"opt_level": 2}, {"opt_level": 0})
    ]
    assert "batch_norm" not in ops[0] + ops[1] + ops[2]
    assert "multiply" not in ops[0] and ops[1].count("multiply") == ops[2].count("multiply") > 40


def test_without_marks_the_tokens_are_those_of_kernels() -> None:
    plain, marked = KernelTokenizer().encode(GRAPH), RelayKernelTokenizer().encode(GRAPH)
    np.testing.assert_array_equal(plain.numbers, marked.numbers[:, : len(KERNEL_FEATURES)])
    assert not marked.numbers[:, len(KERNEL_FEATURES) :].any()


def test_a_tokenizer_knows_its_own_description() -> None:
    description = RelayKernelTokenizer().describe()
    assert RelayKernelTokenizer.from_description(description).describe() == description
    with pytest.raises(CheckpointError, match="tokens of Relay's kernels are of version None"):
        RelayKernelTokenizer.from_description(KernelTokenizer().describe())


def test_features_are_shares_of_the_network() -> None:
    features = relay_features([annotated(), annotated(alter_layout="off")])
    assert features.shape == (2, len(RELAY_FEATURE_NAMES))
    assert ((features >= 0) & (features <= 1 + 1e-9)).all()
    column = RELAY_FEATURE_NAMES.index("packed channels: share of gmacs")
    assert features[0, column] == pytest.approx(1.0, abs=0.02) and features[1, column] == 0


def test_trees_that_learned_a_spaces_gains_find_its_best() -> None:
    gains = {("opt_level", 0): 0.6, ("opt_level", 1): 0.4, ("opt_level", 2): 0.3}
    gains |= {("alter_layout", "off"): 0.3, ("layout", "NHWC"): 0.9, ("fusion", "depth1"): -0.2}
    known = KnownScorer(gains)
    space = DecisionSpace.for_graph(GRAPH, compiler="relay")
    candidates = list(space.candidates())
    graphs = [ANNOTATOR.annotate(candidate) for candidate in candidates]
    regressor = RelayXGBoostRegressor(rounds=200).fit(graphs, known.score(candidates).latency_s)
    device = resolve_device("cpu-amd-zen5").with_compiler("relay")
    scorer, name = load_scorer(Predictor(regressor, device.name), space, device)
    result = search(space, scorer)
    assert (name, result.strategy, result.scored) == ("relay_xgboost", "exhaustive", space.size)
    assert ("fusion", "depth1") in result.ranked[0].candidate.network
    assert result.of(Candidate()).latency_s == pytest.approx(1e-3, rel=0.05)
    assert result.ranked[0].latency_s == pytest.approx(np.exp(-0.2) * 1e-3, rel=0.05)


def test_names_stand_for_relays_own_predictors() -> None:
    device = resolve_device("cpu-amd-zen5").with_compiler("relay")
    space = DecisionSpace.for_graph(GRAPH, compiler="relay")
    for predictor in ("kernel_former", "relay_kernel_former", None):  # which ships
        assert load_scorer(predictor, space, device)[1] == "relay_kernel_former"
    for given, meant in (("xgboost", "relay_xgboost"), ("flops", "flops_kernel")):
        with pytest.raises(CheckpointError, match=f"'cpu-amd-zen5-relay' for {meant}:"):
            load_scorer(given, space, device)
    with pytest.raises(ConfigError, match="use one of relay_kernel_former, relay_xgboost"):
        load_scorer("cpu-amd-zen5/xgboost", space, resolve_device("cpu-amd-zen5"))


def test_labels_of_relay_are_annotated_as_such() -> None:
    variant = Variant({"network": {"opt_level": 2}}, "ok", 1.5, 0.01, float("nan"))
    source = {"kind": "workload", "family": "resnet", "params": {}, "compiler": "relay"}
    group = LabelRecord(GRAPH, GRAPH.hash, 1e-3, "resnet", source, variants=(variant,))
    labels = labels_of_record(group)
    assert labels.latency_s.tolist() == [1e-3, 1.5e-3]
    assert [set(marks(graph)) for graph in labels.graphs] == [
        {"compiled by relay", "packed channels"},
        {"compiled by relay", "opt level 2"},
    ]
