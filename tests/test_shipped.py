"""Shipped labels, checkpoints and the code that produced them belong together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks import onnx_network_path
from tvm_costmodel.compilers.relax import PipelineConfig
from tvm_costmodel.frontends import load_model
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models import ZOO
from tvm_costmodel.predictors.checkpoint import read_export
from tvm_costmodel.predictors.loading import checkpoint_path, load_predictor, zoo
from tvm_costmodel.profiling.devices import machine_name
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.profiling.label_files.variants import read_variants
from tvm_costmodel.profiling.workloads import FAMILIES
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.tuning.learning.collect_variants import LABEL_TOLERANCE
from tvm_costmodel.tuning.scoring.scorer import scorer_for
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "profiling" / "labels"
LABELS = FOLDER / "cpu-amd-zen5.jsonl.xz"
VARIANTS = FOLDER / "cpu-amd-zen5-variants.jsonl.xz"
RELAY_VARIANTS = FOLDER / "cpu-amd-zen5-relay-variants.jsonl.xz"


def test_the_pip_commands_of_the_readme_name_the_tested_torch() -> None:
    tested = (ROOT / "constraints.txt").read_text().split("\ntorch==")[1].split()[0]
    assert f"pip install torch=={tested}+cpu --extra-index-url" in (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def labels() -> LabelledGraphs:
    return LabelledGraphs.of(read_labels(LABELS, keep_stale=True))


def test_labels_cover_every_family(labels: LabelledGraphs) -> None:
    assert len(labels) >= 1500
    assert set(labels.families) == set(FAMILIES)
    assert len(set(labels.hashes)) == len(labels)
    assert not any(graph.unknown_ops for graph in labels.graphs)


def test_labels_and_cards_say_which_processor_they_are_of(labels: LabelledGraphs) -> None:
    cpu = {"vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2"}
    cards = [entry.card for entry in zoo(ZOO)]
    for machine in (labels.machine, *(card["machine"] for card in cards)):
        assert cpu.items() <= machine["cpu"].items()
        assert machine_name(machine["cpu"]) == "cpu-amd-zen5" == labels.device
        assert 1.5e-3 < machine["reference_s"] < 1.8e-3
    assert {card["device"] for card in cards} == {"cpu-amd-zen5", "cpu-amd-zen5-relay"}


def test_labels_were_made_by_this_pipeline(labels: LabelledGraphs) -> None:
    """Fails after a new pipeline or rule version until the labels are measured again."""
    assert labels.pipeline_key == PipelineConfig().key


def test_checkpoints_were_trained_on_these_labels(labels: LabelledGraphs) -> None:
    shipped = {entry.predictor: entry.card for entry in zoo() if entry.device == labels.device}
    of_networks = {"roofline_former", "nar_former_v2", "xgboost", "flops"}
    assert set(shipped) == of_networks | {"kernel_former", "flops_kernel"}
    for predictor, card in ((name, shipped[name]) for name in of_networks):
        assert card["training_set"] == labels.hash, predictor
        assert card["pipeline_key"] == labels.pipeline_key, predictor


def test_variants_belong_to_the_labels_and_the_kernel_former_to_both(
    labels: LabelledGraphs,
) -> None:
    variants = read_variants(VARIANTS, keep_stale=True)
    assert (variants.device, variants.pipeline_key) == (labels.device, labels.pipeline_key)
    assert len(variants) >= 300 and {group.family for group in variants.records} == set(FAMILIES)
    assert all(len(group.good_variants) == 7 for group in variants.records)
    card = next(entry.card for entry in zoo() if entry.predictor == "kernel_former")
    assert card["training_set"] == f"{variants.hash[:16]}+{labels.hash}"
    # the decisions of today's space are those that were measured
    for group in variants.records[::25]:
        space = DecisionSpace.for_graph(group.graph, LABEL_TOLERANCE)
        for variant in group.good_variants:
            space.check(Candidate.from_dict(variant.decisions))


def test_labels_of_relay_are_600_and_the_predictor_learned_from_them() -> None:
    variants = read_variants(RELAY_VARIANTS, keep_stale=True)
    assert variants.device == "cpu-amd-zen5-relay"
    defaults = len(variants)  # the default build of each network is a label too
    assert defaults + sum(len(group.good_variants) for group in variants.records) >= 600
    (card,) = [entry.card for entry in zoo() if entry.predictor == "relay_kernel_former"]
    assert card["training_set"] == variants.hash[:16] and card["device"] == variants.device
    assert card["started_from"]["predictor"] == "kernel_former"
    for group in variants.records[::25]:
        space = DecisionSpace.for_graph(group.graph, LABEL_TOLERANCE, compiler="relay")
        for variant in group.good_variants:
            space.check(Candidate.from_dict(variant.decisions))


def test_the_kernel_former_takes_winograd_for_vgg_and_keeps_channels_last() -> None:
    """Measured on this device: VGG-19 is about twice as fast with Winograd everywhere."""
    graph = load_model(str(onnx_network_path("vgg19"))).graph
    space = DecisionSpace.for_graph(graph)
    scorer = scorer_for(load_predictor("cpu-amd-zen5/kernel_former"), space)
    (best,) = scorer.best_values([space.default])
    slow = Candidate.of({(NETWORK, "layout"): "NCHW"})
    default, winograd, channels_first = scorer.score([space.default, best, slow]).latency_s
    chosen = [value for _, name, value in best.entries if name == "algorithm"]
    assert len(chosen) >= 12 and set(chosen) <= {"winograd2", "winograd4"}
    assert 1.5 < default / winograd < 3.0 and channels_first > default


@pytest.mark.parametrize(
    "predictor",
    [
        "cpu-amd-zen5/roofline_former",
        "cpu-amd-zen5/kernel_former",
        "cpu-amd-zen5-relay/relay_kernel_former",
    ],
)
def test_defaults_of_predict_and_tune_ship_with_their_networks_in_onnx(predictor: str) -> None:
    """After training one again: ``models export DEVICE/NAME -o`` its folder."""
    export = read_export(ZOO / predictor)  # checked against the weights there
    assert export.origin["opset"] == 18 and export.origin["largest_difference"] <= 1e-5
    assert len(export.content) < 4e6
    assert checkpoint_path("cpu-amd-zen5") == ZOO / "cpu-amd-zen5" / "roofline_former"


@pytest.fixture(scope="module")
def real_networks() -> list[OpGraph]:
    names = ("shufflenet", "squeezenet", "resnet50")
    return [load_model(str(onnx_network_path(name))).graph for name in names]


@pytest.mark.parametrize("predictor", ["roofline_former", "nar_former_v2", "xgboost"])
def test_shipped_predictors_rank_real_networks(
    predictor: str, real_networks: list[OpGraph]
) -> None:
    """Measured on this device: ShuffleNet 1.6 ms, SqueezeNet 3.2 ms, ResNet-50 37 ms."""
    estimates = load_predictor(f"cpu-amd-zen5/{predictor}").predict(real_networks)
    latencies = [estimate.latency_s for estimate in estimates]
    assert latencies == sorted(latencies)
    for estimate, measured_ms in zip(estimates, (1.6, 3.2, 37.0), strict=True):
        assert estimate.latency_s * 1e3 == pytest.approx(measured_ms, rel=0.3)
        assert estimate.low_s <= estimate.latency_s <= estimate.high_s
