"""Every command on real parts: what it prints, what it writes, what it exits with."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.networks import onnx_network_path
from tvm_costmodel import diagnostics
from tvm_costmodel.cli import main
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models import ZOO
from tvm_costmodel.profiling import devices
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker.client import Worker

REGISTERED = [
    "nar_former_v2",
    "nar_former_v2_published",
    "xgboost",
    "flops",
    "nnlp",
    "nn_former",
    "nar_former",
    "roofline_former",
    "roofline_gp",
    "nar_former_v2_kernel",
    "xgboost_kernel",
    "flops_kernel",
    "kernel_former",
    "relay_kernel_former",
    "relay_xgboost",
]
SQUEEZENET = str(onnx_network_path("squeezenet"))


def run_json(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    code = main([*argv, "--format", "json"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return json.loads(shown.out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line of a refusal; exit code 2 and an empty standard output are asserted."""
    code = main(list(argv))
    shown = capsys.readouterr()
    assert code == 2, shown.err
    assert shown.out == ""
    lines = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, shown.err
    return lines[0]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A two-operator ONNX file with a dynamic batch."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 8, 8])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], [0.5] * 12)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], kernel_shape=[1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "small", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    path = tmp_path_factory.mktemp("model") / "small.onnx"
    onnx.save(model, path)
    return str(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, small_model: str) -> str:
    """A store that holds one real measurement, of the small model."""
    path = str(tmp_path_factory.mktemp("store") / "measured.db")
    argv = ["profile", small_model, "--shape", "x=1,3,8,8", "--store", path, "-q"]
    assert main(argv) == 0
    return path


def test_export_writes_the_graph_it_describes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    target = tmp_path / "graph.json"
    result = run_json(capsys, "export", SQUEEZENET, "-o", str(target))
    graph = OpGraph.from_json(target.read_text())
    assert result["graph_hash"] == graph.hash
    assert result["nodes"] == len(graph.operators)
    assert result["edges"] == len(graph.edges)
    assert result["unknown_ops"] == []
    assert sum(op.op == "conv2d" for op in graph.operators) == 26
    again = run_json(capsys, "export", str(target), "-o", str(tmp_path / "again.json"))
    assert again["graph_hash"] == result["graph_hash"]
    assert (tmp_path / "again.json").read_text() == target.read_text()


def test_predict_answers_with_an_interval(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "predict", SQUEEZENET, "--device", "cpu-amd-zen5")
    assert result["source"] == "predicted"
    assert result["predictor"] == "roofline_former"
    assert result["device"] == "cpu-amd-zen5"
    assert 0 < result["low_ms"] <= result["latency_ms"] <= result["high_ms"]


def test_predict_takes_a_measured_answer_from_the_store(
    capsys: pytest.CaptureFixture[str], small_model: str, store: str
) -> None:
    shape = ("--shape", "x=1,3,8,8")
    result = run_json(capsys, "predict", small_model, *shape, "--store", store)
    with sqlite3.connect(store) as database:
        ((latency_s,),) = database.execute("SELECT latency_s FROM measurements").fetchall()
    assert result["source"] == "measured"
    assert result["latency_ms"] == pytest.approx(latency_s * 1e3)
    assert result["predictor"] is None


def test_profile_reuses_what_is_stored(
    capsys: pytest.CaptureFixture[str], small_model: str, store: str
) -> None:
    argv = ("profile", small_model, "--shape", "x=1,3,8,8", "--store", store, "-q")
    result = run_json(capsys, *argv)
    assert (result["measured"], result["reused"], result["failed"]) == (0, 1, 0)
    assert result["networks"][0]["status"] == "ok"


def test_devices_and_models_list_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    devices = run_json(capsys, "devices")
    assert {"cpu-amd-zen5", "jetson-orin-cpu", "rpi4"} <= {d["name"] for d in devices["devices"]}
    models = run_json(capsys, "models")
    assert models["predictors"] == REGISTERED
    shipped = {c["name"] for c in models["checkpoints"]}
    assert {f"cpu-amd-zen5/{name}" for name in ("kernel_former", "xgboost", "flops")} <= shipped


def test_a_predictor_of_decisions_does_not_answer_for_networks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refused(
        capsys, "predict", SQUEEZENET, "--checkpoint", "cpu-amd-zen5/kernel_former",
        "--device", "cpu-amd-zen5",
    )  # fmt: skip
    assert "for `tvm-costmodel tune`" in message


