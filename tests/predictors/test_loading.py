from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.predictors.loading import Estimate, Predictor, load_predictor, zoo
from tvm_costmodel.predictors.registry import REGISTRY

GRAPHS, LATENCY = labelled_graphs(30)


@pytest.fixture
def zoo_folder(tmp_path: Path) -> Path:
    for device in ("cpu-a", "cpu-b"):
        regressor = FlopsRegressor().fit(GRAPHS, LATENCY)
        regressor.card["device"] = device
        regressor.save(tmp_path / device / "flops")
    return tmp_path


def test_one_graph_gives_an_estimate_and_a_list_gives_a_list(zoo_folder: Path) -> None:
    predictor = load_predictor("cpu-a", "flops", zoo_folder=zoo_folder)
    one = predictor.predict(GRAPHS[0])
    assert isinstance(one, Estimate)
    assert 0 < one.low_s <= one.latency_s <= one.high_s
    assert (one.predictor, one.device, one.graph_hash) == ("flops", "cpu-a", GRAPHS[0].hash)
    many = predictor.predict(GRAPHS)
    assert [e.graph_hash for e in many] == [graph.hash for graph in GRAPHS]
    assert many[0].latency_s == pytest.approx(one.latency_s)
    assert predictor.predict([]) == []


def test_a_predictor_is_found_by_device_by_both_names_and_by_directory(zoo_folder: Path) -> None:
    assert [(e.device, e.predictor) for e in zoo(zoo_folder)] == [
        ("cpu-a", "flops"),
        ("cpu-b", "flops"),
    ]
    assert load_predictor("cpu-b/flops", zoo_folder=zoo_folder).device == "cpu-b"
    assert load_predictor(zoo_folder / "cpu-b" / "flops").device == "cpu-b"
    assert zoo(zoo_folder)[0].card["trained_on"] == 27


def test_what_is_missing_is_named_beside_what_there_is(zoo_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="holds cpu-a/flops, cpu-b/flops"):
        load_predictor("cpu-c", zoo_folder=zoo_folder)
    with pytest.raises(CheckpointError, match="'cpu-a' for roofline_former"):
        load_predictor("cpu-a", zoo_folder=zoo_folder)
    with pytest.raises(CheckpointError, match="holds nothing yet"):
        load_predictor(zoo_folder=zoo_folder / "nowhere")
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*checkpoint.json is missing"):
        load_predictor(zoo_folder)


def test_graphs_survive_the_way_through_json(zoo_folder: Path) -> None:
    predictor = load_predictor("cpu-a/flops", zoo_folder=zoo_folder)
    copy = OpGraph.from_json(GRAPHS[0].to_json())
    assert predictor.predict(copy).latency_s == predictor.predict(GRAPHS[0]).latency_s


def test_shares_are_computed_on_first_access() -> None:
    class WithShares(FlopsRegressor):
        calls = 0

        def per_operator(self, graph: OpGraph) -> np.ndarray:
            self.calls += 1
            shares = np.arange(len(graph), dtype=float) % 3
            return shares / shares.sum() * self.predict([graph])[0]

    regressor = WithShares().fit(GRAPHS, LATENCY)
    estimate = Predictor(regressor).predict(GRAPHS[0])
    assert regressor.calls == 0 and estimate.per_op is not None
    per_op = estimate.per_op
    assert regressor.calls == 1 and estimate.per_op is per_op
    assert [share.operator % 3 for share in per_op] == sorted(
        (i % 3 for i in range(len(GRAPHS[0])) if i % 3), reverse=True
    )
    assert per_op[0] == (2, GRAPHS[0].operators[2].op, per_op[0].latency_s)
    assert sum(share.latency_s for share in per_op) == pytest.approx(estimate.latency_s)
    plain = FlopsRegressor().fit(GRAPHS, LATENCY)
    assert Predictor(plain).predict(GRAPHS[0]).per_op is None


def test_a_predictor_without_interval_gives_nan() -> None:
    regressor = FlopsRegressor().fit(GRAPHS, LATENCY)
    regressor.interval = None
    estimate = Predictor(regressor).predict(GRAPHS[0])
    assert estimate.low_s != estimate.low_s and estimate.latency_s > 0


@pytest.mark.parametrize("entry", zoo(), ids=lambda entry: f"{entry.device}/{entry.predictor}")
def test_every_shipped_checkpoint_loads_and_predicts(entry) -> None:
    predictor = load_predictor(entry.path)
    assert predictor.name == entry.predictor in REGISTRY and predictor.device == entry.device
    estimate = predictor.predict(GRAPHS[0])
    assert 1e-6 < estimate.low_s < estimate.high_s < 1.0
    assert entry.card["training_set"] and entry.card["test"]["mape"] > 0
