"""Commands refuse a default build that computes something else, and compare it once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.networks import model_of
from tvm_costmodel.cli import main
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker import client

WORKER = str(Path(__file__).parent.parent / "profiling" / "wrong_worker.py")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    weights = {"w": np.random.default_rng(0).standard_normal((4, 3, 1, 1)).astype("float32")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["scores"]),
    ]
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(model_of(nodes, {"x": [1, 3, 8, 8]}, {"scores": [1, 4, 8, 8]}, weights), path)
    return str(path)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the wrong worker is asked for, in order."""
    asked: list[str] = []
    request = client.Worker.request

    def noted(self: client.Worker, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        asked.append(op)
        return request(self, op, timeout_s, **fields)

    monkeypatch.setattr(client, "PROGRAM", (WORKER,))
    monkeypatch.setattr(client.Worker, "request", noted)
    return asked


def failed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a command that exits with 1."""
    assert main(list(argv)) == 1
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert shown.out == "" and "Traceback" not in shown.err
    return line


def test_tune_refuses_a_wrong_default_build_and_compares_it_once(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path, requests: list[str]
) -> None:
    output = tmp_path / "out"
    argv = ("tune", model, "-o", str(output), "--predictor", "random", "--measure", "1", "-q")
    first = failed(capsys, *argv)
    assert "wrong output 'scores': it differs from that of onnxruntime by" in first
    assert "please report the model" in first
    assert requests.count("check_outputs") == 1 and "measure_interleaved" not in requests
    assert not (output / "model.so").exists() and not (output / "report.json").exists()
    with Store(output / "measurements.db", write=False) as store:
        (row,) = store.measurements(status=None)
    assert row.status == "wrong_output" and row.timing is None and "'scores'" in row.error
    requests.clear()
    assert failed(capsys, *argv) == first
    assert set(requests) == {"start", "describe", "runtime_weights"}, "nothing is built again"


def test_without_onnxruntime_tvms_default_pipeline_is_the_reference(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    requests: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "PROGRAM", (WORKER, "without-onnxruntime"))
    argv = ("predict", model, "--measure", "--store", str(tmp_path / "m.db"), "-q")
    line = failed(capsys, *argv)
    assert "wrong output 'number 1': it differs from that of TVM's default pipeline by" in line
    assert requests.count("check_outputs") == 1
