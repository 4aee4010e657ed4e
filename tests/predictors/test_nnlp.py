from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from tests.graphs import labelled_graphs
from tvm_costmodel.models.nnlp import NnlpConfig
from tvm_costmodel.predictors.compare import default_build
from tvm_costmodel.predictors.token_networks import NnlpRegressor
from tvm_costmodel.predictors.train import train
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.training.trainer import TrainingConfig

GRAPHS, LATENCY = labelled_graphs(8)
SMALL = NnlpConfig(channels=64, dropout=0.0)


def fit(**settings: object) -> NnlpRegressor:
    places = {key: settings.pop(key) for key in ("state_dir", "resume") if key in settings}
    config = TrainingConfig(**{"batch_size": 8, **settings})
    return NnlpRegressor(config, SMALL, **places).fit(GRAPHS, LATENCY, (GRAPHS, LATENCY))


def test_eight_networks_are_learned_by_heart() -> None:
    regressor = fit(epochs=200, learning_rate=3e-3)
    assert mape(regressor.predict(GRAPHS), LATENCY) < 3.0


def test_stopped_and_resumed_equals_straight_through(tmp_path: Path, monkeypatch) -> None:
    from tvm_costmodel.training.trainer import Trainer

    straight = fit(epochs=6)
    run_epoch = Trainer._run_epoch

    def stop_after_three(trainer: Trainer, epoch: int, bar: object) -> float:
        if epoch == 3:
            raise KeyboardInterrupt
        return run_epoch(trainer, epoch, bar)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_run_epoch", stop_after_three)
        with contextlib.suppress(KeyboardInterrupt):
            fit(epochs=6, state_dir=tmp_path)
    resumed = fit(epochs=6, state_dir=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.predict(GRAPHS), straight.predict(GRAPHS))


def test_a_checkpoint_holds_its_tokenizer(tmp_path: Path) -> None:
    loaded = NnlpRegressor.load(fit(epochs=1).save(tmp_path / "nnlp"))
    assert loaded.tokenizer.encode(GRAPHS[0]).features.shape[1] == 44
    assert loaded.model == SMALL


def test_seed_and_settings_reach_the_training(tmp_path: Path) -> None:
    graphs, latency = labelled_graphs(30)
    hashes = tuple(graph.hash for graph in graphs)
    labels = LabelledGraphs(tuple(graphs), latency, ("plain",) * 30, hashes, "cpu")
    train(labels, "nnlp", tmp_path / "nnlp", seed=3, settings={"epochs": 1})
    card = NnlpRegressor.load(tmp_path / "nnlp").card
    assert card["training"]["seed"] == 3 and card["training"]["epochs_run"] == 1
    assert isinstance(default_build("nnlp", 2), NnlpRegressor)
    assert default_build("nnlp", 2).seed == 2
