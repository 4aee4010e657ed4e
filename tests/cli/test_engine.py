"""The engine of ``predict``, and ``models export`` as far as it needs no exporter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.graphs import resnet_graph
from tvm_costmodel.cli import main

pytest.importorskip("onnxruntime")

DEVICE = ("--device", "cpu-amd-zen5")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("graph") / "resnet.json"
    path.write_text(resnet_graph().to_json())
    return str(path)


def predicted(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["predict", *argv, *DEVICE, "--per-op", "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(list(argv)) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    return shown.err


def test_both_engines_print_the_same(capsys: pytest.CaptureFixture[str], resnet: str) -> None:
    torch, onnx = (predicted(capsys, resnet, "--engine", e) for e in ("torch", "onnxruntime"))
    assert torch.keys() == onnx.keys()
    for name in ("latency_ms", "low_ms", "high_ms"):
        assert onnx[name] == pytest.approx(torch[name], rel=1e-5)
    for name in ("predictor", "device", "graph_hash", "source", "unknown_ops"):
        assert onnx[name] == torch[name]
    shares = (
        {s["operator"]: s["latency_ms"] for s in result["per_op"]} for result in (onnx, torch)
    )
    assert next(shares) == pytest.approx(next(shares), rel=1e-5)


def test_a_checkpoint_without_export_names_the_command_that_makes_one(
    capsys: pytest.CaptureFixture[str], resnet: str
) -> None:
    argv = ("predict", resnet, *DEVICE, "--engine", "onnxruntime", "--checkpoint")
    message = refused(capsys, *argv, "cpu-amd-zen5/nar_former_v2")
    assert "holds no network in ONNX" in message and "tvm-costmodel models export" in message


def test_models_export_wants_a_checkpoint_and_a_place(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "name a checkpoint and an output" in refused(capsys, "models", "export")
    assert "are for `tvm-costmodel models export" in refused(capsys, "models", "-o", "somewhere")
    target = str(tmp_path / "exported")
    message = refused(capsys, "models", "export", "cpu-amd-zen5/xgboost", "-o", target)
    assert "xgboost needs no export" in message
    message = refused(capsys, "models", "export", str(tmp_path), "-o", target)
    assert "no checkpoint at" in message
    assert not Path(target).exists()
