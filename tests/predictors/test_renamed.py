"""Names that only older cards hold: cards are read, people get the name in use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_commands import refused
from tests.graphs import labelled_graphs
from tests.predictors.test_compare import labels
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.checkpoint import CARD, read_card
from tvm_costmodel.predictors.compare import Row, compare
from tvm_costmodel.predictors.flops import FlopsRegressor, KernelFlopsRegressor
from tvm_costmodel.predictors.loading import load_predictor, zoo
from tvm_costmodel.predictors.registry import (
    DECISION_AWARE,
    NETWORKS,
    REGISTRY,
    RENAMED,
    build_regressor,
    regressor_class,
)
from tvm_costmodel.predictors.roofline_gp import RooflineGPRegressor

GRAPHS, LATENCY = labelled_graphs(24)
OLD_NAMES = {
    "roofline_process": "roofline_gp",
    "nar_former_v2_decided": "nar_former_v2_kernel",
    "xgboost_decided": "xgboost_kernel",
    "flops_decided": "flops_kernel",
}


def with_old_name(folder: Path, name: str) -> None:
    """Edits a checkpoint's card to the name that an older version wrote."""
    card = json.loads((folder / CARD).read_text())
    assert card["predictor"] == OLD_NAMES[name]
    (folder / CARD).write_text(json.dumps({**card, "predictor": name}))


def test_every_old_name_has_a_registered_one_in_use() -> None:
    assert RENAMED == OLD_NAMES
    assert set(RENAMED.values()) <= set(REGISTRY) and not set(RENAMED) & set(REGISTRY)
    assert {"nar_former_v2_kernel", "xgboost_kernel", "flops_kernel"} <= set(DECISION_AWARE)
    assert "nar_former_v2_kernel" in NETWORKS
    assert all(REGISTRY[name].name == name for name in REGISTRY)


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_an_old_name_is_answered_with_the_one_in_use(old: str, new: str) -> None:
    message = f"^predictor {old!r} is now called {new!r}$"
    for call in (
        lambda: regressor_class(old),
        lambda: build_regressor(old),
        lambda: compare(labels(), ["flops", old]),
        lambda: load_predictor(old),
        lambda: load_predictor(f"cpu-amd-zen5/{old}"),
        lambda: load_predictor("cpu-amd-zen5", old),
    ):
        with pytest.raises(ConfigError, match=message):
            call()


@pytest.mark.parametrize(
    "argv",
    [
        ("train", "--store", "labels.db", "-o", "out", "--predictor", "xgboost_decided"),
        ("train", "--variants", "labels.db", "-o", "out", "--predictor", "xgboost_decided"),
        ("compare", "--store", "labels.db", "--predictors", "flops,xgboost_decided"),
    ],
)
def test_an_old_name_on_the_command_line_exits_with_2(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    line = refused(capsys, *argv)
    assert line == "error: predictor 'xgboost_decided' is now called 'xgboost_kernel'"


@pytest.mark.parametrize(
    ("regressor", "old"),
    [
        (RooflineGPRegressor(members=1, features=8), "roofline_process"),
        (KernelFlopsRegressor(), "flops_decided"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_an_older_card_loads_and_predicts_the_same(
    regressor: Regressor, old: str, tmp_path: Path
) -> None:
    folder = regressor.fit(GRAPHS, LATENCY).save(tmp_path / "device" / old)
    with_old_name(folder, old)
    expected = regressor.predict(GRAPHS)
    assert read_card(folder)["predictor"] == read_card(folder, OLD_NAMES[old])["predictor"]
    for loaded in (
        type(regressor).load(folder),
        load_predictor(folder).regressor,
        load_predictor(f"device/{OLD_NAMES[old]}", zoo_folder=tmp_path).regressor,
    ):
        assert loaded.name == OLD_NAMES[old]
        np.testing.assert_array_equal(loaded.predict(GRAPHS), expected)
    assert [entry.card["predictor"] for entry in zoo(tmp_path)] == [OLD_NAMES[old]]
    written = json.loads((load_predictor(folder).regressor.save(folder) / CARD).read_text())
    assert written["predictor"] == OLD_NAMES[old]


def test_an_older_card_of_another_predictor_is_refused(tmp_path: Path) -> None:
    folder = KernelFlopsRegressor().fit(GRAPHS, LATENCY).save(tmp_path / "checkpoint")
    with_old_name(folder, "flops_decided")
    with pytest.raises(CheckpointError, match="holds a 'flops_kernel' predictor, not 'flops'"):
        FlopsRegressor.load(folder)


def test_rows_of_older_comparisons_get_the_name_in_use() -> None:
    row = compare(labels(), ["flops"], seeds=(0,))[0].to_dict()
    older = Row.from_dict({**row, "predictor": "roofline_process"})
    assert older.predictor == "roofline_gp" and older.to_dict()["mape"] == row["mape"]
