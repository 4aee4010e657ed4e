"""``tvm-costmodel tune`` on a tiny network: what it prints, writes and exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.cli.test_commands import refused, run_json
from tests.networks import model_of
from tvm_costmodel.cli import main
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker.client import Worker

CONTRACT = {
    "default_ms",
    "best_ms",
    "speedup",
    "measured",
    "space",
    "decisions",
    "max_abs_err",
    "artifact",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two convolutions and a relu, with a dynamic batch."""
    weights = {
        "a": np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype("float32"),
        "b": np.random.default_rng(1).standard_normal((16, 16, 3, 3)).astype("float32"),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ]
    proto = model_of(nodes, {"x": ["batch", 3, 12, 12]}, {"y": ["batch", 16, 12, 12]}, weights)
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(proto, path)
    return str(path)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned") / "out"


def command(model: str, output: Path, *more: str) -> list[str]:
    budget = ("--predictor", "random", "--measure", "2", "--candidates", "200")
    return ["tune", model, "--shape", "x=1,3,12,12", "-o", str(output), *budget, "-q", *more]


def test_it_tunes_once_and_remembers(
    capsys: pytest.CaptureFixture[str],
    model: str,
    output: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = run_json(capsys, *command(model, output))
    assert set(result) >= CONTRACT
    assert result["measured"] + result["failed"] == 2 and result["predictor"] == "random"
    assert result["default_ms"] >= result["best_ms"] > 0
    assert result["speedup"] == pytest.approx(result["default_ms"] / result["best_ms"])
    assert result["artifact"] == str(output / "model.so") and Path(result["artifact"]).is_file()
    assert result["store"] == str(output / "measurements.db")
    needs = json.loads((output / "requires.json").read_text())
    assert needs["inputs"] == [[[1, 3, 12, 12], "float32"]]
    ran = subprocess.run([sys.executable, output / "run.py"], capture_output=True, text=True)
    assert "output 0: float32 (1, 16, 12, 12)" in ran.stdout, ran.stderr
    written = json.loads((output / "report.json").read_text())
    assert {name: written[name] for name in CONTRACT - {"artifact"}} == {
        name: result[name] for name in CONTRACT - {"artifact"}
    }
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail("a worker was started"))
    again = run_json(capsys, *command(model, output))
    assert again["stored"] and not result["stored"]
    assert (again["candidate"], again["best_ms"]) == (result["candidate"], result["best_ms"])


def test_the_table_says_what_was_measured_and_decided(
    capsys: pytest.CaptureFixture[str], model: str, output: Path
) -> None:
    assert main(command(model, output)) == 0
    shown = capsys.readouterr().out
    for words in (
        "predicted ms",
        "chosen as",
        "tiny.onnx on cpu",
        "times as fast",
        "model.so",
        "run.py",
    ):
        assert words in shown


