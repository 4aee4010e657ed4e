"""``tune`` on a tiny network with real builds: what comes back, what is written, what is reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper
from tvm import relax

import tvm_costmodel as tcm
from tests.compilers.networks_small import module, network
from tests.networks import model_of
from tests.profiling.conftest import QUICK
from tests.tuning.scorers import KnownScorer
from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.compilers.relax.compiler import RELAX
from tvm_costmodel.compilers.relax.verification import compare_outputs, random_inputs, run
from tvm_costmodel.errors import (
    CheckpointError,
    ConfigError,
    DeviceError,
    MeasurementError,
    MissingDependencyError,
    ModelFileError,
)
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.paired_profiler import PairedProfiler
from tvm_costmodel.profiling.sources import FileSource
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.worker.client import Worker
from tvm_costmodel.tuning.result import TuneResult
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.tune import tune

GAINS = {("algorithm", "winograd2"): -0.3, ("vectors", 2): -0.2, ("layout", "NCHW"): 0.3}
WRITTEN = {"model.so", "candidate.json", "report.json", "run.py", "main.cc", "requires.json"}
NO_WORKER = "a worker was started"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuned") / "out"


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "predictor": KnownScorer(GAINS),
        "measure": 2,
        "candidates": 500,
        "measurement": QUICK,
        "output": folder,
    }
    return chosen | changes


@pytest.fixture(scope="module")
def tuned(folder: Path) -> TuneResult:
    return tune(network("residual"), **settings(folder))


def test_the_module_computes_what_the_baseline_does(tuned: TuneResult) -> None:
    mod = network("residual")
    inputs = random_inputs(mod, seed=7)
    expected = run(build(mod, cpu_target()).executable, inputs)
    assert compare_outputs(run(tuned.module, inputs), expected, rtol=1e-3).equal


def test_the_report_tells_what_was_done(tuned: TuneResult) -> None:
    report = tuned.report
    assert (report.measured, report.failed, report.reused) == (2, 0, 0)
    assert report.scored <= 500 and report.scored_per_second > 0
    assert report.space >= report.joint_space > 10_000
    assert report.default_ms is not None and report.best_ms is not None
    assert report.default_ms / report.best_ms == pytest.approx(report.speedup)
    assert report.speedup >= 1.0 and report.stopped == "finished"
    assert {"search", "builds", "runs", "in all"} <= set(report.seconds)
    expert, best = report.trials
    assert expert.why == "rule of thumb" and expert.status == "ok"
    assert best.predicted_ms == pytest.approx(np.exp(-0.5 - 0.2 * (len(vectors(best)) - 1)))
    assert best.max_rel_err is not None and 0 <= best.max_rel_err <= 1e-3
    named = [entry["decision"] for entry in report.decisions if entry["operator"] is None]
    assert named == ["layout", "fusion", "batch_norm", "transposes"]
    for words in ("rule of thumb", "winograd2" if report.candidate else "beats", "time: search"):
        assert words in report.to_text()


def vectors(trial: Any) -> list[str]:
    return [i for i, values in trial.decisions["operators"].items() if "vectors" in values]


def test_library_candidate_and_report_are_written(tuned: TuneResult, folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == WRITTEN | {"measurements.db", "networks"}
    mod = network("residual")
    inputs = random_inputs(mod)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), tvm.cpu())
    (out,) = (machine["main"](*(tvm.runtime.tensor(a) for a in inputs)).numpy(),)
    assert np.array_equal(out, run(tuned.module, inputs)[0])
    candidate = Candidate.from_json((folder / "candidate.json").read_text())
    written = json.loads((folder / "report.json").read_text())
    assert candidate == tuned.candidate == Candidate.from_dict(written["candidate"])
    assert written["pipeline"]["key"] == tuned.config.key and written["artifact"] == "model.so"
    assert written["trials"] == json.loads(json.dumps(tuned.report.to_dict()))["trials"]


def test_rows_of_variants_are_in_the_store_together_with_the_default(
    tuned: TuneResult, folder: Path
) -> None:
    with Store(folder / "measurements.db", write=False) as store:
        variants = list(store.measurements(variants=True))
        (plain,) = store.measurements(variants=False)
    assert [row.pipeline["decisions"] for row in variants] == [
        trial.decisions for trial in tuned.report.trials
    ]
    assert all(row.timing is not None and row.timing.baseline_blocks for row in variants)
    assert plain.graph_hash == tuned.report.graph_hash == variants[0].graph_hash
    source = Path(plain.source["path"])
    assert source.is_file() and source.parent == (folder / "networks").resolve()


def test_tuning_again_takes_the_stored_decision(
    tuned: TuneResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail(NO_WORKER))
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    second = tune(network("residual"), **settings(folder, seed=5))
    assert second.report.stored and second.candidate == tuned.candidate
    assert second.report.trials == tuned.report.trials
    assert "tuned earlier" in second.report.summary and "--force" in second.report.summary
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    inputs = random_inputs(network("residual"))
    assert np.array_equal(run(second.module, inputs)[0], run(tuned.module, inputs)[0])


def test_another_directory_gets_the_stored_decision_too(
    tuned: TuneResult, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail(NO_WORKER))
    store = folder / "measurements.db"
    tune(network("residual"), **settings(tmp_path / "copy", store=store))
    names = {path.name for path in (tmp_path / "copy").iterdir()}
    assert names == WRITTEN


def test_a_larger_budget_or_another_tolerance_is_not_answered_from_the_store(
    tuned: TuneResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def start(self: Worker) -> dict[str, Any]:
        started.append(self)
        raise DeviceError("no worker here")

    monkeypatch.setattr(Worker, "start", start)
    for changes in ({"measure": 3}, {"tolerance": 1e-2}, {"force": True}):
        with pytest.raises(DeviceError, match="no worker here"):
            tune(network("residual"), **settings(folder, **changes))
    assert len(started) == 3
    assert (folder / "model.so").is_file() and (folder / "measurements.db").is_file()


def test_a_network_without_decisions_keeps_the_default(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 8]}, {"y": [1, 8]})
    path = tmp_path / "relu.onnx"
    onnx.save(model, path)
    result = tune(path, **settings(tmp_path / "out"))
    assert result.candidate == Candidate() and result.report.space == 1
    assert result.report.measured == 0 and result.report.speedup == 1.0
    assert result.report.default_ms is not None and result.report.default_ms > 0
    assert "nothing can be decided" in result.report.summary
    assert result.report.model == "relu.onnx"
    x = np.array([[-1, 2, -3, 4, 5, -6, 7, 8]], "float32")
    assert np.array_equal(run(result.module, [x])[0], np.maximum(x, 0))


def test_outputs_beyond_the_tolerance_are_never_returned(tmp_path: Path) -> None:
    """A tolerance that nothing meets but what computes in the very same order."""
    result = tune(
        network("residual"),
        **settings(None, store=tmp_path / "m.db", tolerance=2.1e-5, measure=1, strategy="random"),
    )
    for trial in result.report.trials:
        assert trial.status != "ok" or (trial.max_rel_err or 0.0) <= 2.1e-5
    assert result.report.max_rel_err <= 2.1e-5


class Slow(Exception):
    pass


def test_bad_input_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    mod = network("residual")
    board = resolve_device("cpu").with_tracker("127.0.0.1:1", "none")
    for error, words, model, changes in (
        (ConfigError, "positive number", mod, {"tolerance": -1.0}),
        (ConfigError, "measure is 0", mod, {"measure": 0}),
        (ConfigError, "unknown search strategy", mod, {"strategy": "magic"}),
        (ConfigError, "unknown compiler 'rely'; use relax or relay", mod, {"compiler": "rely"}),
        (MissingDependencyError, "Relay left TVM at 0.20", mod, {"compiler": "relay"}),
        (ModelFileError, "no such file", tmp_path / "none.onnx", {}),
        (DeviceError, "unknown device 'cpux'", mod, {"device": "cpux"}),
        (CheckpointError, "rpi4", mod, {"device": "rpi4", "predictor": None}),
        (ConfigError, "not that of device", mod, {"target": {"kind": "llvm", "mcpu": "btver2"}}),
        (DeviceError, "no RPC tracker answers at 127.0.0.1:1", mod, {"device": board}),
    ):
        with pytest.raises(error, match=words):
            tune(model, **settings(out, **changes))
        assert list(tmp_path.iterdir()) == [] or not (out / "measurements.db").exists()


def test_a_graph_without_weights_cannot_be_tuned(tmp_path: Path) -> None:
    path = tmp_path / "graph.json"
    path.write_text(tcm.from_relax(network("residual")).to_json())
    with pytest.raises(ModelFileError, match="holds a graph without weights"):
        tune(path, **settings(tmp_path / "out"))
    assert [p.name for p in tmp_path.iterdir()] == ["graph.json"]


def test_a_target_chooses_the_threads() -> None:
    from tvm_costmodel.tuning.result import device_of_target, device_target

    device = resolve_device("cpu")
    two = device_of_target(device, {"kind": "llvm", "num-cores": 2})
    assert (two.threads, two.name) == (2, f"{device.name}-2t")
    assert device_of_target(device, device_target(device)) == device
    assert device_of_target(device, None) is device


def test_the_names_are_the_packages_own() -> None:
    assert tcm.tune is tune and tcm.TuneResult is TuneResult
    assert MeasurementConfig().blocks == 2
    assert callable(tcm.relax_pipeline)
    assert module is not None


def test_the_library_comes_from_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled in this program, unless its executable is to be exported."""
    built: list[str] = []
    compile_here = RELAX.build

    def build_here(module: Any, target: Any, config: Any = None) -> Any:
        built.append("here")
        return compile_here(module, target, config)

    monkeypatch.setattr(type(RELAX), "build", staticmethod(build_here))
    result = tune(network("dense"), **settings(None, measure=1))
    machine = relax.VirtualMachine(result.module, tvm.cpu())
    inputs = random_inputs(network("dense"))
    outputs = machine["main"](*(tvm.runtime.tensor(a) for a in inputs))
    assert built == [] and result.report.seconds["export"] > 0
    result.export(tmp_path / "dense")
    assert built == []
    result.module.export_library(str(tmp_path / "again.so"))
    assert built == ["here"]
    again = run(tvm.runtime.load_module(str(tmp_path / "again.so")), inputs)
    assert np.array_equal(again[0], outputs.numpy())


