"""``tune`` with Relay on a tiny network with real builds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm.contrib import graph_executor

import tvm_costmodel as tcm
from tests.profiling.conftest import QUICK
from tests.relay.test_build import network
from tests.rpc_board import board
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.cli import main
from tvm_costmodel.compilers import relay as compiler
from tvm_costmodel.errors import ConfigError, DeviceError, ModelFileError
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.sources import source_from_dict
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker.client import Worker
from tvm_costmodel.tuning.result import TuneResult
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.tune import tune

GAINS = {("fast_math", "fast"): -0.4, ("fusion", "depth2"): -0.2, ("layout", "NHWC"): 0.3}


def settings(folder: Path | None, **changes: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "compiler": "relay",
        "predictor": KnownScorer(GAINS),
        "measure": 2,
        "measurement": QUICK,
        "output": folder,
    }
    return chosen | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned") / "out"


@pytest.fixture(scope="module")
def mod() -> tvm.IRModule:
    return network()


@pytest.fixture(scope="module")
def tuned(mod: tvm.IRModule, folder: Path) -> TuneResult:
    return tune(mod, **settings(folder))


def test_the_library_runs_and_computes_what_the_undecided_network_does(
    mod: tvm.IRModule, tuned: TuneResult, folder: Path
) -> None:
    (data,) = inputs = compiler.random_inputs(mod, seed=7)
    expected = compiler.run(compiler.build(mod, compiler.cpu_target()), inputs)
    factory = compiler.load_library(folder / "model.so")
    loaded = graph_executor.GraphModule(factory["default"](tvm.cpu()))
    loaded.run(x=data)
    got = [loaded.get_output(0).numpy()]
    assert compiler.compare_outputs(got, expected, rtol=1e-3).equal
    held = graph_executor.GraphModule(tuned.module["default"](tvm.cpu()))
    held.run(x=data)
    np.testing.assert_array_equal(held.get_output(0).numpy(), got[0])


def test_the_report_tells_what_relay_was_told(tuned: TuneResult, folder: Path) -> None:
    report = tuned.report
    assert (report.measured, report.failed, report.compiler) == (2, 0, "relay")
    assert report.device == resolve_device("cpu").with_compiler("relay").name
    assert report.strategy == "exhaustive" and report.scored == report.space == report.joint_space
    first = report.trials[0]
    assert first.decisions == {"network": {"fast_math": "fast", "fusion": "depth2"}}
    assert first.status == "ok" and 0 <= (first.max_rel_err or 0) <= 1e-3
    assert report.default_ms is not None and report.best_ms is not None
    assert report.default_ms / report.best_ms == pytest.approx(report.speedup)
    named = [entry["decision"] for entry in report.decisions]
    assert named[:3] == ["opt_level", "alter_layout", "fusion"]
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.so", "candidate.json", "report.json", "measurements.db", "networks"}
    report = json.loads((folder / "report.json").read_text())
    assert Candidate.from_dict(report["candidate"]) == tuned.candidate
    assert compiler.RelayConfig.from_dict(report["pipeline"]["config"]) == tuned.config


def test_the_network_is_kept_as_relay_reads_it(tuned: TuneResult, folder: Path) -> None:
    with Store(folder / "measurements.db", write=False) as store:
        rows = list(store.measurements(variants=True))
    assert [row.pipeline["decisions"] for row in rows] == [t.decisions for t in tuned.report.trials]
    _, graph = source_from_dict(rows[0].source).load()
    assert graph.hash == tuned.report.graph_hash


def test_a_stored_decision_comes_back_at_once(
    mod: tvm.IRModule, tuned: TuneResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail("a worker was started"))
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    second = tune(mod, **settings(folder, predictor="random"))
    assert second.report.stored and second.candidate == tuned.candidate
    assert "tuned earlier" in second.report.summary and second.report.compiler == "relay"
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before


def test_a_candidate_that_fails_is_a_row_and_no_result(mod: tvm.IRModule) -> None:
    """Combining passes fail on some networks; whichever do here are rows that name the pass."""
    gains = {("products", "batch"): -1.0, ("convolutions", "joined"): -0.5}
    result = tune(mod, **settings(None, predictor=KnownScorer(gains), measure=2))
    assert result.report.measured + result.report.failed == 2
    for trial in result.report.trials:
        assert trial.status == "ok" or (trial.error and "Combine" in trial.error)
    assert result.report.default_ms is not None and result.report.speedup >= 1.0


def test_bad_input_is_refused(mod: tvm.IRModule, tmp_path: Path, monkeypatch: Any) -> None:
    out = tmp_path / "out"
    for error, words, model, changes in (
        (ConfigError, "unknown compiler 'rely'; use relax or relay", mod, {"compiler": "rely"}),
        (ModelFileError, "no such file", tmp_path / "none.onnx", {}),
        (ConfigError, "not that of device", mod, {"target": "llvm -mcpu=nehalem"}),
    ):
        with pytest.raises(error, match=words):
            tune(model, **settings(out, **changes))
    monkeypatch.setattr(tvm.runtime, "enabled", lambda name: False)
    with pytest.raises(DeviceError, match="built without LLVM; install one that has it"):
        tune(mod, **settings(out))
    assert list(tmp_path.iterdir()) == []


def onnx_file(folder: Path) -> Path:
    import onnx
    from onnx import helper

    from tests.networks import model_of

    rng = np.random.default_rng(0)
    weights = {"a": rng.standard_normal((16, 3, 3, 3)).astype("float32")}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c"], ["y"]),
    ]
    model = model_of(nodes, {"x": [1, 3, 12, 12]}, {"y": [1, 16, 12, 12]}, weights)
    path = folder / "tiny.onnx"
    onnx.save(model, path)
    return path


def test_the_command_tunes_a_file_and_remembers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx_file(tmp_path)
    command = ["tune", str(model), "--compiler", "relay", "--predictor", "random", "--measure", "1"]
    command += ["-o", str(tmp_path / "out"), "--format", "json", "-q"]
    assert main(command) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["measured"] + output["failed"] == 1 and output["predictor"] == "random"
    assert Path(output["artifact"]).is_file() and output["compiler"] == "relay"
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["stored"]


@pytest.mark.skipif(
    resolve_device("cpu").name != "cpu-amd-zen5", reason="no predictor ships for this CPU"
)
def test_the_predictor_that_ships_needs_no_name_and_no_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx_file(tmp_path)
    command = ["tune", str(model), "--compiler", "relay", "--measure", "1", "--format", "json"]
    assert main([*command, "-o", str(tmp_path / "out"), "-q"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert output["predictor"] == "relay_kernel_former" and output["scored"] > 10
    assert output["default_predicted_ms"] > 0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "hhb-tvm 3.2.3, which has Relay: add --compiler relay"),
        (("--compiler", "relay", "--predictor", "xgboost"), "relay_xgboost"),
        (("--compiler", "relay", "--checkpoint", "nowhere"), "no checkpoint"),
        (("--compiler", "relay", "--device", "cpux"), "unknown device 'cpux'"),
        (("--compiler", "relay", "--tolerance", "0"), "tolerance is 0.0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(
    more: tuple[str, ...], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx_file(tmp_path)
    assert main(["tune", str(model), "-o", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.onnx"]


def test_the_names_are_the_packages_own() -> None:
    assert tcm.tune is tune


def test_a_board_is_tuned_for_over_rpc(mod: tvm.IRModule, tmp_path: Path) -> None:
    with board("tuned", any_arguments=True) as address:
        device = resolve_device("cpu").with_tracker(address, "tuned")
        result = tune(mod, **settings(tmp_path / "out", device=device, measure=1))
    assert result.report.device.endswith("-rpc-relay")
    assert (result.report.measured, result.report.failed) == (1, 0)
    assert result.artifact(tmp_path / "out").name == "model.tar"
    assert (tmp_path / "out" / "model.tar").is_file()
