"""What every accuracy predictor must do, whatever it is inside."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cells import random_cells
from tvm_costmodel.errors import CheckpointError, ConfigError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.cell_gp import CellGPConfig
from tvm_costmodel.nas.accuracy import (
    ACCURACY_REGRESSORS,
    AccuracyRegressor,
    RankScale,
    accuracy_regressor_class,
)
from tvm_costmodel.nas.accuracy_networks import NETWORKS
from tvm_costmodel.nas.cell_tokens import NASBENCH101, NASBENCH201
from tvm_costmodel.nas.cells import live_nodes, nasbench201_cell
from tvm_costmodel.predictors.checkpoint import CARD
from tvm_costmodel.training.metrics import kendall_tau

WORTH = {"conv3x3-bn-relu": 2.0, "conv1x1-bn-relu": 0.7, "maxpool3x3": -0.5}


def distinct_cells(count: int, seed: int) -> list[OpGraph]:
    cells = {cell.hash: cell for cell in random_cells(3 * count, seed)}
    return list(cells.values())[:count]


def accuracies(cells: list[OpGraph]) -> np.ndarray:
    """By the operators that lead to the output."""
    return np.array(
        [
            80.0
            + sum(
                WORTH.get(n.op, 0.0)
                for n, live in zip(c.operators, live_nodes(c), strict=True)
                if live
            )
            for c in cells
        ]
    )


CELLS = distinct_cells(64, seed=2)
LABELS = accuracies(CELLS)
SETTINGS: dict[str, dict[str, Any]] = {
    "cell_gp": {"config": CellGPConfig(steps=8)},
    "xgboost_paths": {"rounds": 60},
    **{n: {"recipe": replace(NETWORKS[n].recipe, steps=2, batch_size=4)} for n in NETWORKS},
}


def build(name: str) -> AccuracyRegressor:
    return accuracy_regressor_class(name)(NASBENCH101, **SETTINGS[name])


@pytest.fixture(scope="module", params=ACCURACY_REGRESSORS)
def fitted(request: pytest.FixtureRequest) -> AccuracyRegressor:
    regressor = build(request.param)
    assert regressor.fit(CELLS[:40], LABELS[:40], (CELLS[40:], LABELS[40:])) is regressor
    return regressor


def test_predict_gives_one_percent_per_cell_in_any_order(fitted: AccuracyRegressor) -> None:
    percent = fitted.predict(CELLS)
    assert percent.shape == (64,) and percent.dtype == np.float64
    assert np.all((percent > 0) & (percent < 101)) and np.ptp(percent) > 0
    np.testing.assert_allclose(fitted.predict(CELLS[::-1])[::-1], percent, rtol=1e-5)
    np.testing.assert_allclose(fitted.predict(CELLS[:1]), percent[:1], rtol=1e-5)
    assert fitted.predict([]).shape == (0,)


def test_the_card_describes_the_training(fitted: AccuracyRegressor) -> None:
    assert fitted.card["trained_on"] == 40
    tau = kendall_tau(fitted.predict(CELLS[40:]), LABELS[40:])
    assert fitted.card["validation_kendall_tau"] == pytest.approx(tau)


@pytest.mark.parametrize("name", ["cell_gp", "xgboost_paths"])
def test_models_of_structure_order_unseen_cells(name: str) -> None:
    regressor = build(name).fit(CELLS[:40], LABELS[:40])
    assert kendall_tau(regressor.predict(CELLS[40:]), LABELS[40:]) > 0.6


@pytest.mark.parametrize("name", ACCURACY_REGRESSORS)
def test_a_second_training_gives_the_same(name: str) -> None:
    first = build(name).fit(CELLS[:20], LABELS[:20]).predict(CELLS)
    second = build(name).fit(CELLS[:20], LABELS[:20]).predict(CELLS)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["cell_gp", "xgboost_paths"])
def test_equal_networks_get_equal_answers(name: str) -> None:
    """A skip before or behind a convolution, and a branch that leads nowhere."""
    rng = np.random.default_rng(0)
    cells = [random_201(rng) for _ in range(30)]
    labels = np.array([70.0 + 3 * sum("conv" in n.op for n in c.operators) for c in cells])
    regressor = accuracy_regressor_class(name)(NASBENCH201, **SETTINGS[name]).fit(cells, labels)
    same = [
        "|nor_conv_3x3~0|+|none~0|none~1|+|none~0|skip_connect~1|none~2|",
        "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|",
        "|none~0|+|avg_pool_3x3~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
    ]
    answers = regressor.predict([nasbench201_cell(text) for text in same])
    np.testing.assert_allclose(answers, answers[0], rtol=1e-9)


def random_201(rng: np.random.Generator) -> OpGraph:
    a, b, c, d, e, f = rng.choice(NASBENCH201[1:-1], 6)
    return nasbench201_cell(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")


def test_save_and_load_are_equal(fitted: AccuracyRegressor, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "checkpoint")
    loaded = type(fitted).load(folder)
    np.testing.assert_array_equal(loaded.predict(CELLS), fitted.predict(CELLS))
    assert loaded.card == fitted.card and loaded.operations == NASBENCH101
    names = [path.name for path in folder.iterdir()]
    assert len(names) == 2 and CARD in names
    again = loaded.save(tmp_path / "again")
    assert json.loads((again / CARD).read_text()) == json.loads((folder / CARD).read_text())


@pytest.mark.parametrize("label", [math.nan, math.inf, 0.0, -3.0, 100.5])
@pytest.mark.parametrize("name", ACCURACY_REGRESSORS)
def test_bad_labels_are_refused(name: str, label: float) -> None:
    labels = LABELS.copy()
    labels[3] = label
    with pytest.raises(ConfigError, match=r"of cell 3 is not in \(0, 100\] percent"):
        build(name).fit(CELLS, labels)
    with pytest.raises(ConfigError, match="64 cells need as many accuracies, got"):
        build(name).fit(CELLS, LABELS[:-1])


@pytest.mark.parametrize("name", ACCURACY_REGRESSORS)
def test_bad_cells_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="9 cells are too few"):
        build(name).fit(CELLS[:9], LABELS[:9])
    with pytest.raises(ConfigError, match="1 cells are in training and validation"):
        build(name).fit(CELLS[:40], LABELS[:40], (CELLS[39:], LABELS[39:]))


@pytest.mark.parametrize("name", NETWORKS)
def test_foreign_operations_are_refused(name: str) -> None:
    regressor = accuracy_regressor_class(name)(NASBENCH201, **SETTINGS[name])
    with pytest.raises(GraphError, match="is none of input, nor_conv_1x1"):
        regressor.fit(CELLS[:20], LABELS[:20])


@pytest.mark.parametrize("name", ACCURACY_REGRESSORS)
def test_an_untrained_predictor_says_so(name: str, tmp_path: Path) -> None:
    for call in (lambda: build(name).predict(CELLS), lambda: build(name).save(tmp_path / "c")):
        with pytest.raises(CheckpointError, match="not trained"):
            call()
    assert not any(tmp_path.iterdir())


def test_damaged_and_foreign_checkpoints_are_refused(
    fitted: AccuracyRegressor, tmp_path: Path
) -> None:
    folder = fitted.save(tmp_path / "checkpoint")
    others = [name for name in ACCURACY_REGRESSORS if name != fitted.name]
    with pytest.raises(CheckpointError, match=f"holds a 'accuracy/{fitted.name}' predictor"):
        accuracy_regressor_class(others[0]).load(folder)
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, "model": {}}))
    with pytest.raises(CheckpointError, match="train it again"):
        type(fitted).load(folder)
    (weights,) = [path for path in folder.iterdir() if path.name != CARD]
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="damaged"):
        type(fitted).load(folder)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        type(fitted).load(tmp_path / "nowhere")


def test_a_network_that_answers_the_same_for_all_is_refused() -> None:
    regressor = accuracy_regressor_class("nn_former")(
        NASBENCH101, recipe=replace(NETWORKS["nn_former"].recipe, steps=30, learning_rate=50.0)
    )
    with pytest.raises(ConfigError, match="lower learning_rate"):
        regressor.fit(CELLS[:12], LABELS[:12])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown accuracy predictor 'mlp'; known: cell_gp"):
        accuracy_regressor_class("mlp")


def test_checkpoints_of_the_gp_under_its_older_name_are_read(tmp_path: Path) -> None:
    fitted = build("cell_gp").fit(CELLS[:20], LABELS[:20])
    folder = fitted.save(tmp_path / "checkpoint")
    card = json.loads((folder / CARD).read_text())
    assert card["predictor"] == "accuracy/cell_gp"
    (folder / CARD).write_text(json.dumps({**card, "predictor": "accuracy/cell_process"}))
    loaded = accuracy_regressor_class("cell_gp").load(folder)
    np.testing.assert_array_equal(loaded.predict(CELLS), fitted.predict(CELLS))
    with pytest.raises(ConfigError, match=r"'cell_process' .* 'cell_gp'"):
        accuracy_regressor_class("cell_process")


def test_rank_scale_is_standard_and_keeps_order() -> None:
    accuracy = np.array([91.0, 10.0, 90.0, 91.0, 93.0])
    scale = RankScale(accuracy)
    target = scale.target(accuracy)
    assert target.mean() == pytest.approx(0.0) and target[0] == target[3]
    assert list(np.argsort(target)) == [1, 2, 0, 3, 4]
    percent = scale.percent(np.linspace(-3.0, 3.0, 50))
    assert np.all(np.diff(percent) > 0)
    assert percent[0] == pytest.approx(10.0, abs=0.01)
    assert percent[-1] == pytest.approx(93.0, abs=0.01)
