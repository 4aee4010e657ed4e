from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.predictors.loading import zoo
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.transfer.calibration import calibrate, leave_one_out
from tvm_costmodel.transfer.workflow import calibrate_checkpoint, choose_sources, learned_networks

GRAPHS, LATENCY = labelled_graphs(60)
NEW, _ = labelled_graphs(30, seed=3)


class Built:
    """A source whose graph is there already."""

    family = "plain"

    def __init__(self, graph: OpGraph) -> None:
        self.graph = graph
        self.key = graph.hash

    def load(self) -> tuple[Any, OpGraph]:
        return None, self.graph

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "built", "graph": self.graph.hash}


@pytest.fixture(scope="module")
def trained() -> Regressor:
    regressor = FlopsRegressor().fit(GRAPHS, LATENCY)
    regressor.card |= {"device": "cpu-a", "learned": [graph.hash for graph in GRAPHS]}
    return regressor


def labels_of(graphs: list[OpGraph], latency_s: np.ndarray) -> LabelledGraphs:
    hashes = tuple(graph.hash for graph in graphs)
    return LabelledGraphs(tuple(graphs), latency_s, ("plain",) * len(graphs), hashes, "cpu-b", "p")


def test_leaving_one_out_is_calibrating_to_the_others(trained: Regressor) -> None:
    measured = 3.0 * trained.predict(NEW) * np.linspace(0.8, 1.2, len(NEW))
    answers = leave_one_out(trained, NEW, measured)
    for i in (0, 11, 29):
        others = [graph for j, graph in enumerate(NEW) if j != i]
        alone = calibrate(trained, others, np.delete(measured, i), "cpu-b")
        assert answers[i] == pytest.approx(alone.predict([NEW[i]])[0], rel=0.02)


def test_a_factor_is_told_apart_from_what_the_correction_adds(
    trained: Regressor, tmp_path: Path
) -> None:
    labels = labels_of(NEW[:10], 4.0 * trained.predict(NEW[:10]))
    summary = calibrate_checkpoint(trained, labels, tmp_path / "b")
    assert summary.uncalibrated.mape == pytest.approx(75.0)  # a quarter of what is measured
    assert summary.one_factor.mape == pytest.approx(0.0, abs=1e-9)
    assert summary.calibrated.mape < 2.0 and summary.learned == 0
    assert summary.to_dict()["interval"]["n"] == 10


def test_candidates_that_the_predictor_learned_from_are_left_out(trained: Regressor) -> None:
    sources = [Built(graph) for graph in (*GRAPHS[:20], *NEW, *NEW)]
    for strategy in ("informative", "spread", "random"):
        chosen = choose_sources(trained, sources, 12, "cpu-b", strategy, seed=2)
        keys = {source.key for source in chosen}
        assert len(keys) == 12 and keys <= {graph.hash for graph in NEW}
    with pytest.raises(ConfigError, match=r"30 of 80 candidates are distinct .* 40 shall be"):
        choose_sources(trained, sources, 40, "cpu-b")
    with pytest.raises(ConfigError, match="was trained for cpu-a"):
        choose_sources(trained, sources, 12, "cpu-a")


def test_the_shipped_checkpoints_know_their_networks() -> None:
    """By the labels that ship, as long as their cards do not list them."""
    cards = {entry.predictor: entry.card for entry in zoo()}
    card = cards["roofline_former"]
    learned = learned_networks(card)
    assert learned is not None
    assert len(learned) == card["trained_on"] + card["validation"]["n"] == 1510
    other = {"device": "rpi4", "calibrated_from": card["device"], "training_set": "another"}
    assert learned_networks(other) is None
    assert learned_networks({"device": "cpu-nowhere"}) is None
    assert learned_networks({"learned": ["a", "b"]}) == {"a", "b"}
