"""AutoTVM and auto_scheduler search with this package's model: real tasks, builds and times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import auto_scheduler, autotvm, te, topi
from tvm.auto_scheduler.feature import get_per_store_features_from_states
from tvm.autotvm.tuner.sa_model_optimizer import SimulatedAnnealingOptimizer

from benchmarks.schedules import schedule_timing
from tvm_costmodel.compilers.relay.target import cpu_target
from tvm_costmodel.errors import ConfigError, ModelFileError
from tvm_costmodel.schedules.auto_scheduler import AutoSchedulerCostModel
from tvm_costmodel.schedules.autotvm import (
    AutoTVMCostModel,
    config_features,
    measured_tasks,
    transformer_tuner,
)
from tvm_costmodel.schedules.ranker import RankerConfig, ScheduleRanker
from tvm_costmodel.schedules.statement_features import FEATURES

QUICK = RankerConfig(width=16, members=2, steps=60)
BATCH = 8


@auto_scheduler.register_workload
def small_dense(rows: int, depth: int, columns: int) -> list[te.Tensor]:
    data = te.placeholder((rows, depth), name="data")
    weight = te.placeholder((columns, depth), name="weight")
    return [data, weight, topi.nn.relu(topi.nn.dense(data, weight))]


def scheduler_task(*sizes: int) -> auto_scheduler.SearchTask:
    return auto_scheduler.SearchTask(
        func=small_dense,
        args=sizes,
        target=cpu_target(),
        layout_rewrite_option=auto_scheduler.LayoutRewriteOption.NO_REWRITE,
    )


def tuner_task(rows: int, depth: int, columns: int) -> autotvm.task.Task:
    tensors = (("TENSOR", (rows, depth), "float32"), ("TENSOR", (columns, depth), "float32"))
    arguments = (*tensors, None, "float32")
    return autotvm.task.create("dense_nopack.x86", arguments, cpu_target())


def annealing(task: autotvm.task.Task) -> SimulatedAnnealingOptimizer:
    return SimulatedAnnealingOptimizer(task, n_iter=3, parallel_size=8, log_interval=0)


def search_with_autotvm(tuner: Any, trials: int, log: Path | None = None) -> list[float]:
    known: dict[int, float] = {}
    callbacks = [autotvm.callback.log_to_file(str(log))] if log else []
    option = {
        "builder": schedule_timing.HereBuilder(BATCH, known),
        "runner": schedule_timing.HereRunner(known),
    }
    tuner.tune(trials, option, callbacks=callbacks)
    return list(known.values())


def search_with_auto_scheduler(model: Any, task: Any, trials: int, log: Path) -> list[float]:
    evolution = {
        "evolutionary_search_population": 16,
        "evolutionary_search_num_iters": 1,
        "sample_init_min_population": 8,
    }
    schedule_timing.search_with_auto_scheduler(task, model, trials, BATCH, log, evolution, seed=1)
    results = auto_scheduler.RecordReader(str(log)).read_lines()[1]
    return [result.costs[0].value for result in results if not result.error_no]


@pytest.fixture(scope="module")
def scheduler_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of auto_scheduler with our model that knows nothing beforehand."""
    log = tmp_path_factory.mktemp("logs") / "dense.json"
    model = AutoSchedulerCostModel(ScheduleRanker(QUICK))
    times = search_with_auto_scheduler(model, scheduler_task(16, 64, 32), 2 * BATCH, log)
    assert len(times) >= BATCH
    return log


def test_both_tuners_take_equal_features_of_equal_schedules() -> None:
    task = scheduler_task(16, 64, 32)
    params = {"evolutionary_search_population": 4}
    policy = auto_scheduler.SketchPolicy(
        task, auto_scheduler.RandomModel(), params, seed=1, verbose=0
    )
    states, equal = list(policy.sample_initial_population())[:4], []
    for state, wanted in zip(states, get_per_store_features_from_states(states, task), strict=True):
        schedule, tensors = task.compute_dag.apply_steps_from_state(state)

        class Given:
            """As much of a task of AutoTVM as features are taken from."""

            target = task.target

            @staticmethod
            def instantiate(_: Any, instance: Any = (schedule, tensors)) -> Any:
                return instance

        equal.append(np.array_equal(config_features(Given(), None), wanted.astype(np.float32)))
    assert sum(equal) >= len(equal) - 1  # what TVM says of a state is seldom not the same twice


