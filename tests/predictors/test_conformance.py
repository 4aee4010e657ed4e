"""What every predictor of the registry must do, whatever it is inside."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.graphs import labelled_graphs, unknown_graph
from tvm_costmodel.errors import CheckpointError, ConfigError, UnsupportedOperatorError
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.checkpoint import CARD
from tvm_costmodel.predictors.loading import Predictor, load_predictor
from tvm_costmodel.predictors.registry import NETWORKS, REGISTRY
from tvm_costmodel.transfer.calibration import calibrate

GRAPHS, LATENCY = labelled_graphs(48)
NAMES = tuple(REGISTRY)
_NARROW = {"channels": 32, "context_channels": 8}
SIZES = {
    "nnlp": {"channels": 32},
    "nn_former": {"channels": 32},
    "nar_former": {"frequencies": 4, "hidden": 64, "blocks": 1},
    "roofline_former": _NARROW,
    "kernel_former": _NARROW,
    "relay_kernel_former": _NARROW,
}
WITH_SHARES = ("roofline_former", "roofline_gp", "kernel_former", "relay_kernel_former")
"""Predictors that give each operator's share of the latency."""


def build(name: str) -> Regressor:
    if name not in NETWORKS:
        return REGISTRY[name]()
    regressor_type: Any = REGISTRY[name]
    sizes = SIZES.get(name, {"channels": 32, "groups": 4})
    return regressor_type(
        replace(regressor_type.recipe, epochs=2), regressor_type.config_class(**sizes)
    )


@pytest.fixture(scope="module", params=NAMES)
def fitted(request: pytest.FixtureRequest) -> Regressor:
    return build(request.param).fit(GRAPHS, LATENCY)


def test_fit_returns_the_regressor(fitted: Regressor) -> None:
    regressor = build(fitted.name)
    assert regressor.fit(GRAPHS[:25], LATENCY[:25], (GRAPHS[25:], LATENCY[25:])) is regressor
    assert regressor.card["trained_on"] == 25 and regressor.card["validation"]["n"] == 23


def test_predict_gives_one_positive_float64_per_graph_in_any_order(fitted: Regressor) -> None:
    seconds = fitted.predict(GRAPHS)
    assert seconds.shape == (48,) and seconds.dtype == np.float64
    assert np.all(np.isfinite(seconds)) and np.all(seconds > 0)
    np.testing.assert_allclose(fitted.predict(GRAPHS[::-1])[::-1], seconds, rtol=1e-4)
    np.testing.assert_allclose(fitted.predict(GRAPHS[:1]), seconds[:1], rtol=1e-4)
    assert fitted.predict([]).shape == (0,)


def test_interval_surrounds_the_prediction(fitted: Regressor) -> None:
    seconds = fitted.predict(GRAPHS)
    low, high = fitted.bounds(seconds)
    assert np.all(low <= seconds) and np.all(seconds <= high) and np.all(low > 0)


def test_operators_share_the_prediction_where_the_predictor_has_shares(fitted: Regressor) -> None:
    graph = GRAPHS[5]
    shares = fitted.per_operator(graph)
    estimate = Predictor(fitted, "cpu-test").predict(graph)
    assert (shares is not None) == (estimate.per_op is not None) == (fitted.name in WITH_SHARES)
    if shares is None or estimate.per_op is None:
        return
    assert shares.shape == (len(graph),) and shares.dtype == np.float64 and shares.min() >= 0
    assert shares[0] == 0 and graph.operators[0].op == "input"
    assert shares.sum() == pytest.approx(fitted.predict([graph])[0], rel=1e-9)
    assert sum(share.latency_s for share in estimate.per_op) == pytest.approx(estimate.latency_s)
    seconds = [share.latency_s for share in estimate.per_op]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] > 0
    for operator, op, latency_s in estimate.per_op:
        assert graph.operators[operator].op == op and shares[operator] == latency_s


