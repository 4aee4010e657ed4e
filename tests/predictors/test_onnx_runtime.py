"""An exported checkpoint through ONNX Runtime against the same checkpoint through torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.graphs import GraphBuilder, labelled_graphs, resnet_graph, unknown_graph
from tvm_costmodel.errors import CheckpointError, ConfigError, MissingDependencyError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models import ZOO
from tvm_costmodel.predictors.checkpoint import CARD, EXPORT
from tvm_costmodel.predictors.loading import Predictor, load_predictor
from tvm_costmodel.predictors.onnx_runtime import (
    ExportedRooflineFormer,
    _similar_lengths,
    open_session,
)
from tvm_costmodel.transfer.calibration import calibrate

pytest.importorskip("onnxruntime")

SHIPPED = "cpu-amd-zen5/roofline_former"
SMALL, LATENCY = labelled_graphs(20)


def one_operator() -> OpGraph:
    b = GraphBuilder(1, 8, 16, 16)
    return b.graph(b.relu(0))


GRAPHS = [*SMALL, resnet_graph(), unknown_graph(), one_operator(), resnet_graph((2, 9, 9, 2), 32)]


@pytest.fixture(scope="module")
def torch_engine() -> Predictor:
    return load_predictor(SHIPPED, engine="torch")


@pytest.fixture(scope="module")
def onnx_engine() -> Predictor:
    return load_predictor(SHIPPED, engine="onnxruntime")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ZOO / SHIPPED, tmp_path / "checkpoint"))


def test_both_engines_give_the_same_estimates(
    torch_engine: Predictor, onnx_engine: Predictor
) -> None:
    assert isinstance(onnx_engine.regressor, ExportedRooflineFormer)
    assert not isinstance(torch_engine.regressor, ExportedRooflineFormer)
    pairs = zip(torch_engine.predict(GRAPHS), onnx_engine.predict(GRAPHS), strict=True)
    for expected, estimate in pairs:
        assert estimate.latency_s == pytest.approx(expected.latency_s, rel=1e-5)
        assert estimate.low_s == pytest.approx(expected.low_s, rel=1e-5)
        assert estimate.high_s == pytest.approx(expected.high_s, rel=1e-5)
        assert estimate.unknown_ops == expected.unknown_ops
        assert (estimate.predictor, estimate.device) == ("roofline_former", "cpu-amd-zen5")


@pytest.mark.parametrize("graph", [GRAPHS[0], *GRAPHS[20:23]], ids=lambda graph: len(graph))
def test_both_engines_give_each_operator_the_same_share(
    torch_engine: Predictor, onnx_engine: Predictor, graph: OpGraph
) -> None:
    expected = torch_engine.regressor.per_operator(graph)
    estimate = onnx_engine.regressor.per_operator(graph)
    assert expected is not None and estimate is not None
    np.testing.assert_allclose(estimate, expected, rtol=1e-5)
    assert estimate.sum() == pytest.approx(onnx_engine.predict(graph).latency_s, rel=1e-9)


def test_a_graph_alone_and_in_a_list_get_the_same_answer(onnx_engine: Predictor) -> None:
    many = onnx_engine.regressor.predict(GRAPHS * 12)  # more than one run
    alone = [onnx_engine.predict(graph).latency_s for graph in GRAPHS]
    np.testing.assert_allclose(many, alone * 12, rtol=1e-5)
    assert onnx_engine.predict([]) == []


def test_an_exported_predictor_is_calibrated_and_saved_without_torch(
    torch_engine: Predictor, onnx_engine: Predictor, tmp_path: Path
) -> None:
    moved = [
        calibrate(engine.regressor, SMALL[:6], 3 * LATENCY[:6], "cpu-new")
        for engine in (torch_engine, onnx_engine)
    ]
    folder = moved[1].save(tmp_path / "moved")
    assert sorted(p.name for p in folder.iterdir()) == [CARD, EXPORT, "model.safetensors"]
    for engine in ("torch", "onnxruntime"):
        reloaded = load_predictor(folder, device="cpu-new", engine=engine)
        np.testing.assert_allclose(
            reloaded.regressor.predict(GRAPHS), moved[0].predict(GRAPHS), rtol=1e-5
        )
    plain = moved[0].save(tmp_path / "plain")  # torch saves what it trained, and no export
    assert "onnx" not in json.loads((plain / CARD).read_text())


def test_an_exported_predictor_does_not_learn(onnx_engine: Predictor) -> None:
    with pytest.raises(ConfigError, match="does not learn: train with torch"):
        onnx_engine.regressor.fit(SMALL, LATENCY)


def test_damaged_missing_and_foreign_exports_are_refused(checkpoint: Path) -> None:
    def load() -> Predictor:
        return load_predictor(checkpoint, engine="onnxruntime")

    card = json.loads((checkpoint / CARD).read_text())
    foreign = {**card, "onnx": {**card["onnx"], "of_weights": "0" * 64}}
    (checkpoint / CARD).write_text(json.dumps(foreign))
    with pytest.raises(CheckpointError, match="made from other weights"):
        load()
    (checkpoint / CARD).write_text(json.dumps(card))
    content = (checkpoint / EXPORT).read_bytes()
    (checkpoint / EXPORT).write_bytes(content[:-9])
    with pytest.raises(CheckpointError, match=r"model\.onnx is missing or damaged"):
        load()
    assert load_predictor(checkpoint, engine="torch").predict(SMALL[0]).latency_s > 0
    del card["onnx"]
    (checkpoint / CARD).write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=r"models export .* -o DIR"):
        load()
    with pytest.raises(ConfigError, match="unknown engine 'tensorrt'; known: auto, torch"):
        load_predictor(checkpoint, engine="tensorrt")


def test_a_missing_or_older_runtime_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match=r"does not take the model .*pip install -U onnxrun"):
        open_session(b"no model", "the model")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        load_predictor(SHIPPED, engine="onnxruntime")


def test_trees_and_formulas_need_no_engine() -> None:
    for name in ("xgboost", "flops"):
        engines = [load_predictor(f"cpu-amd-zen5/{name}", engine=e) for e in ("torch", "auto")]
        assert type(engines[0].regressor) is type(engines[1].regressor)


def test_padded_runs_hold_graphs_of_about_equal_length() -> None:
    parts = list(_similar_lengths([1000, 10, 4000, 1100, 12]))
    assert parts == [[1, 4], [0, 3], [2]]


WITHOUT_TORCH = """
import json, sys
for name in ("torch", "tvm", "onnx", "safetensors"):
    sys.modules[name] = None
