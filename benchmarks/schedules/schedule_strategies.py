"""The strategies that `relay_tasks` compares; each searches one task at a time.

Not a benchmark itself; `relay_tasks` uses it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tvm import autotvm
from tvm.auto_scheduler.cost_model import RandomModel, XGBModel
from tvm.auto_scheduler.measure_record import RecordReader
from tvm.autotvm.tuner import RandomTuner, xgboost_cost_model
from tvm.autotvm.tuner.model_based_tuner import FeatureCache, ModelBasedTuner
from tvm.autotvm.tuner.sa_model_optimizer import SimulatedAnnealingOptimizer
from tvm.contrib.popen_pool import MapResult, StatusKind

from benchmarks.schedules.schedule_tasks import Operator, auto_scheduler_task, autotvm_task
from benchmarks.schedules.schedule_timing import HereBuilder, HereRunner, search_with_auto_scheduler
from tvm_costmodel.compilers.relay.target import cpu_target
from tvm_costmodel.schedules.auto_scheduler import AutoSchedulerCostModel
from tvm_costmodel.schedules.autotvm import measured_tasks, transformer_tuner
from tvm_costmodel.schedules.ranker import ScheduleRanker

STRATEGIES = ("xgboost", "xgboost+logs", "ours+logs", "ours", "random")
"""``+logs`` starts from the logs of earlier tasks, by the tuner's own method."""

BATCH = 16
"""Trials between two updates, for all."""

_EVOLUTION = {
    "evolutionary_search_population": 64,
    "evolutionary_search_num_iters": 3,
    "sample_init_min_population": 32,
}
_ANNEALING = {"n_iter": 12, "parallel_size": 32, "early_stop": 6, "log_interval": 0}


class AutoScheduler:
    """Searches with auto_scheduler's `SketchPolicy`."""

    name = "auto_scheduler"

    def __init__(self) -> None:
        self.target = cpu_target()
        self._rankers: dict[tuple[Path, ...], ScheduleRanker] = {}

    def search(
        self, operator: Operator, strategy: str, seed: int, trials: int, log: Path, earlier: Any
    ) -> None:
        """Searches with a strategy, and writes TVM's own log."""
        task = auto_scheduler_task(operator, self.target)
        random.seed(seed)
        np.random.seed(seed)
        model = self._model(strategy, seed, earlier)
        search_with_auto_scheduler(task, model, trials, BATCH, log, _EVOLUTION, seed + 1)

    def _model(self, strategy: str, seed: int, earlier: Sequence[Path]) -> Any:
        if strategy == "random":
            return RandomModel()
        if strategy.startswith("xgboost"):
            model = XGBModel(num_warmup_sample=BATCH - 1, verbose_eval=0, seed=seed + 1)
            if strategy.endswith("+logs"):
                learn_from_files(model, earlier)
            return model
        model = AutoSchedulerCostModel(seed=seed)
        if strategy.endswith("+logs"):
            key = (*earlier, Path(str(seed)))
            if key not in self._rankers:
                model.pretrain_from_files(earlier)
                self._rankers[key] = model.base
            model = AutoSchedulerCostModel(self._rankers[key], seed)
        return model

    def times(self, log: Path) -> list[float]:
        """Seconds of the trials in a log, in order; infinity for those that failed."""
        if not log.is_file():
            return []
        results = RecordReader(str(log)).read_lines()[1]
        return [np.inf if r.error_no else r.costs[0].value for r in results]

    def best(self, operator: Operator, log: Path) -> tuple[Any, Any]:
        """The task and the fastest schedule in a log."""
        inputs, _ = RecordReader(str(log)).read_lines()
        fastest = inputs[int(np.argmin(self.times(log)))]
        task = auto_scheduler_task(operator, self.target)
        return task, task.compute_dag.infer_bound_from_state(fastest.state)


def learn_from_files(model: XGBModel, earlier: Sequence[Path]) -> None:
    """TVM's own way, `update_from_file`, over several files in one training."""
    read = [RecordReader(str(path)).read_lines() for path in earlier]
    model.update([i for pair in read for i in pair[0]], [r for pair in read for r in pair[1]])


@dataclass
class _Known:
    """Times by configuration and features, which the searches of one task share."""

    seconds: dict[int, float] = field(default_factory=dict)
    features: dict[int, Any] = field(default_factory=dict)
    cache: FeatureCache = field(default_factory=FeatureCache)