def test_operators_share_a_calibrated_prediction(fitted: Regressor) -> None:
    calibrated = calibrate(fitted, GRAPHS[:6], 3 * LATENCY[:6], "cpu-new")
    estimate = Predictor(calibrated, "cpu-new").predict(GRAPHS[7])
    assert estimate.latency_s != pytest.approx(fitted.predict(GRAPHS[7:8])[0], rel=0.1)
    if estimate.per_op is not None:
        total = sum(share.latency_s for share in estimate.per_op)
        assert total == pytest.approx(estimate.latency_s)
    assert (estimate.per_op is not None) == (fitted.name in WITH_SHARES)


def test_save_and_load_are_equal(fitted: Regressor, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "checkpoint")
    loaded = type(fitted).load(folder)
    np.testing.assert_array_equal(loaded.predict(GRAPHS), fitted.predict(GRAPHS))
    assert loaded.interval == fitted.interval
    assert loaded.card == fitted.card
    assert load_predictor(folder).name == fitted.name
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2 and CARD in names and not names[-1].endswith((".pkl", ".pt"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert {path.stat().st_mode & 0o044 for path in folder.iterdir()} == {0o044 & ~umask()}


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_saving_replaces_an_older_checkpoint_but_nothing_else(
    fitted: Regressor, tmp_path: Path
) -> None:
    folder = fitted.save(fitted.save(tmp_path / "checkpoint"))
    assert load_predictor(folder).name == fitted.name
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter1.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        fitted.save(other)
    assert (other / "chapter1.tex").read_text() == "years of work"


def test_a_failed_save_leaves_the_old_checkpoint(
    fitted: Regressor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fitted.save(tmp_path / "checkpoint")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(target: Path) -> None:
        (target / "model").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fitted, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        fitted.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("label", [math.nan, math.inf, 0.0, -1e-3])
@pytest.mark.parametrize("name", NAMES)
def test_bad_labels_are_refused(name: str, label: float) -> None:
    latency = LATENCY.copy()
    latency[3] = label
    with pytest.raises(ConfigError, match="label 3 is"):
        build(name).fit(GRAPHS, latency)
    with pytest.raises(ConfigError, match="one latency"):
        build(name).fit(GRAPHS, LATENCY[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_an_untrained_predictor_says_so(name: str, tmp_path: Path) -> None:
    calls = [lambda: build(name).predict(GRAPHS), lambda: build(name).save(tmp_path / "c")]
    if name in WITH_SHARES:
        calls.append(lambda: build(name).per_operator(GRAPHS[0]))
    for call in calls:
        with pytest.raises(CheckpointError, match="not trained"):
            call()


def test_unknown_operators_are_listed_and_strict_refuses(fitted: Regressor) -> None:
    predictor = Predictor(fitted, "cpu-test")
    estimate = predictor.predict(unknown_graph())
    assert estimate.unknown_ops == ("com.acme.magic",) and estimate.latency_s > 0
    with pytest.raises(UnsupportedOperatorError, match=r"com.acme.magic"):
        predictor.predict(unknown_graph(), strict=True)
    assert predictor.predict(GRAPHS[0], strict=True).unknown_ops == ()


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "someone-elses"}, "not a checkpoint of this package"),
        ({"format_version": 99}, "checkpoint format 99"),
        ({"predictor": "nn_meter"}, "'nn_meter' predictor"),
        ({"model": {}}, "train it again"),
        ({"interval": {"low": 1}}, "train it again"),
    ],
)
def test_foreign_cards_are_refused(
    fitted: Regressor, tmp_path: Path, changes: dict, message: str
) -> None:
    folder = fitted.save(tmp_path / "checkpoint")
    edit_card(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        type(fitted).load(folder)


def test_damaged_and_missing_files_are_refused(fitted: Regressor, tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "checkpoint")
    (weights,) = [path for path in folder.iterdir() if path.name != CARD]
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="damaged"):
        type(fitted).load(folder)
    (folder / CARD).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        type(fitted).load(folder)
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        type(fitted).load(tmp_path / "nowhere")