def test_predict_answers_with_the_latency_of_the_default_build(
    capsys: pytest.CaptureFixture[str], model: str, output: Path
) -> None:
    """Variants of the network in the store are not taken for the network."""
    store = str(output / "measurements.db")
    result = run_json(capsys, "predict", model, "--shape", "x=1,3,12,12", "--store", store)
    with Store(store, write=False) as opened:
        (plain,) = opened.measurements(variants=False)
        assert len(list(opened.measurements(variants=True, status=None))) == 2
    assert result["source"] == "measured"
    assert result["latency_ms"] == pytest.approx((plain.latency_s or 0) * 1e3)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--tolerance", "0"), "tolerance is 0.0; use a positive number"),
        (("--tolerance", "nan"), "positive number"),
        (("--device", "rpi4", "--tracker", "127.0.0.1:1"), "no RPC tracker answers"),
        (("--device", "cpux"), "unknown device 'cpux'"),
        (("--strategy", "exhaustive"), "over the budget of 200"),
        (("--key", "board"), "--tracker HOST:PORT"),
        (("--compiler", "relay"), "Relay left TVM at 0.20: make the Relay environment"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    more: tuple[str, ...],
    words: str,
) -> None:
    assert words in refused(capsys, *command(model, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_a_device_without_a_predictor_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path
) -> None:
    argv = ["tune", model, "--shape", "x=1,3,12,12", "-o", str(tmp_path / "out")]
    message = refused(capsys, *argv, "--device", "rpi4")
    assert "no checkpoint" in message and "tvm-costmodel train" in message
    message = refused(capsys, *argv, "--device", "cpu", "--predictor", "roofline_former")
    assert "cannot tell variants apart" in message and "kernel_former" in message
    assert list(tmp_path.iterdir()) == []


def test_unreadable_models_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07nonsense")
    for path, words in ((broken, "broken.onnx"), (tmp_path / "none.onnx", "no such file")):
        assert words in refused(capsys, *command(str(path), tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["broken.onnx"]


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail("a worker was started"))
    (tmp_path / "file").write_text("in the way")
    store = ("--store", str(tmp_path / "m.db"))
    message = refused(capsys, *command(model, tmp_path / "file" / "out", *store))
    assert "no folder that can be written" in message and str(tmp_path / "file") in message
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_leaves_no_half_library(
    capsys: pytest.CaptureFixture[str], model: str, output: Path, tmp_path: Path
) -> None:
    """A file size limit stands in for a full disk, on which LLVM ends the program with a 1."""
    store = ("--store", str(output / "measurements.db"))
    limited = (
        "import resource, sys; from tvm_costmodel.cli import entry;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); sys.exit(entry())"
    )
    argv = command(model, tmp_path / "out", *store)
    done = subprocess.run([sys.executable, "-c", limited, *argv], capture_output=True, text=True)
    assert done.returncode in (1, 2), done.stderr
    assert done.stderr.strip().splitlines()[-1].lower().count("error: ") == 1
    assert not (tmp_path / "out").exists()
    assert run_json(capsys, *command(model, tmp_path / "out", *store))["stored"]


def interrupted(model: str, output: Path, ready: Any) -> tuple[int, dict[str, Any], str]:
    """Exit code, JSON and errors of a tuning that is interrupted once ``ready`` says so."""
    argv = command(model, output, "--format", "json", "--measure", "40", "--rounds", "3")
    child = subprocess.Popen(
        [sys.executable, "-c", _WITH_SIGINT, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not ready() and child.poll() is None:
        assert time.monotonic() < deadline, "it did not get so far"
        time.sleep(0.05)
    os.kill(child.pid, signal.SIGINT)
    out, errors = child.communicate(timeout=240)
    return child.returncode, json.loads(out) if out else {}, errors


_WITH_SIGINT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from tvm_costmodel.cli import entry
sys.exit(entry())
"""


def test_an_interrupt_keeps_the_best_so_far(model: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    store = output / "measurements.db"

    def some_are_measured() -> bool:  # of the second group, so that the first was taken in
        if not store.exists():
            return False
        with Store(store, write=False) as opened:
            return sum(1 for _ in opened.measurements(status=None, variants=True)) > 4

    code, result, errors = interrupted(model, output, some_are_measured)
    assert code == 130, errors
    assert result["stopped"] == "interrupted" and "interrupted; so far" in result["said"]
    assert 4 <= result["measured"] + result["failed"] < 40
    assert Path(result["artifact"]).is_file()
    assert json.loads((output / "report.json").read_text())["stopped"] == "interrupted"
    names = {path.name for path in output.iterdir()}
    programs = {"run.py", "main.cc", "requires.json"}
    assert names == {"model.so", "candidate.json", "report.json", "measurements.db"} | programs
    with Store(store, write=False) as opened:
        rows = sum(1 for _ in opened.measurements(status=None, variants=True))
    assert rows >= result["measured"] + result["failed"]


def test_an_interrupt_before_anything_is_measured_says_so(model: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code, result, errors = interrupted(model, output, (output / "measurements.db").exists)
    assert code == 130 and result == {}
    assert "interrupted" in errors and "Traceback" not in errors
    assert not (output / "model.so").exists() and not (output / "report.json").exists()
    assert not output.exists()
