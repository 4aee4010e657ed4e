"""Replays searches over measured candidates: which cost model finds a pool's fastest ones first.

Where candidates and times are those of a log, a strategy costs no build and no measurement, so that
many seeds are cheap and no noise comes between the strategies. It leaves out how a search
generates candidates for the model to choose from.

Not a benchmark itself; `relay_tasks` uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xgboost
from numpy.typing import NDArray
from tvm import autotvm
from tvm.auto_scheduler.cost_model import xgb_model
from tvm.auto_scheduler.measure_record import RecordReader

from benchmarks.schedules.schedule_strategies import HereXGBoost
from tvm_costmodel.schedules.auto_scheduler import Measurements, gather_measurements
from tvm_costmodel.schedules.autotvm import AutoTVMCostModel, config_features
from tvm_costmodel.schedules.ranker import MeasuredTask, ScheduleRanker

FIRST, BATCH = 8, 8
"""Candidates drawn at random before the first prediction, and chosen at once after it."""

Scores = NDArray[np.floating]


class Pool(Protocol):
    """Measured candidates of one task.

    Attributes:
        name: Name of the task.
        seconds: Seconds of each candidate.
    """

    name: str
    seconds: NDArray[np.float64]

    def scores(self, strategy: str, known: list[int], seed: int, earlier: list[Any]) -> Scores:
        """Scores all candidates, given the times of some."""


def replay(pool: Pool, strategy: str, seed: int, trials: int, earlier: list[Any]) -> list[float]:
    """Seconds of the candidates in the order in which a strategy measures them."""
    rng = np.random.default_rng(seed)
    order = [int(one) for one in rng.permutation(len(pool.seconds))]
    starts_ready = strategy == "ours+logs"
    known = [] if starts_ready else order[:FIRST]
    while len(known) < min(trials, len(order)):
        remaining = [one for one in order if one not in known]
        if strategy != "random":
            scores = pool.scores(strategy, known, seed, earlier)
            remaining.sort(key=lambda one: -scores[one])
        known += remaining[:BATCH]
    return [float(pool.seconds[one]) for one in known[:trials]]


class SchedulerPool:
    """States of auto_scheduler. XGBoost as `XGBModel` sets it up, on the same features."""

    def __init__(self, name: str, log: Path) -> None:
        measured: Measurements = {}
        gather_measurements(measured, *RecordReader(str(log)).read_lines())
        ((features, seconds),) = measured.values()  # a log holds one task
        ran = np.flatnonzero(np.isfinite(seconds))
        self.name = name
        self.features = [features[i] for i in ran]
        self.seconds = np.asarray(seconds)[ran]

    @property
    def measured(self) -> MeasuredTask:
        """All of it, as an earlier log."""
        return MeasuredTask(self.features, list(self.seconds))

    def scores(self, strategy: str, known: list[int], seed: int, earlier: list[Any]) -> Scores:
        """As `Pool.scores`."""
        task = MeasuredTask([self.features[i] for i in known], [self.seconds[i] for i in known])
        logs = [pool.measured for pool in earlier] if strategy.endswith("+logs") else []
        if strategy.startswith("xgboost"):
            return self._by_xgboost([*logs, task], seed)
        return ranked(logs, task, seed).predict(self.features)

    def _by_xgboost(self, tasks: Sequence[MeasuredTask], seed: int) -> Scores:
        xgb_model.xgb = xgboost
        model = xgb_model.XGBModel(verbose_eval=0, seed=seed + 1)
        model.xgb_params["nthread"] = 1
        packs = np.empty(sum(len(task.seconds) for task in tasks), object)
        packs[:] = [one for task in tasks for one in task.features]
        speeds = np.concatenate([np.min(task.seconds) / task.seconds for task in tasks])
        groups = np.repeat(range(len(tasks)), [len(task.seconds) for task in tasks])
        matrix = xgb_model.pack_sum_xgbmatrix(packs, speeds, groups, speeds)
        stop = xgb_model.CustomCallback(
            stopping_rounds=50,
            metric="tr-p-rmse",
            fevals=[xgb_model.pack_sum_rmse],
            evals=[(matrix, "tr")],
            maximize=False,
            verbose_eval=0,
        )
        trees = xgboost.train(
            model.xgb_params,
            matrix,
            num_boost_round=10000,
            obj=xgb_model.pack_sum_square_error,
            callbacks=[stop],
        )
        rows, packed = xgb_model.feature_to_pack_sum_xgbmatrix(self.features)
        return xgb_model.predict_throughput_pack_sum(trees.predict(rows), packed)


class TunerPool:
    """Configurations of AutoTVM, with its own cost model and ours, by their own interface."""

    def __init__(self, name: str, log: Path) -> None:
        records = [r for r in autotvm.record.load_from_file(str(log)) if r[1].error_no == 0]
        self.name, self.records = name, records
        item = records[0][0]
        self.task = autotvm.task.create(item.task.name, item.task.args, item.target)
        self.indices = [item.config.index for item, _ in records]
        self.seconds = np.array([float(np.mean(result.costs)) for _, result in records])
        self._features = {
            item.config.index: config_features(self.task, item.config) for item, _ in records
        }
        self._cache = HereXGBoost(self.task, "itervar", "reg", num_threads=1).feature_cache

    @property
    def measured(self) -> MeasuredTask:
        """All of it, as an earlier log."""
        return MeasuredTask([self._features[i] for i in self.indices], list(self.seconds))

    def scores(self, strategy: str, known: list[int], seed: int, earlier: list[Any]) -> Scores:
        """As `Pool.scores`."""
        np.random.seed(seed)
        logs = [pool.measured for pool in earlier] if strategy.endswith("+logs") else []
        if strategy.startswith("xgboost"):
            model: Any = HereXGBoost(self.task, "itervar", "reg", num_threads=1, log_interval=0)
            model.feature_cache = self._cache
        else:
            ranker = ranked(logs, None, seed)
            model = AutoTVMCostModel(self.task, ranker, seed, self._features)
        if known:
            speeds = [self.task.flop / self.seconds[i] for i in known]
            model.fit([self.indices[i] for i in known], speeds, BATCH)
        return model.predict(self.indices)


_PRETRAINED: dict[tuple[int, ...], ScheduleRanker] = {}


def ranked(logs: Sequence[MeasuredTask], task: MeasuredTask | None, seed: int) -> ScheduleRanker:
    """Our model, trained on logs once for each seed and set of them, and on a task."""
    ranker = ScheduleRanker(seed=seed)
    if logs:
        key = (seed, *(hash(tuple(one.seconds)) for one in logs))
        if key not in _PRETRAINED:
            _PRETRAINED[key] = ScheduleRanker(seed=seed).pretrain(logs)
        ranker.adopt(_PRETRAINED[key])
    return ranker.fit(task) if task and len(task.seconds) > 1 else ranker
