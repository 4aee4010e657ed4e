"""The model of schedules: gradients, what it learns, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kendalltau

from tvm_costmodel.errors import CheckpointError, ConfigError, CostModelError, MeasurementError
from tvm_costmodel.schedules.numpy_transformer import Batch, forward, initial_weights, pad
from tvm_costmodel.schedules.rank_loss import ranking_loss
from tvm_costmodel.schedules.ranker import MeasuredTask, RankerConfig, ScheduleRanker
from tvm_costmodel.schedules.statement_features import FEATURES, log_roofline, log_seconds
from tvm_costmodel.schedules.task_gp import TaskGP

FLOAT_MULTIPLIES, VECTOR_LENGTH, UNROLLED, BYTES = 2, 18, 29, 61
QUICK = RankerConfig(width=16, members=2, steps=150)


def drawn_task(size: int, seed: int, work: float = 20.0) -> MeasuredTask:
    """Candidates of two statements, that vectors speed up and unrolled loops slow down."""
    draw = np.random.default_rng(seed)
    features, seconds = [], []
    for _ in range(size):
        one = np.zeros((2, FEATURES), np.float32)
        one[:, FLOAT_MULTIPLIES] = work, work - 4
        one[:, BYTES] = 14
        one[:, VECTOR_LENGTH] = draw.integers(0, 5, 2)
        one[:, UNROLLED] = draw.integers(0, 5, 2)
        slowness = 2.0 ** (one[:, UNROLLED] / 2 - one[:, VECTOR_LENGTH])
        features.append(one)
        seconds.append(float(1e-9 * (2 ** one[:, FLOAT_MULTIPLIES] * slowness).sum()))
    return MeasuredTask(features, seconds)


def tau(ranker: ScheduleRanker, task: MeasuredTask) -> float:
    return float(kendalltau(ranker.predict(task.features), -np.asarray(task.seconds))[0])


@pytest.fixture(scope="module")
def learned() -> ScheduleRanker:
    return ScheduleRanker(QUICK).pretrain([drawn_task(60, 1), drawn_task(60, 2, work=16)])


def small_batch(draw: np.random.Generator) -> Batch:
    present = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    return Batch(draw.standard_normal((5, 3, 7)), draw.standard_normal((5, 3)), present)


def test_gradients_are_those_of_finite_differences() -> None:
    draw = np.random.default_rng(0)
    start = initial_weights(7, 8, 2, seed=0)
    weights = {k: v + 0.1 * draw.standard_normal(v.shape) for k, v in start.items()}
    batch, target = small_batch(draw), draw.standard_normal(5)
    minded = draw.exponential(size=(2, 5))

    def loss(at: dict[str, NDArray]) -> float:
        return float(ranking_loss(forward(at, batch, {})[0], target, minded, 0.3)[0].sum())

    gradients: dict[str, NDArray] = {}
    prices, _, back = forward(weights, batch, gradients)
    back(ranking_loss(prices, target, minded, 0.3)[1])
    assert sorted(gradients) == sorted(weights)
    for name, gradient in gradients.items():
        for _ in range(3):
            place = tuple(draw.integers(size) for size in gradient.shape)
            up, down = weights[name].copy(), weights[name].copy()
            up[place] += 1e-5
            down[place] -= 1e-5
            slope = (loss({**weights, name: up}) - loss({**weights, name: down})) / 2e-5
            assert gradient[place] == pytest.approx(slope, rel=1e-3, abs=1e-7), name


def test_padding_and_other_candidates_change_no_price() -> None:
    draw = np.random.default_rng(1)
    features = [draw.standard_normal((n, 7)).astype(np.float32) for n in (1, 4, 2)]
    priors = [draw.standard_normal(n).astype(np.float32) for n in (1, 4, 2)]
    weights = {k: v + np.float32(0.1) for k, v in initial_weights(7, 8, 2, seed=3).items()}
    together = forward(weights, pad(features, priors), {})[0]
    for row in range(3):
        alone = forward(weights, pad(features[row : row + 1], priors[row : row + 1]), {})[0]
        assert together[:, row] == pytest.approx(alone[:, 0], rel=1e-5)


def test_a_candidate_costs_its_statements_together() -> None:
    weights = initial_weights(7, 8, 1, seed=0)
    weights["price.weight"] = np.zeros_like(weights["price.weight"])
    priors = [np.log(np.array([2e-3, 3e-3], np.float32))]
    prices, statements, _ = forward(weights, pad([np.ones((2, 7), np.float32)], priors), {})
    assert np.exp(prices[0, 0]) == pytest.approx(5e-3)
    assert np.exp(statements[0, 0]) == pytest.approx([2e-3, 3e-3])


def test_the_roofline_counts_operations_and_bytes() -> None:
    one = np.zeros((1, FEATURES), np.float32)
    one[0, FLOAT_MULTIPLIES] = np.log2(1 + 5e6)
    one[0, BYTES] = np.log2(1 + 4e6)
    assert np.exp(log_roofline(one)[0]) == pytest.approx(5e6 / 50e9 + 4e6 / 20e9, rel=1e-3)


def test_one_that_failed_ranks_behind_all_that_ran() -> None:
    assert np.exp(log_seconds([1.0, np.inf, 3.0])) == pytest.approx([1, 6, 3])


def test_ranking_loss_of_right_and_wrong_orders() -> None:
    target, minded = np.log([1.0, 2.0, 4.0]), np.ones((1, 3))
    right, _ = ranking_loss(np.log([[1.0, 2.0, 4.0]]), target, minded, 0.0)
    wrong, slope = ranking_loss(np.log([[4.0, 2.0, 1.0]]), target, minded, 0.0)
    assert right[0] < np.log(2) < wrong[0]
    assert slope[0, 0] > 0 > slope[0, 2]
    exact, _ = ranking_loss(target[None] + 7, target, minded, 5.0)
    assert exact[0] == pytest.approx(right[0])


def test_measurements_correct_a_prior_that_is_wrong() -> None:
    task, other = drawn_task(40, 1), drawn_task(60, 2)
    times, wanted = np.log(task.seconds), np.log(other.seconds)
    right = TaskGP(task.features, times, times).predict(other.features, wanted)[0]
    wrong = TaskGP(task.features, times, -times).predict(other.features, -wanted)[0]
    alone = TaskGP(task.features, times).predict(other.features)[0]
    errors = [np.abs(one - wanted).mean() for one in (right, wrong, alone)]
    assert errors[0] < 0.1 and errors[1] < 0.1 < errors[2]


def test_what_was_measured_is_known_best() -> None:
    task = drawn_task(30, 1)
    gp = TaskGP(task.features, np.log(task.seconds))
    known, unknown = (
        gp.predict(task.features)[1],
        gp.predict(drawn_task(30, 2, 5).features)[1],
    )
    assert known.max() < unknown.min()


def test_it_ranks_what_it_has_not_seen() -> None:
    ranker = ScheduleRanker()
    assert not ranker.is_ready
    assert tau(ranker.fit(drawn_task(96, 0)), drawn_task(100, 9)) > 0.4


def test_earlier_tasks_order_one_that_was_never_measured(learned: ScheduleRanker) -> None:
    other = drawn_task(100, 9, work=24)
    assert tau(learned, other) > 0.7
    best = int(np.argmax(learned.predict(other.features)))
    assert other.seconds[best] < 1.3 * min(other.seconds)


def test_an_update_starts_anew_from_earlier_tasks(learned: ScheduleRanker) -> None:
    mine, other = drawn_task(24, 5, work=24), drawn_task(50, 6, work=24)
    first = ScheduleRanker(QUICK)
    first.adopt(learned)
    again = ScheduleRanker(QUICK)
    again.adopt(learned)
    again.fit(drawn_task(24, 7, work=12)).fit(mine)
    assert again.predict(other.features) == pytest.approx(first.fit(mine).predict(other.features))
    assert tau(first, other) > 0.7


def test_what_cannot_be_lowered_scores_lowest(learned: ScheduleRanker) -> None:
    good = drawn_task(3, 0).features
    scores = learned.predict([good[0], np.zeros((1, FEATURES), np.float32), good[1]])
    assert np.isneginf(scores).tolist() == [False, True, False]


def test_statements_add_up_to_the_candidate(learned: ScheduleRanker) -> None:
    one = drawn_task(1, 3).features[0]
    parts = learned.statement_log_seconds(one)
    assert parts.shape == (2,)
    assert np.log(np.exp(parts).sum()) == pytest.approx(-learned.predict([one])[0], abs=0.1)


def test_saved_and_loaded_ranks_the_same(learned: ScheduleRanker, tmp_path: Path) -> None:
    path = tmp_path / "schedules.safetensors"
    learned.save(path)
    task = drawn_task(20, 3)
    loaded = ScheduleRanker.load(path)
    assert loaded.config == QUICK
    assert np.array_equal(loaded.predict(task.features), learned.predict(task.features))


def refused(kind: type[CostModelError], words: str, call: object, *arguments: object) -> None:
    with pytest.raises(kind, match=words) as caught:
        call(*arguments)  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_bad_input_is_refused_in_one_line(learned: ScheduleRanker, tmp_path: Path) -> None:
    task = drawn_task(3, 0)
    fresh = ScheduleRanker(QUICK)
    short = [np.zeros((2, 7), np.float32)]
    nan = [task.features[0], np.full((1, FEATURES), np.nan, np.float32)]
    refused(ConfigError, "learned nothing yet: call pretrain", fresh.predict, task.features)
    refused(ConfigError, r"shape \[2, 7\]; use \[statements, 164\]", learned.predict, short + short)
    refused(ConfigError, "candidate 1 are not all finite", learned.predict, nan)
    refused(ConfigError, "1 measured candidates", fresh.fit, MeasuredTask(short, [1.0]))
    refused(MeasurementError, "candidate 1 took -1.0 s", log_seconds, [1.0, -1.0])
    refused(MeasurementError, "all 2 candidates failed", log_seconds, [np.inf, np.inf])
    refused(ConfigError, "no task to learn from", fresh.pretrain, [])
    refused(CheckpointError, "nothing to save", fresh.save, tmp_path / "none")
    refused(CheckpointError, "no model of schedules at", ScheduleRanker.load, tmp_path / "none")
    (tmp_path / "torn").write_bytes(b"\x10\x00torn")
    refused(CheckpointError, "no model of schedules at", ScheduleRanker.load, tmp_path / "torn")
    refused(ConfigError, "width 32 with 3", ScheduleRanker().adopt, learned)


@pytest.mark.parametrize(("name", "value"), [("width", 6), ("members", 0), ("steps", 0)])
def test_impossible_configs_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        RankerConfig(**{name: value})
