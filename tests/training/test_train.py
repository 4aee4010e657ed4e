from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.test_comparison import labels
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictor import load_predictor
from tvm_costmodel.training.train import train


def test_a_training_leaves_a_checkpoint_that_knows_where_it_comes_from(tmp_path: Path) -> None:
    data = labels()
    summary = train(data, "flops", tmp_path / "flops")
    assert summary.to_dict()["checkpoint"] == str(tmp_path / "flops")
    predictor = load_predictor(tmp_path / "flops")
    card = predictor.regressor.card
    assert predictor.device == card["device"] == "cpu-test"
    assert card["training_set"] == data.hash and card["pipeline_key"] == "p1"
    assert card["test"]["mape"] == pytest.approx(summary.metrics.mape)
    assert card["trained_on"] + card["validation"]["n"] + card["test"]["n"] == 60


def test_network_settings_reach_the_recipe_and_the_state_is_cleared(tmp_path: Path) -> None:
    train(labels(), "nar_former_v2", tmp_path / "v2", settings={"epochs": 1}, seed=3)
    card = load_predictor(tmp_path / "v2").regressor.card
    assert card["training"]["epochs_run"] == 1 and card["training"]["seed"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["v2"]


def test_settings_that_a_predictor_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flops does not take"):
        train(labels(), "flops", tmp_path / "flops", settings={"epochs": 3})
    assert not list(tmp_path.iterdir())


def test_the_hash_of_a_training_set_ignores_order() -> None:
    data = labels()
    assert data.subset(range(60)[::-1]).hash == data.hash != data.subset(range(59)).hash