def test_a_file_is_read_by_the_worker_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    path = tmp_path / "relu.onnx"
    onnx.save(model_of(nodes, {"x": [1, 8]}, {"y": [1, 8]}), path)
    with monkeypatch.context() as patched:
        patched.setattr(type(RELAX), "load_model", lambda *_: pytest.fail("it was read here"))
        result = tune(path, **settings(tmp_path / "out"))
        assert tune(path, **settings(tmp_path / "out")).report.stored
    onnx.save(model_of(nodes, {"x": [1, 9]}, {"y": [1, 9]}), path)
    with pytest.raises(ModelFileError, match=r"relu.onnx holds graph .* the file changed"):
        result.task.module(result.report.graph_hash)


def test_a_worker_that_reads_another_network_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    for name, size in (("one", 8), ("other", 9)):
        model = model_of(nodes, {"x": [1, size]}, {"y": [1, size]})
        onnx.save(model, tmp_path / f"{name}.onnx")
    meant = tcm.from_onnx(tmp_path / "one.onnx").hash
    with PairedProfiler("cpu", tmp_path / "m.db", QUICK) as profiler:
        assert profiler.open(FileSource(str(tmp_path / "one.onnx")), meant).hash == meant
        with pytest.raises(MeasurementError, match=f"instead of {meant}: the model changed"):
            profiler.open(FileSource(str(tmp_path / "other.onnx")), meant)


def test_a_missing_linker_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "start", lambda self: pytest.fail(NO_WORKER))
    monkeypatch.setenv("CXX", "no-such-g++")
    with pytest.raises(MissingDependencyError, match=r"'no-such-g.*' is not there: install one"):
        tune(network("dense"), **settings(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []
