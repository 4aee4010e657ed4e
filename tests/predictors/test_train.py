from __future__ import annotations

from pathlib import Path

import pytest

from tests.predictors.test_compare import labels
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.roofline_former import RooflineFormerConfig
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.predictors.roofline_former import RooflineFormerRegressor
from tvm_costmodel.predictors.train import train
from tvm_costmodel.training.ensemble_trainer import EnsembleConfig


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


def test_settings_of_the_roofline_former_reach_recipe_shape_and_members() -> None:
    settings = {"epochs": 3, "channels": 32, "roofline": False, "context": "none", "members": 2}
    built = build_regressor("roofline_former", 7, settings)
    assert isinstance(built, RooflineFormerRegressor)
    assert (built.training.epochs, built.training.seed, built.members) == (3, 7, 2)
    assert (built.model.channels, built.model.roofline, built.model.context) == (32, False, "none")
    plain = build_regressor("roofline_former")
    assert isinstance(plain, RooflineFormerRegressor) and plain.members == 3
    assert plain.model == RooflineFormerConfig() and plain.training == EnsembleConfig()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "roofline_former does not take these settings: .*'epoch'.*'epochs'"),
        ({"member": 3}, "did you mean 'members'"),
        ({"devices": 2}, "unknown key 'devices'"),
        ({"slots": 2}, "unknown key 'slots'"),
        ({"members": 0}, "members 0 must be at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5: give one of type int"),
        ({"ranking": "high"}, "ranking is 'high': give one of type float"),
        ({"roofline": 1}, "roofline is 1: give one of type bool"),
        ({"channels": 0}, "must be at least 1"),
        ({"context": "sizes"}, "unknown context 'sizes'"),
    ],
)
def test_wrong_settings_of_the_roofline_former_are_refused(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_regressor("roofline_former", settings=settings)
