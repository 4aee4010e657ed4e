"""`tune` and `train`, killed and side by side: no row is lost or doubled, every reader reads."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks.labels.kill_resume import committed, kill_and_resume
from tests.profiling.labels import DEVICE, PIPELINE, measurement
from tests.security.mutations import onnx_model
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.profiling.label_files.networks import export_dataset
from tvm_costmodel.profiling.store.store import Store

pytestmark = pytest.mark.slow
COMMAND = [sys.executable, "-m", "tvm_costmodel"]


def tune(model: onnx.ModelProto, folder: Path, name: str, store: Path) -> list[str]:
    onnx.save(model, folder / f"{name}.onnx")
    options = "--measure 3 --predictor random --rounds 1 --candidates 20 --format json".split()
    paths = [str(folder / f"{name}.onnx"), "--store", str(store), "-o", str(folder / name)]
    return [*COMMAND, "tune", *paths, *options]


def other_model() -> onnx.ModelProto:
    model = onnx_model()
    model.graph.node.append(helper.make_node("Relu", ["y"], ["z"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 5]))
    return model


def test_two_tunes_side_by_side_lose_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    models = {"a": onnx_model(), "b": other_model()}
    commands = [tune(model, tmp_path, name, store) for name, model in models.items()]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for command in commands]
    reports = [json.loads(program.communicate()[0]) for program in running]
    assert [program.returncode for program in running] == [0, 0]
    rows = committed(store)
    assert len({row[0] for row in rows}) == len(rows)
    # The default build of each network is a row too.
    assert len(rows) == sum(report["measured"] + 1 for report in reports)
    with sqlite3.connect(store) as database:
        (graphs,) = database.execute("SELECT count(DISTINCT graph_hash) FROM measurements")
    assert graphs == (2,)
    again = subprocess.run(commands[0], stdout=subprocess.PIPE, check=True)
    assert json.loads(again.stdout)["best_ms"] == reports[0]["best_ms"]
    assert committed(store) == rows


def test_a_killed_tune_loses_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    report = kill_and_resume(tune(onnx_model(), tmp_path, "a", store), store, 3, (0.0, 1.0))
    # A tune that begins again measures its candidates again, interleaved: rows may be newer.
    assert (report.doubled, report.damaged, report.orphans) == (0, 0, 0), report
    assert sorted(report.at_kill) == report.at_kill and report.rows >= report.at_kill[-1] >= 1
    assert (tmp_path / "a" / "report.json").exists()


def test_a_killed_train_leaves_a_whole_checkpoint_and_resumes(tmp_path: Path) -> None:
    with Store(tmp_path / "store.db") as store:
        store.put_environment("env", {"processor": "test"})
        for size in range(4, 28):
            store.put_measurement(measurement(size))
        export_dataset(store, tmp_path / "l.jsonl.xz", DEVICE, PIPELINE)
    out = tmp_path / "out"
    command = [*COMMAND, "train", "--store", str(tmp_path / "l.jsonl.xz"), "-o", str(out)]
    command += ["--predictor", "nar_former_v2", "--set", "epochs=6", "--resume"]
    state = tmp_path / "out.training"

    def saved() -> dict[Path, int]:
        found = {}
        for path in state.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
        return found

    for _ in range(3):
        before = saved()
        program = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while program.poll() is None and saved() == before:
            time.sleep(0.01)  # until an epoch is saved
        program.kill()
        program.wait()
        if out.exists():
            load_predictor(out)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert load_predictor(out).regressor.card["training"]["epochs_run"] == 6
