from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.compare import Run, compare, summarise
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import evaluate


def labels(count: int = 60) -> LabelledGraphs:
    graphs, latency = labelled_graphs(count)
    families = tuple(("plain", "odd", "rare")[i % 3] for i in range(count))
    return LabelledGraphs(
        tuple(graphs), latency, families, tuple(g.hash for g in graphs), "cpu-test", "p1"
    )


def test_xgboost_and_flops_are_always_in_the_table() -> None:
    rows = compare(labels(), ["flops"], seeds=(0, 1))
    assert [row.predictor for row in rows] == ["flops", "xgboost"]
    for row in rows:
        values = row.to_dict()
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert values["split"] == "random" and values["n"] == pytest.approx(6, abs=1)
        assert values["mape"] > 0 and values["mape_spread"] >= 0 and values["predict_ms"] > 0
        assert -1 <= values["kendall_tau"] <= 1


def test_a_single_seed_has_no_spread() -> None:
    row = compare(labels(), ["flops"], seeds=(0,))[0]
    assert math.isnan(row.spread["mape"]) and row.to_dict()["mape_spread"] is None


def test_mean_and_spread_are_over_seeds() -> None:
    measured = np.ones(10)
    runs = [
        Run("p", "random", seed, evaluate(measured * factor, measured), 1.0, 2.0)
        for seed, factor in enumerate((1.09, 1.2, 1.31))
    ]
    row = summarise(runs)
    assert row.mean["mape"] == pytest.approx(20.0) and row.spread["mape"] == pytest.approx(11.0)
    assert row.mean["within_10"] == pytest.approx(100 / 3, abs=0.1)


def test_leave_one_family_out_has_a_row_per_family_and_their_mean() -> None:
    rows = compare(labels(), ["flops"], "leave-one-family-out", seeds=(0,))
    flops = [row for row in rows if row.predictor == "flops"]
    assert [row.split for row in flops] == ["odd", "plain", "rare", "leave-one-family-out"]
    mean = np.mean([row.mean["mape"] for row in flops[:3]])
    assert flops[-1].mean["mape"] == pytest.approx(mean) and flops[-1].n == 60


def test_every_predictor_sees_the_same_test_networks() -> None:
    test_sides: list[tuple[str, ...]] = []

    class Spy(FlopsRegressor):
        def _predict(self, graphs):
            test_sides.append(tuple(graph.hash for graph in graphs))
            return super()._predict(graphs)

    compare(labels(), ["flops"], seeds=(0,), build=lambda name, seed: Spy())
    assert test_sides[1] == test_sides[3] and not set(test_sides[0]) & set(
        test_sides[1]
    )  # validation, then test


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"predictors": ["oracle"]}, "unknown predictor 'oracle'"),
        ({"predictors": [], "split": "luck"}, "unknown split 'luck'"),
        ({"predictors": [], "seeds": ()}, "no seeds"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compare(labels(), **arguments)
