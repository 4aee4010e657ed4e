from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.models.nar_former_v2 import NarFormerV2Config
from tvm_costmodel.predictors.token_networks import NarFormerV2Regressor, best_constant
from tvm_costmodel.training import trainer
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.training.resume import STATE_FILE
from tvm_costmodel.training.trainer import Trainer, TrainingConfig

SMALL = NarFormerV2Config(channels=32, groups=4)
GRAPHS, LATENCY = labelled_graphs(40)
HELD, HELD_LATENCY = labelled_graphs(12, seed=1)


def fit(epochs: int = 4, **settings: object) -> NarFormerV2Regressor:
    state = {key: settings.pop(key) for key in ("state_dir", "resume") if key in settings}
    config = TrainingConfig(epochs=epochs, **settings)
    return NarFormerV2Regressor(config, SMALL, **state).fit(GRAPHS, LATENCY, (HELD, HELD_LATENCY))


def test_eight_networks_are_learned_by_heart() -> None:
    graphs, latency = GRAPHS[:8], LATENCY[:8]
    config = TrainingConfig(epochs=150, batch_size=8)
    model = NarFormerV2Config(channels=32, groups=4, dropout=0.0)
    regressor = NarFormerV2Regressor(config, model).fit(graphs, latency, (graphs, latency))
    assert mape(regressor.predict(graphs), latency) < 3.0


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    one, same, other = fit(seed=1), fit(seed=1), fit(seed=2)
    np.testing.assert_array_equal(one.predict(HELD), same.predict(HELD))
    assert not np.array_equal(one.predict(HELD), other.predict(HELD))


def test_the_best_epoch_is_kept() -> None:
    regressor = fit(epochs=6)
    errors = [errors[0] for _, errors in regressor.progress.history]
    assert regressor.progress.best_epoch == int(np.argmin(errors)) + 1
    assert mape(regressor.predict(HELD), HELD_LATENCY) == pytest.approx(min(errors), rel=1e-4)
    assert regressor.card["validation"]["mape"] == pytest.approx(min(errors), rel=1e-4)


def test_patience_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = iter([5.0, 4.0, 4.5, 4.2, 4.1, 1.0])
    monkeypatch.setattr(trainer, "mape", lambda *_: next(errors))
    progress = fit(epochs=6, patience=3).progress
    assert (len(progress.history), *progress.best_epoch, *progress.best_error) == (5, 2, 4.0)


class Killed(BaseException):
    """Stands for the process ending between two steps."""


def test_interrupted_in_the_middle_of_an_epoch_and_resumed_gives_equal_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fit()
    step = Trainer._step

    def dying(self: Trainer, chosen: np.ndarray, number: int) -> float:
        if number == 7:  # epoch 3 of 4, after its first step
            raise Killed
        return step(self, chosen, number)

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(Killed):
        fit(state_dir=tmp_path)
    monkeypatch.undo()
    steps = []
    monkeypatch.setattr(Trainer, "_step", lambda *a: steps.append(a[2]) or step(*a))
    resumed = fit(state_dir=tmp_path, resume=True)
    assert steps[0] == 6  # the interrupted epoch starts again, the two before it do not
    np.testing.assert_array_equal(resumed.predict(HELD), whole.predict(HELD))
    assert resumed.progress.history == whole.progress.history


SCRIPT = """
import sys
from tests.training.test_trainer import fit
fit(epochs=12, state_dir=sys.argv[1])
"""


def test_kill_9_and_resume_gives_equal_results(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(command, cwd=root, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / STATE_FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL  # it was not through yet
    resumed = fit(epochs=12, state_dir=tmp_path, resume=True)
    np.testing.assert_array_equal(resumed.predict(HELD), fit(epochs=12).predict(HELD))


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    fit(epochs=1, state_dir=tmp_path)
    with pytest.raises(CheckpointError, match="other labels or settings"):
        fit(epochs=1, seed=5, state_dir=tmp_path, resume=True)
    (tmp_path / STATE_FILE).write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="is no training state"):
        fit(epochs=1, state_dir=tmp_path, resume=True)


def test_rate_rises_over_a_tenth_and_falls_to_zero() -> None:
    regressor = NarFormerV2Regressor(TrainingConfig(), SMALL)
    assert regressor.training.learning_rate == 1e-3 and regressor.training.epochs == 50
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.steps_per_epoch = TrainingConfig(epochs=10), 10
    rates = [trainer._rate(step) for step in range(100)]
    assert rates[0] == 0.0 and rates[5] == 0.5 and rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5) and rates[99] == pytest.approx(1 / 90)


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "huber"},
        {"unit": "hours"},
        {"epochs": 0},
        {"warmup": 1.0},
        {"learning_rate": 0.0},
        {"patience": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(ConfigError):
        TrainingConfig(**settings)


def test_best_constant_minimises_the_relative_loss() -> None:
    latency = np.array([0.1, 1.0, 5.0, 80.0])
    best = best_constant(latency)
    losses = [np.mean((best * factor / latency - 1) ** 2) for factor in (0.99, 1.0, 1.01)]
    assert losses[1] == min(losses)


def test_units_change_what_the_network_learns_and_seconds_come_out() -> None:
    for unit in ("ms", "power_law"):
        regressor = NarFormerV2Regressor(TrainingConfig(epochs=1, unit=unit), SMALL)
        regressor.fit(GRAPHS, LATENCY, (HELD, HELD_LATENCY))
        train, held = (regressor._encode(GRAPHS, LATENCY), regressor._encode(HELD, HELD_LATENCY))
        if unit == "ms":
            np.testing.assert_allclose(train.labels, LATENCY * 1e3)
        else:
            assert abs(np.log(train.labels).mean()) < 1e-9  # what a least-squares fit leaves
        seconds = trainer.answers(regressor.network, held.tokens) * HELD_LATENCY / held.labels
        np.testing.assert_allclose(regressor.predict(HELD), seconds, rtol=1e-6)
