"""The schedule model as the cost model of auto_scheduler's search.

model = AutoSchedulerCostModel()
model.pretrain_from_files(["earlier.json"])
policy = auto_scheduler.SketchPolicy(task, model)
task.tune(options, search_policy=policy)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm.auto_scheduler.cost_model.cost_model import PythonBasedModel
from tvm.auto_scheduler.feature import (
    get_per_store_features_from_measure_pairs,
    get_per_store_features_from_states,
)
from tvm.auto_scheduler.measure_record import RecordReader

from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.schedules.ranker import MeasuredTask, ScheduleRanker
from tvm_costmodel.schedules.statement_features import Features, lowered

Measurements = dict[str, tuple[list[Features], list[float]]]
"""Features and seconds of candidates by the key of their task."""


class AutoSchedulerCostModel(PythonBasedModel):
    """Ranks the states of auto_scheduler's tasks.

    One model serves all tasks of a `TaskScheduler`: it learns from earlier logs for all of them,
    and from a search's measurements for each task separately.

    Args:
        ranker: A ranker that may have learned from earlier tasks; a new one by default.
        seed: Seed of a new ranker, and of random scores while nothing has been learned.
    """

    def __init__(self, ranker: ScheduleRanker | None = None, seed: int = 0) -> None:
        super().__init__()
        self.base = ranker or ScheduleRanker(seed=seed)
        self._draw = np.random.default_rng(seed)
        self._measured: Measurements = {}
        self._rankers: dict[str, ScheduleRanker] = {}

    def update(self, inputs: Sequence[Any], results: Sequence[Any]) -> None:
        """Learns the tasks of new measurements from all their measurements.

        Args:
            inputs: `tvm.auto_scheduler.MeasureInput`, of one task or several.
            results: As many `tvm.auto_scheduler.MeasureResult`.
        """
        for key in gather_measurements(self._measured, inputs, results):
            task = MeasuredTask(*self._measured[key])
            if len(task.seconds) > 1 and np.isfinite(task.seconds).any():
                ranker = ScheduleRanker(self.base.config, self.base.seed)
                ranker.adopt(self.base)
                self._rankers[key] = ranker.fit(task)

    def predict(self, task: Any, states: Sequence[Any]) -> NDArray[np.float32]:
        """Predicts runs per second of states; minus infinity for those that TVM cannot lower.

        The search draws its parents in proportion to these, so they are speeds, not logarithms.

        Args:
            task: `tvm.auto_scheduler.SearchTask`.
            states: States of that task.
        """
        return self._score(task, get_per_store_features_from_states(states, task))

    def predict_stages(self, task: Any, states: Sequence[Any]) -> NDArray[np.float32]:
        """Scores of states, then for each the number of its statements and their own speeds.

        Args:
            task: `tvm.auto_scheduler.SearchTask`.
            states: States of that task.
        """
        features = get_per_store_features_from_states(states, task)
        speeds, ranker = self._score(task, features), self._ranker(task)
        packed = [speeds]
        for one, speed in zip(features, speeds, strict=True):
            parts = np.zeros(0, np.float32)
            if ranker.is_ready and lowered(one):
                parts = np.exp(-ranker.statement_log_seconds(one, np.log(speed)))
            packed += [np.asarray([len(parts)], np.float32), parts]
        return np.concatenate(packed)

    def pretrain_from_files(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        """Learns from logs of earlier tasks, as `auto_scheduler.RecordToFile` writes them.

        The tasks' functions must be registered as workloads, as when the logs were written.

        Raises:
            ModelFileError: A file is missing or holds no records.
        """
        measured: Measurements = {}
        for path in paths:
            if not Path(path).is_file():
                raise ModelFileError(f"no log of auto_scheduler at {path}")
            inputs, results = RecordReader(str(path)).read_lines()
            if not len(inputs):
                raise ModelFileError(f"{path} holds no records of auto_scheduler")
            gather_measurements(measured, inputs, results)
        tasks = [MeasuredTask(*pair) for pair in measured.values()]
        self.base.pretrain([task for task in tasks if np.isfinite(task.seconds).any()])

    def _score(self, task: Any, features: Sequence[Features]) -> NDArray[np.float32]:
        ranker = self._ranker(task)
        if ranker.is_ready:
            scores = ranker.predict(list(features))
            return np.where(np.isfinite(scores), np.exp(scores), scores)
        able = [lowered(one) for one in features]
        return np.where(able, self._draw.random(len(able)), -np.inf).astype(np.float32)

    def _ranker(self, task: Any) -> ScheduleRanker:
        return self._rankers.get(task.workload_key, self.base)


def gather_measurements(
    measured: Measurements, inputs: Sequence[Any], results: Sequence[Any]
) -> set[str]:
    """Adds the measurements of candidates that TVM could lower; returns the keys of their tasks.

    Args:
        measured: Filled with the features and seconds; infinity for a candidate that failed.
        inputs: `tvm.auto_scheduler.MeasureInput`, of one task or several.
        results: As many `tvm.auto_scheduler.MeasureResult`.
    """
    features = get_per_store_features_from_measure_pairs(inputs, results)[0]
    touched = set()
    for measure_input, result, one in zip(inputs, results, features, strict=True):
        failed = int(result.error_no) != 0
        seconds = np.inf if failed else float(np.mean([cost.value for cost in result.costs]))
        if lowered(one):
            key = str(measure_input.task.workload_key)
            known = measured.setdefault(key, ([], []))
            known[0].append(one.astype(np.float32))
            known[1].append(seconds)
            touched.add(key)
    return touched
