from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.predictors.latency_correction import work_profile
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.xgboost import XGBoostRegressor
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.transfer.calibration import calibrate, choose_networks

GRAPHS, LATENCY = labelled_graphs(200)
TEST, _ = labelled_graphs(80, seed=5)
POOL, _ = labelled_graphs(150, seed=7)  # what the second machine may measure


def slower(graph: OpGraph, bandwidth: float = 3e9) -> float:
    """A second imaginary machine: 20 GFLOP/s, 3 GB/s, 5 us an operator."""
    return sum(5e-6 + max(cost.flops / 20e9, cost.bytes / bandwidth) for cost in graph.costs)


OTHER = np.array([slower(graph) for graph in TEST])


@pytest.fixture(scope="module")
def trained() -> Regressor:
    regressor = XGBoostRegressor(rounds=400).fit(GRAPHS, LATENCY)
    regressor.card["device"] = "cpu-a"
    return regressor


def test_a_constant_factor_is_found_from_one_measurement(trained: Regressor) -> None:
    moved = calibrate(trained, TEST[:1], 7.0 * trained.predict(TEST[:1]), "cpu-b")
    np.testing.assert_allclose(moved.predict(TEST), 7.0 * trained.predict(TEST), rtol=1e-2)
    assert moved.interval is None and trained.calibration is None


@pytest.mark.parametrize("count", [5, 10, 20, 50])
def test_few_measurements_move_a_predictor_to_another_machine(
    trained: Regressor, count: int
) -> None:
    chosen = [POOL[i] for i in choose_networks(trained, POOL, count)]
    measured = np.array([slower(graph) for graph in chosen])
    moved = calibrate(trained, chosen, measured, "cpu-b")
    before, after = (mape(r.predict(TEST), OTHER) for r in (trained, moved))
    assert before > 50.0 and after < 16.0
    alone = FlopsRegressor().fit(chosen, measured)
    assert after < mape(alone.predict(TEST), OTHER) + 1.0


def test_more_measurements_help(trained: Regressor) -> None:
    errors = []
    for count in (2, 10, 50):
        chosen = [POOL[i] for i in choose_networks(trained, POOL, count)]
        moved = calibrate(trained, chosen, np.array([slower(g) for g in chosen]), "cpu-b")
        errors.append(mape(moved.predict(TEST), OTHER))
    assert errors[2] < errors[0] and errors[2] < 10.0


def test_the_interval_holds_on_the_new_machine(trained: Regressor) -> None:
    chosen = [POOL[i] for i in choose_networks(trained, POOL, 50, "random")]
    moved = calibrate(trained, chosen, np.array([slower(g) for g in chosen]), "cpu-b")
    low, high = moved.bounds(moved.predict(TEST))
    assert ((low <= OTHER) & (high >= OTHER)).mean() > 0.75


def test_a_calibrated_checkpoint_comes_back_equal(trained: Regressor, tmp_path: Path) -> None:
    moved = calibrate(trained, TEST[:10], OTHER[:10], "cpu-b")
    reloaded = XGBoostRegressor.load(moved.save(tmp_path / "moved"))
    np.testing.assert_array_equal(reloaded.predict(TEST), moved.predict(TEST))
    assert reloaded.calibration == moved.calibration and reloaded.interval == moved.interval
    assert reloaded.card["device"] == "cpu-b" and reloaded.card["calibrated_from"] == "cpu-a"
    assert "validation" not in reloaded.card and trained.card["device"] == "cpu-a"
    third = calibrate(reloaded, TEST[:10], LATENCY[:10], "cpu-c")
    assert third.calibration is not None and third.calibration.source == "cpu-a"


def test_a_checkpoint_of_another_device_is_refused(trained: Regressor, tmp_path: Path) -> None:
    path = trained.save(tmp_path / "trained")
    assert load_predictor(path, device="cpu-a").device == "cpu-a"
    with pytest.raises(CheckpointError, match=r"trained for cpu-a, and cpu-b .* calibrate"):
        load_predictor(path, device="cpu-b")
    moved = calibrate(trained, TEST[:5], OTHER[:5], "cpu-b").save(tmp_path / "moved")
    assert load_predictor(moved, device="cpu-b").device == "cpu-b"
    with pytest.raises(CheckpointError, match="trained for cpu-b, and cpu-a"):
        load_predictor(moved, device="cpu-a")


def test_choices_are_distinct_and_repeat_with_their_seed(trained: Regressor) -> None:
    for strategy in ("random", "spread", "informative"):
        at = choose_networks(trained, POOL, 12, strategy, seed=1)
        assert len(set(at.tolist())) == 12
        assert at.tolist() == choose_networks(trained, POOL, 12, strategy, seed=1).tolist()
    with pytest.raises(ConfigError, match="strategy 'best'"):
        choose_networks(trained, GRAPHS, 3, "best")
    with pytest.raises(ConfigError, match="choose 0 of"):
        choose_networks(trained, GRAPHS, 0)


def test_work_profiles_hold_size_and_work() -> None:
    rows = work_profile(GRAPHS[:20], LATENCY[:20])
    np.testing.assert_allclose(rows[:, 4:].sum(axis=1), 1.0)
    assert (rows[:, 4:] >= 0).all()
    np.testing.assert_allclose(np.exp(rows[:, 0]), LATENCY[:20])
    np.testing.assert_allclose(np.exp(rows[:, 3]), [len(graph) for graph in GRAPHS[:20]])


def test_bad_measurements_are_refused(trained: Regressor) -> None:
    with pytest.raises(ConfigError, match=r"label 1 is 0.0"):
        calibrate(trained, TEST[:2], np.array([1.0, 0.0]), "cpu-b")
    with pytest.raises(ConfigError, match="one latency in seconds per graph"):
        calibrate(trained, TEST[:2], OTHER[:3], "cpu-b")
    with pytest.raises(ConfigError, match="was trained for cpu-a"):
        calibrate(trained, TEST[:2], OTHER[:2], "cpu-a")
    with pytest.raises(CheckpointError, match="not trained"):
        calibrate(FlopsRegressor(), TEST[:2], OTHER[:2], "cpu-b")
