from __future__ import annotations

import numpy as np

from tests.graphs import labelled_graphs
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.predictors.xgboost import XGBoostRegressor
from tvm_costmodel.training.metrics import mape


def test_flops_finds_a_power_law() -> None:
    graphs, _ = labelled_graphs(30)
    flops = np.array([graph.flops for graph in graphs])
    moved = np.array([graph.bytes for graph in graphs])
    latency = 3e-3 * (1e-6 + flops / 1e9) ** 0.7 * (1e-6 + moved / 1e9) ** 0.2
    regressor = FlopsRegressor().fit(graphs, latency)
    np.testing.assert_allclose(regressor.coefficients, [np.log(3e-3), 0.7, 0.2], rtol=1e-6)
    np.testing.assert_allclose(regressor.predict(graphs), latency, rtol=1e-6)


def test_xgboost_beats_flops_on_a_roofline_machine() -> None:
    graphs, latency = labelled_graphs(300)
    test_graphs, test_latency = labelled_graphs(50, seed=9)
    errors = {}
    for regressor in (FlopsRegressor(), XGBoostRegressor()):
        predicted = regressor.fit(graphs, latency).predict(test_graphs)
        errors[regressor.name] = mape(predicted, test_latency)
    assert errors["xgboost"] < min(12.0, 0.6 * errors["flops"])


def test_xgboost_stops_early_and_repeats_with_its_seed() -> None:
    graphs, latency = labelled_graphs(60)
    one, same = (XGBoostRegressor(rounds=500, patience=20).fit(graphs, latency) for _ in range(2))
    assert one.card["training"]["rounds_run"] == one.booster.num_boosted_rounds() + 20 < 500
    np.testing.assert_array_equal(one.predict(graphs), same.predict(graphs))