def test_auto_scheduler_searches_and_its_log_teaches(scheduler_log: Path) -> None:
    model = AutoSchedulerCostModel(ScheduleRanker(QUICK))
    model.pretrain_from_files([scheduler_log])
    inputs, results = auto_scheduler.RecordReader(str(scheduler_log)).read_lines()
    task = scheduler_task(16, 64, 32)
    states = [task.compute_dag.infer_bound_from_state(one.state) for one in inputs]
    seconds = np.array([one.costs[0].value for one in results])
    scores = model.predict(task, states)
    assert np.corrcoef(np.log(scores), -np.log(seconds))[0, 1] > 0.5
    packed = model.predict_stages(task, states)
    first = int(packed[len(states)])
    parts = packed[len(states) + 1 : len(states) + 1 + first]
    assert 1 / (1 / parts).sum() == pytest.approx(packed[0], rel=1e-3)

    other = scheduler_task(8, 32, 64)
    assert np.ptp(model.predict(other, search_states(other))) > 0


def search_states(task: Any) -> list[Any]:
    params = {"evolutionary_search_population": 8}
    model = auto_scheduler.RandomModel()
    policy = auto_scheduler.SketchPolicy(task, model, params, seed=1, verbose=0)
    return list(policy.sample_initial_population())


def test_tasks_of_a_model_are_learned_apart(scheduler_log: Path) -> None:
    inputs, results = auto_scheduler.RecordReader(str(scheduler_log)).read_lines()
    model = AutoSchedulerCostModel(ScheduleRanker(QUICK))
    model.pretrain_from_files([scheduler_log])
    other = scheduler_task(8, 32, 64)
    # Taken once: what TVM says of a state is now and then not the same twice.
    features = get_per_store_features_from_states(search_states(other), other)
    before = model._score(other, features)
    model.update(inputs, results)
    assert np.array_equal(model._score(other, features), before)
    assert not np.array_equal(model._score(inputs[0].task, features), before)


def test_autotvm_searches_and_transfers(tmp_path: Path) -> None:
    log = tmp_path / "dense.log"
    task = tuner_task(16, 64, 32)
    tuner = transformer_tuner(task, ScheduleRanker(QUICK), BATCH, annealing(task))
    times = search_with_autotvm(tuner, 2 * BATCH, log)
    assert len(times) == 2 * BATCH
    assert tuner.best_flops == pytest.approx(task.flop / min(times))

    records = list(autotvm.record.load_from_file(str(log)))
    (measured,) = measured_tasks(records)
    assert len(measured.seconds) == 2 * BATCH
    assert measured.features[0].shape[1] == FEATURES

    other = tuner_task(8, 128, 64)
    fresh = transformer_tuner(other, ScheduleRanker(QUICK), BATCH, annealing(other))
    assert not fresh.cost_model.ranker.is_ready and not len(fresh.trials)
    fresh.load_history(records, min_seed_records=BATCH)
    assert fresh.cost_model.ranker.is_ready and len(fresh.trials) == BATCH
    first = fresh.next_batch(BATCH)
    assert {one.index for one in first} & set(fresh.trials)

    ready = ScheduleRanker(QUICK).pretrain([measured])
    assert len(transformer_tuner(other, ready, BATCH, annealing(other)).trials) == BATCH


def test_too_few_records_teach_nothing() -> None:
    model = AutoTVMCostModel(tuner_task(16, 64, 32), ScheduleRanker(QUICK))
    assert model.fit_log([], 8) is False
    assert not model.ranker.is_ready


def test_what_autotvm_cannot_lower_scores_lowest() -> None:
    task = tuner_task(16, 64, 32)
    model = AutoTVMCostModel(task, ScheduleRanker(QUICK))
    speeds = [1e9 * (1 + index) for index in range(6)]
    model.fit(range(6), speeds, 8)
    model._features[0] = np.zeros((1, FEATURES), np.float32)
    scores = model.predict(range(6))
    assert scores[0] == -1e3 and scores[1:].min() > -100


def test_bad_logs_and_models_are_refused_in_one_line(tmp_path: Path) -> None:
    model = AutoSchedulerCostModel(ScheduleRanker(QUICK))
    with pytest.raises(ModelFileError, match="no log of auto_scheduler at"):
        model.pretrain_from_files([tmp_path / "none.json"])
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(ModelFileError, match="holds no records"):
        model.pretrain_from_files([tmp_path / "empty.json"])
    mine = AutoTVMCostModel(tuner_task(16, 64, 32), ScheduleRanker(QUICK))
    with pytest.raises(ConfigError, match="base model is a CostModel"):
        mine.load_basemodel(autotvm.tuner.model_based_tuner.CostModel())
