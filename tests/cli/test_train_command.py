"""``train`` and ``predict`` with a predictor that gives the cost of each operator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.graphs import labelled_graphs
from tests.profiling.labels import write_store
from tvm_costmodel.cli import main
from tvm_costmodel.training.ensemble_trainer import EnsembleTrainer
from tvm_costmodel.training.resume import STATE_FILE

GRAPHS, LATENCY = labelled_graphs(40)
TINY = ("epochs=3", "channels=8", "context_channels=8", "members=2", "batch_size=16")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(tmp_path_factory.mktemp("store") / "labels.db", GRAPHS, LATENCY.tolist())


def train(store: str, folder: Path, *more: str) -> list[str]:
    settings = [word for pair in TINY for word in ("--set", pair)]
    what = ["--store", store, "--predictor", "roofline_former", "-o", str(folder)]
    return ["train", *what, *settings, *more, "--format", "json"]


def json_of(capsys: pytest.CaptureFixture[str], argv: list[str]) -> dict[str, Any]:
    code = main(argv)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


@pytest.fixture(scope="module")
def checkpoint(store: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "model"
    assert main(train(store, folder)) == 0
    return folder


def test_an_interrupted_training_goes_on_to_the_same_weights(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    store: str,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patched:
        validate = EnsembleTrainer._validate

        def interrupted(self: EnsembleTrainer, epoch: int, loss: float) -> None:
            if epoch == 3:
                raise KeyboardInterrupt
            validate(self, epoch, loss)

        patched.setattr(EnsembleTrainer, "_validate", interrupted)
        assert main(train(store, tmp_path / "model")) != 0
    capsys.readouterr()
    assert (tmp_path / "model.training" / STATE_FILE).exists()
    other = main(train(store, tmp_path / "model", "--resume", "--set", "ranking=0.2"))
    assert other == 2 and "other labels or settings" in capsys.readouterr().err
    summary = json_of(capsys, train(store, tmp_path / "model", "--resume"))
    assert summary["checkpoint"] == str(tmp_path / "model") and summary["mape"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    folders = (checkpoint, tmp_path / "model")
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value, err_msg=name)
    card = json.loads((checkpoint / "checkpoint.json").read_text())
    assert card["training"]["members"] == 2 and card["training"]["epochs_run"] == 3
    assert card["model"]["network"]["channels"] == 8


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("member=2", "did you mean 'members'?"),
        ("heads=3", "heads 3 must be an even number"),
        ("epochs=many", "epochs is 'many'"),
    ],
)
def test_settings_are_refused_before_labels_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, message: str
) -> None:
    absent = str(tmp_path / "absent.db")
    assert main(train(absent, tmp_path / "model", "--set", setting)) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "graph.json"
    path.write_text(GRAPHS[3].to_json())
    return str(path)


def predict(model: str, checkpoint: Path) -> list[str]:
    card = json.loads((checkpoint / "checkpoint.json").read_text())
    return ["predict", model, "--checkpoint", str(checkpoint), "--device", card["device"]]


@pytest.fixture
def on_this_device(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint as one of a device that the command knows."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    card = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps({**card, "device": "cpu-amd-zen5"}))
    return folder


def test_the_json_holds_every_operators_share_largest_first(
    capsys: pytest.CaptureFixture[str], model: str, on_this_device: Path
) -> None:
    argv = [*predict(model, on_this_device), "--format", "json"]
    assert "per_op" not in json_of(capsys, argv)
    answer = json_of(capsys, [*argv, "--per-op"])
    shares = [row["latency_ms"] for row in answer["per_op"]]
    assert sum(shares) == pytest.approx(answer["latency_ms"])
    assert shares == sorted(shares, reverse=True) and min(shares) > 0
    operators = GRAPHS[3].operators
    assert all(operators[row["operator"]].op == row["op"] for row in answer["per_op"])
    assert {"conv2d", "dense"} <= {row["op"] for row in answer["per_op"]}


def test_the_table_shows_the_five_largest_when_asked_to_say_more(
    capsys: pytest.CaptureFixture[str], model: str, on_this_device: Path
) -> None:
    argv = predict(model, on_this_device)
    answer = json_of(capsys, [*argv, "--per-op", "--format", "json"])
    assert main(argv) == 0
    assert "share" not in capsys.readouterr().out
    assert main([*argv, "-v"]) == 0
    lines = capsys.readouterr().out.splitlines()
    header = ["operator", "op", "ms", "share"]
    (start,) = (i for i, line in enumerate(lines) if line.split() == header)
    rows = [line.split() for line in lines[start + 2 :]]
    assert len(rows) == min(5, len(answer["per_op"]))
    for row, share in zip(rows, answer["per_op"], strict=False):
        assert row[:3] == [str(share["operator"]), share["op"], f"{share['latency_ms']:.4g}"]


def test_a_predictor_of_the_whole_alone_has_no_shares(
    capsys: pytest.CaptureFixture[str], model: str
) -> None:
    argv = ["predict", model, "--checkpoint", "cpu-amd-zen5/flops"]
    answer = json_of(capsys, [*argv, "--device", "cpu-amd-zen5", "--format", "json", "-v"])
    assert "per_op" not in answer