class HereXGBoost(xgboost_cost_model.XGBoostCostModel):
    """AutoTVM's XGBoost as `XGBTuner` sets it up, which computes features inside this process.

    Its pool of processes starts anew, and imports TVM, at every update.
    """

    def _reset_pool(self, space: Any, target: Any, task: Any) -> None:
        self.context = (space, target, task)

    def _get_pool(self) -> HereXGBoost:
        return self.upper_model or self

    def _close_pool(self) -> None:
        """There is none."""

    def map_with_error_catching(self, extract: Any, values: Any) -> list[MapResult]:
        """Results as a pool of processes would return them."""
        xgboost_cost_model._extract_popen_initializer(*self.context)
        results = []
        for value in values:
            try:
                results.append(MapResult(StatusKind.COMPLETE, extract(value)))
            except Exception as error:  # whatever TVM raises, as a pool would give it back
                results.append(MapResult(StatusKind.EXCEPTION, error))
        return results


class AutoTVM:
    """Searches with AutoTVM's tuners."""

    name = "autotvm"

    def __init__(self) -> None:
        self.target = cpu_target()
        self._known: dict[tuple[str, Path], _Known] = {}
        self._tasks: dict[Path, Any] = {}

    def search(
        self, operator: Operator, strategy: str, seed: int, trials: int, log: Path, earlier: Any
    ) -> None:
        """Searches with a strategy, and writes TVM's own log."""
        task = autotvm_task(operator, self.target)
        known = self._shared(operator, task, log.parent)
        random.seed(seed)
        np.random.seed(seed)
        tuner = self._tuner(task, known, strategy, seed, earlier)
        tuner.tune(
            min(trials, len(task.config_space)),
            {"builder": HereBuilder(BATCH, known.seconds), "runner": HereRunner(known.seconds)},
            callbacks=[autotvm.callback.log_to_file(str(log))],
        )

    def _shared(self, operator: Operator, task: Any, folder: Path) -> _Known:
        """Times of all logs of this task so far: a configuration is timed once."""
        known = self._known.setdefault((operator.name, folder), _Known())
        for path in folder.glob(f"{self.name}.{operator.name.replace(' ', '_')}.*.log"):
            for measured, result in autotvm.record.load_from_file(str(path)):
                if result.error_no == 0:
                    known.seconds.setdefault(measured.config.index, float(result.costs[0]))
        return known

    def _tuner(
        self, task: Any, known: _Known, strategy: str, seed: int, earlier: Sequence[Path]
    ) -> Any:
        if strategy == "random":
            return RandomTuner(task)
        annealing = SimulatedAnnealingOptimizer(task, **_ANNEALING)
        if strategy.startswith("xgboost"):
            model = HereXGBoost(task, "itervar", "reg", num_threads=1, log_interval=0)
            model.feature_cache = known.cache
            tuner = ModelBasedTuner(task, model, annealing, BATCH)
            if strategy.endswith("+logs"):
                records = [r for path in earlier for r in autotvm.record.load_from_file(str(path))]
                tuner.load_history(records, min_seed_records=BATCH)
            return tuner
        ranker = ScheduleRanker(seed=seed)
        if strategy.endswith("+logs"):
            ranker.pretrain([one for path in earlier for one in self._measured(path)])
        return transformer_tuner(task, ranker, BATCH, annealing, seed, known.features)

    def _measured(self, path: Path) -> Any:
        if path not in self._tasks:
            self._tasks[path] = measured_tasks(autotvm.record.load_from_file(str(path)))
        return self._tasks[path]

    def times(self, log: Path) -> list[float]:
        """Seconds of the trials in a log, in order; infinity for those that failed."""
        if not log.is_file():
            return []
        records = autotvm.record.load_from_file(str(log))
        return [np.inf if r.error_no else float(r.costs[0]) for _, r in records]

    def best(self, operator: Operator, log: Path) -> tuple[Any, Any]:
        """The task and the fastest configuration in a log."""
        records = list(autotvm.record.load_from_file(str(log)))
        task = autotvm_task(operator, self.target)
        index = records[int(np.argmin(self.times(log)))][0].config.index
        return task, task.config_space.get(index)