def test_doctor_finds_the_pinned_tvm_ffi(capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--format", "json"])
    checks = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["apache-tvm-ffi"]["ok"]
    assert checks["apache-tvm-ffi"]["found"] == "0.1.14.post1"
    assert checks["LLVM target"]["ok"]


def test_a_truncated_onnx_file_is_refused_and_nothing_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(Path(SQUEEZENET).read_bytes()[:3000])
    message = refused(capsys, "export", str(broken), "-o", str(tmp_path / "graph.json"))
    assert "broken.onnx" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.onnx"]


def test_an_unknown_operator_is_refused_by_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="my.domain")
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("my.domain", 1)]
    graph = helper.make_graph([node], "unknown", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "unknown.onnx")
    path = str(tmp_path / "unknown.onnx")
    assert "Frobnicate" in refused(capsys, "export", path, "-o", str(tmp_path / "graph.json"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["unknown.onnx"]


def test_a_dynamic_shape_asks_for_shape(
    capsys: pytest.CaptureFixture[str], small_model: str
) -> None:
    message = refused(capsys, "predict", small_model)
    assert "--shape" in message
    assert "batch" in message
    assert "NAME=D" in refused(capsys, "predict", small_model, "--shape", "x=1,0,8,8")


def test_an_unknown_device_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "predict", SQUEEZENET, "--device", "cpu-amd-zeno")
    assert "'cpu-amd-zen5'" in message


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_missing_or_foreign_checkpoint_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str | None
) -> None:
    folder = tmp_path / "checkpoint"
    if content is not None:
        folder.mkdir()
        (folder / "checkpoint.json").write_text(content)
    message = refused(capsys, "predict", SQUEEZENET, "--checkpoint", str(folder))
    assert str(folder) in message


def test_a_damaged_checkpoint_and_one_of_another_device_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(ZOO / "cpu-amd-zen5" / "nar_former_v2", folder)
    argv = ("predict", SQUEEZENET, "--checkpoint", str(folder))
    message = refused(capsys, *argv, "--device", "rpi4")
    assert "cpu-amd-zen5" in message and "rpi4" in message
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert "checksum" in refused(capsys, *argv, "--device", "cpu-amd-zen5")


def test_a_store_of_a_schema_that_no_version_wrote_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: str
) -> None:
    path = tmp_path / "older.db"
    shutil.copy(store, path)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 0")
    before = path.read_bytes()
    for argv in (("predict", SQUEEZENET), ("profile", SQUEEZENET), ("train", "-o", "none")):
        message = refused(capsys, *argv, "--store", str(path))
        assert "schema 0" in message and "choose another --store" in message
    assert path.read_bytes() == before


