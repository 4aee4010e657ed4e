"""What works in an installation without torch and without TVM, such as one with an older TVM.

These tests run in any installation, on Python 3.10 with NumPy, ONNX Runtime and XGBoost alone.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.graphs import labelled_graphs, resnet_graph
from tvm_costmodel.cli import main
from tvm_costmodel.predictors.loading import Predictor, load_predictor
from tvm_costmodel.predictors.registry import EXPORTED

pytest.importorskip("onnxruntime")

HAS_TORCH = importlib.util.find_spec("torch") is not None
DEVICE = "cpu-amd-zen5"
RESNET50 = resnet_graph()


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_predictor(DEVICE, engine="onnxruntime" if HAS_TORCH else "auto")


def test_the_default_predictor_answers_and_shares_its_answer(predictor: Predictor) -> None:
    """Measured on this device: ResNet-50 37 ms."""
    assert type(predictor.regressor) is EXPORTED["roofline_former"]
    estimate = predictor.predict(RESNET50)
    assert estimate.latency_s * 1e3 == pytest.approx(37.0, rel=0.3)
    assert estimate.low_s < estimate.latency_s < estimate.high_s
    assert estimate.per_op is not None
    assert sum(s.latency_s for s in estimate.per_op) == pytest.approx(estimate.latency_s)
    assert {share.op for share in estimate.per_op[:10]} == {"conv2d"}
    assert HAS_TORCH or "torch" not in sys.modules


def test_lists_and_single_networks_agree(predictor: Predictor) -> None:
    graphs = labelled_graphs(9)[0]
    alone = [predictor.predict(graph).latency_s for graph in graphs]
    together = [estimate.latency_s for estimate in predictor.predict(graphs)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@pytest.mark.parametrize("name", ["xgboost", "flops"])
def test_baselines_answer(name: str) -> None:
    estimate = load_predictor(f"{DEVICE}/{name}").predict(RESNET50)
    assert estimate.latency_s * 1e3 == pytest.approx(37.0, rel=0.3)
    assert estimate.predictor == name and estimate.per_op is None


def test_the_command_line_predicts_a_graph_from_its_json(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "resnet50.json"
    path.write_text(RESNET50.to_json())
    argv = ["predict", str(path), "--device", DEVICE, "--engine", "onnxruntime"]
    assert main([*argv, "--per-op", "--format", "json"]) == 0
    response = json.loads(capsys.readouterr().out)
    assert response["latency_ms"] == pytest.approx(predictor.predict(RESNET50).latency_s * 1e3)
    assert response["graph_hash"] == RESNET50.hash and len(response["per_op"]) > 50


@pytest.mark.skipif(HAS_TORCH, reason="torch is installed here")
def test_what_needs_torch_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "resnet50.json"
    path.write_text(RESNET50.to_json())
    argv = ["predict", str(path), "--device", DEVICE]
    for more, message in (
        (["--engine", "torch"], "the torch engine needs PyTorch: pip install torch"),
        (["--checkpoint", f"{DEVICE}/nar_former_v2"], "needs PyTorch (pip install torch)"),
    ):
        assert main([*argv, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["models", "export", f"{DEVICE}/roofline_former", "-o", str(tmp_path / "x")]) == 2
    assert "exporting needs PyTorch" in capsys.readouterr().err
