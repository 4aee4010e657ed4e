"""What ships with the package belongs together: labels, checkpoints and the code that made them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.networks import onnx_network_path
from tvm_costmodel.compilers.relax import PipelineConfig
from tvm_costmodel.frontends import load_model
from tvm_costmodel.predictor import load_predictor, zoo
from tvm_costmodel.profiling.workloads import FAMILIES
from tvm_costmodel.training.labels import LabelledGraphs

LABELS = Path(__file__).parents[1] / "profiling" / "labels" / "cpu-x86-avx512.jsonl.xz"


@pytest.fixture(scope="module")
def labels() -> LabelledGraphs:
    return LabelledGraphs.from_file(LABELS)


def test_labels_cover_every_family(labels: LabelledGraphs) -> None:
    assert len(labels) >= 1500
    assert set(labels.families) == set(FAMILIES)
    assert len(set(labels.hashes)) == len(labels)
    assert not any(graph.unknown_ops for graph in labels.graphs)


def test_labels_were_made_by_this_pipeline(labels: LabelledGraphs) -> None:
    """Fails after a new pipeline or rule version until the labels are measured again."""
    assert labels.pipeline_key == PipelineConfig().key


def test_checkpoints_were_trained_on_these_labels(labels: LabelledGraphs) -> None:
    shipped = {entry.predictor: entry.card for entry in zoo() if entry.device == labels.device}
    assert set(shipped) == {"roofline_former", "nar_former_v2", "xgboost", "flops"}
    for predictor, card in shipped.items():
        assert card["training_set"] == labels.hash, predictor
        assert card["pipeline_key"] == labels.pipeline_key, predictor


@pytest.mark.parametrize("predictor", ["roofline_former", "nar_former_v2", "xgboost"])
def test_shipped_predictors_rank_real_networks(predictor: str) -> None:
    """Measured on this device: ShuffleNet 1.6 ms, SqueezeNet 3.2 ms, ResNet-50 37 ms."""
    names = ("shufflenet", "squeezenet", "resnet50")
    graphs = [load_model(str(onnx_network_path(name))).graph for name in names]
    estimates = load_predictor(f"cpu-x86-avx512/{predictor}").predict(graphs)
    latencies = [estimate.latency_s for estimate in estimates]
    assert latencies == sorted(latencies)
    for estimate, measured_ms in zip(estimates, (1.6, 3.2, 37.0), strict=True):
        assert estimate.latency_s * 1e3 == pytest.approx(measured_ms, rel=0.3)
        assert estimate.low_s <= estimate.latency_s <= estimate.high_s