from tvm_costmodel import OpGraph, load_predictor
from tvm_costmodel.errors import CostModelError

graph = OpGraph.from_json(sys.stdin.read())
e = load_predictor("cpu-amd-zen5").predict(graph)
answers = {"roofline_former": [e.latency_s, e.low_s, e.high_s, *e.per_op[0]]}
assert "scipy" not in sys.modules and "xgboost" not in sys.modules
for name in ("xgboost", "flops"):
    answers[name] = load_predictor("cpu-amd-zen5", name).predict(graph).latency_s
for arguments in ({"engine": "torch"}, {"predictor": "nar_former_v2"}):
    try:
        load_predictor("cpu-amd-zen5", **arguments)
    except CostModelError as error:
        answers[str(arguments)] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


def test_the_shipped_predictors_answer_where_torch_is_not(torch_engine: Predictor) -> None:
    graph = GRAPHS[20]
    completed = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        input=graph.to_json(),
        capture_output=True,
        text=True,
    )
    assert completed.returncode == 0, completed.stderr
    answers = json.loads(completed.stdout)
    expected = torch_engine.predict(graph)
    assert expected.per_op is not None
    numbers = [expected.latency_s, expected.low_s, expected.high_s, expected.per_op[0].latency_s]
    latency_s, low_s, high_s, operator, op, share_s = answers["roofline_former"]
    assert [latency_s, low_s, high_s, share_s] == pytest.approx(numbers, rel=1e-5)
    assert graph.operators[operator].op == op == "conv2d"
    for name in ("xgboost", "flops"):
        here = load_predictor("cpu-amd-zen5", name).predict(graph).latency_s
        assert answers[name] == pytest.approx(here, rel=1e-6)
    refused = "MissingDependencyError: the torch engine needs PyTorch: pip install torch"
    assert answers["{'engine': 'torch'}"] == refused
    message = answers["{'predictor': 'nar_former_v2'}"]
    assert "needs PyTorch (pip install torch)" in message and "models export" in message
