"""The schedule model as the cost model of AutoTVM's tuners.

tuner = transformer_tuner(task)
tuner.load_history(autotvm.record.load_from_file("earlier.log"), min_seed_records=50)
tuner.tune(n_trial=128, measure_option=...)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import autotvm
from tvm.auto_scheduler.feature import features_from_primfunc
from tvm.autotvm.tuner.model_based_tuner import CostModel, ModelBasedTuner, ModelOptimizer
from tvm.autotvm.tuner.sa_model_optimizer import SimulatedAnnealingOptimizer
from tvm.driver import build_module

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.schedules.ranker import MeasuredTask, ScheduleRanker
from tvm_costmodel.schedules.statement_features import FEATURES, Features, lowered

_WORST = -1e3
"""Score of what cannot be lowered: annealing takes differences, and cannot take minus infinity."""


class AutoTVMCostModel(CostModel):
    """Ranks the configurations of an AutoTVM task.

    Where AutoTVM's own model takes one flat vector whose length depends on the template, this one
    takes TVM's features of each statement, so that it can learn from logs of any template and
    shape.

    Args:
        task: The task that is tuned.
        ranker: The model to train; a new one by default. With one that has learned from earlier
            tasks, the search starts with its order.
        seed: Seed of a new ranker.
        features: Features of the task's configurations by index, which take most of the time to
            compute; new ones are added, so that several searches of one task can share them.
    """

    def __init__(
        self,
        task: autotvm.task.Task,
        ranker: ScheduleRanker | None = None,
        seed: int = 0,
        features: dict[int, Features] | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.ranker = ranker or ScheduleRanker(seed=seed)
        self._features = {} if features is None else features

    def fit(self, xs: Sequence[int], ys: Sequence[float], plan_size: int) -> None:
        """Learns the task from all its measurements.

        Args:
            xs: Indices of configurations.
            ys: Operations per second of each; 0 where it failed.
            plan_size: Number of candidates in the tuner's next batch; without effect.
        """
        speeds = np.asarray(ys, np.float64)
        seconds = self.task.flop / np.where(speeds > 0, speeds, np.nan)
        measured = _measured_task(
            [self._of(index) for index in xs], np.nan_to_num(seconds, nan=np.inf)
        )
        if len(measured.seconds) > 1:
            self.ranker.fit(measured)

    def predict(self, xs: Sequence[int], output_margin: bool = False) -> NDArray[np.float32]:
        """Scores configurations, higher is faster; what cannot be lowered scores -1000.

        Args:
            xs: Indices of configurations.
            output_margin: Without effect: scores have no transformation.
        """
        if not self.ranker.is_ready:
            return np.random.default_rng().random(len(xs), np.float32)
        return np.maximum(self.ranker.predict([self._of(index) for index in xs]), _WORST)

    def fit_log(
        self,
        records: Iterable[tuple[autotvm.MeasureInput, autotvm.MeasureResult]],
        plan_size: int,
        min_seed_records: int = 500,
    ) -> bool:
        """Learns from logs of earlier tasks, of any template and shape.

        Args:
            records: As `tvm.autotvm.record.load_from_file` gives them.
            plan_size: Without effect.
            min_seed_records: With fewer records, nothing is learned.

        Returns:
            Whether it learned.
        """
        tasks = measured_tasks(records)
        if sum(len(task.seconds) for task in tasks) < min_seed_records or not tasks:
            return False
        self.ranker.pretrain(tasks)
        return True

    def load_basemodel(self, base_model: CostModel) -> None:
        """Starts from a model that learned from logs, as `ModelBasedTuner.load_history` makes it.

        Raises:
            ConfigError: It is a model of another kind.
        """
        if not isinstance(base_model, AutoTVMCostModel):
            raise ConfigError(
                f"base model is a {type(base_model).__name__}; use one from spawn_base_model()"
            )
        self.ranker.adopt(base_model.ranker)

    def spawn_base_model(self) -> AutoTVMCostModel:
        """A model of the same kind for the same task that has learned nothing."""
        fresh = ScheduleRanker(self.ranker.config, self.ranker.seed)
        return AutoTVMCostModel(self.task, fresh, features=self._features)

    def _of(self, index: int) -> Features:
        if index not in self._features:
            config = self.task.config_space.get(int(index))
            self._features[index] = config_features(self.task, config)
        return self._features[index]


def transformer_tuner(
    task: autotvm.task.Task,
    ranker: ScheduleRanker | None = None,
    plan_size: int = 64,
    optimizer: ModelOptimizer | None = None,
    seed: int = 0,
    features: dict[int, Features] | None = None,
) -> ModelBasedTuner:
    """AutoTVM's model-based tuner with this model; in place of ``XGBTuner(task)``.

    Args:
        task: The task to tune.
        ranker: As for `AutoTVMCostModel`. One that has learned also plans the first trials.
        plan_size: Measurements between two updates.
        optimizer: Search for candidates of high score; simulated annealing by default.
        seed: Seed of a new ranker.
        features: As for `AutoTVMCostModel`.
    """
    model = AutoTVMCostModel(task, ranker, seed, features)
    optimizer = optimizer or SimulatedAnnealingOptimizer(task, log_interval=0)
    tuner = ModelBasedTuner(task, model, optimizer, plan_size)
    if model.ranker.is_ready:
        tuner.trials = optimizer.find_maximums(model, plan_size, tuner.visited)
    return tuner


def config_features(
    task: autotvm.task.Task, config: Any, target: tvm.target.Target | None = None
) -> Features:
    """TVM's features of a configuration's statements, [S, 164]; zeros where it cannot be lowered.

    Args:
        task: A task of AutoTVM.
        config: One of its configurations.
        target: Its target; the task's own by default, which tasks in logs do not have.
    """
    try:
        with target or task.target:
            schedule, tensors = task.instantiate(config)
        module = build_module.schedule_to_module(schedule, tensors)
        module = tvm.tir.transform.Simplify()(module)
        features = features_from_primfunc(module["main"], log_scale=True)
    except (tvm.TVMError, autotvm.task.space.InstantiationError):
        return np.zeros((1, FEATURES), np.float32)
    return features.astype(np.float32) if len(features) else np.zeros((1, FEATURES), np.float32)


def measured_tasks(
    records: Iterable[tuple[autotvm.MeasureInput, autotvm.MeasureResult]],
) -> list[MeasuredTask]:
    """Reads logs of AutoTVM task by task; tasks of which nothing ran are left out.

    Args:
        records: As `tvm.autotvm.record.load_from_file` gives them.
    """
    features: dict[str, list[Features]] = {}
    seconds: dict[str, list[float]] = {}
    for measured, result in records:
        key = f"{measured.task.name} {measured.task.args}"
        row = config_features(measured.task, measured.config, measured.target)
        features.setdefault(key, []).append(row)
        failed = result.error_no != 0
        seconds.setdefault(key, []).append(np.inf if failed else float(np.mean(result.costs)))
    tasks = [_measured_task(features[key], np.asarray(seconds[key])) for key in features]
    return [task for task in tasks if len(task.seconds)]


def _measured_task(features: Sequence[Features], seconds: NDArray[np.float64]) -> MeasuredTask:
    """The candidates that have features; none where none of them ran."""
    rows = [row for row, one in enumerate(features) if lowered(one)]
    if not np.isfinite(seconds[rows]).any():
        rows = []
    return MeasuredTask([features[row] for row in rows], [float(seconds[row]) for row in rows])