def test_labels_are_moved_without_measuring(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail("a worker was started"))
    labels, copy = tmp_path / "labels.jsonl.xz", tmp_path / "copy.db"
    result = run_json(capsys, "profile", "--store", store, "--export", str(labels))
    assert (result["exported"], result["measured"]) == (1, 0)
    result = run_json(capsys, "profile", "--store", str(copy), "--import", str(labels))
    assert result["imported"] == 1
    with Store(store) as original, Store(copy) as moved:
        (one,), (other,) = original.measurements(), moved.measurements()
        assert (one.key, one.latency_s) == (other.key, other.latency_s)
    absent = str(tmp_path / "absent.db")
    refused(capsys, "profile", "--store", absent, "--export", str(tmp_path / "none.xz"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.db", "labels.jsonl.xz"]


def test_a_damaged_label_file_adds_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shipped = devices.FOLDER.parent / "labels" / "cpu-amd-zen5.jsonl.xz"
    damaged = tmp_path / "damaged.jsonl.xz"
    damaged.write_bytes(shipped.read_bytes()[:200_000])
    new = tmp_path / "new.db"
    message = refused(capsys, "profile", "--store", str(new), "--import", str(damaged))
    assert "damaged.jsonl.xz" in message
    with Store(new) as opened:
        assert opened.count(status=None) == 0 and opened.environments() == {}


def test_an_unknown_predictor_or_setting_is_refused_before_labels_are_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = ("--store", str(tmp_path / "none.db"))
    output = ("-o", str(tmp_path / "model"))
    message = refused(capsys, "train", *store, *output, "--predictor", "xgbost")
    assert "xgbost" in message and "xgboost" in message
    message = refused(capsys, "train", *store, *output, "--set", "epoch=3")
    assert "epoch" in message and "epochs" in message
    assert "flop" in refused(capsys, "compare", *store, "--predictors", "xgboost,flop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cores", ["x", "", "-1", "0,,1"])
def test_cores_that_are_none_are_wrong_usage(
    capsys: pytest.CaptureFixture[str], cores: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["profile", SQUEEZENET, "--store", "none.db", f"--cores={cores}"])
    assert stopped.value.code == 2
    assert "0,1" in capsys.readouterr().err


def test_doctor_is_content_on_a_processor_without_a_shipped_predictor(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = {"vendor_id": "GenuineIntel", "cpu family": "6", "model": "250"}
    monkeypatch.setattr(devices, "identity", lambda: cpu)
    result = run_json(capsys, "doctor")
    checks = {c["name"]: c for c in result["checks"]}
    assert result["healthy"]
    assert not checks["shipped predictor"]["ok"]
    assert checks["shipped predictor"]["found"] == "roofline_former for cpu-amd-zen5"
    assert "measure a few networks of cpu-intel-f6m250" in checks["shipped predictor"]["remedy"]


@pytest.mark.parametrize(("version", "fits"), [("0.27.1", True), ("0.28.0", False)])
def test_doctor_says_when_the_predictor_learned_with_another_tvm(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    cpu = {"vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2"}
    monkeypatch.setattr(devices, "identity", lambda: cpu)
    monkeypatch.setattr(diagnostics, "_version", lambda package: version)
    main(["doctor", "--format", "json"])
    checks = {c["name"]: c for c in json.loads(capsys.readouterr().out)["checks"]}
    found = checks["shipped predictor"]
    assert found["ok"] is fits
    if not fits:
        assert f"learned with TVM 0.27.0.post1; this is {version}" in found["found"]
        assert "tvm-costmodel doctor --measure" in found["remedy"]


def test_a_store_of_another_schema_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE trials (id INTEGER)")
    before = path.read_bytes()
    message = refused(capsys, "predict", SQUEEZENET, "--store", str(path))
    assert "old.db" in message
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["train", "compare"])
def test_labels_that_are_not_there_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    output = ("-o", str(tmp_path / "model")) if command == "train" else ()
    message = refused(capsys, command, "--store", str(tmp_path / "none.db"), *output)
    assert "none.db" in message
    assert list(tmp_path.iterdir()) == []


def test_profile_without_anything_to_measure_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    message = refused(capsys, "profile", "--store", str(tmp_path / "m.db"))
    assert "--suite" in message
    message = refused(capsys, "profile", "--suite", "nosuch", "--store", str(tmp_path / "m.db"))
    assert "nosuch" in message
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the write fails half-way in the same way."""
    target = tmp_path / "graph.json"
    target.write_text("old")
    limited = (
        "import resource, sys; from tvm_costmodel.cli import entry;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)); sys.exit(entry())"
    )
    command = [sys.executable, "-c", limited, "export", SQUEEZENET, "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and str(target) in last and "free space" in last
    assert target.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["graph.json"]


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("profile", "--choose", "--select"),
        ("profile", "--for", "--calibrate-for"),
        ("profile", "--rule", "--strategy"),
        ("train", "--start", "--init-from"),
        ("tune", "--again", "--force"),
    ],
)
def test_an_old_option_names_the_new_one_and_is_not_in_the_help(
    capsys: pytest.CaptureFixture[str], command: str, old: str, new: str
) -> None:
    for argv in ([command, old], [command, old, "5"], [command, f"{old}=5"]):
        with pytest.raises(SystemExit) as stopped:
            main(argv)
        shown = capsys.readouterr()
        assert stopped.value.code == 2 and shown.out == ""
        assert f"error: {old} is now {new} " in shown.err and shown.err.count("\n") == 1
    with pytest.raises(SystemExit):
        main([command, "--help"])
    words = capsys.readouterr().out.split()
    assert new in words and old not in words


@pytest.mark.parametrize("argv", [["predict"], ["nosuch"], ["export", "x.onnx"], []])
def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
