"""Building and timing schedules inside this process, for both of TVM's tuners of schedules.

Their own runners start a process that imports TVM for every batch, and time while anything else
runs; here `measure` is the one place where a clock runs. A schedule that takes too long to compile
cannot be stopped this way: TVM's own builders are the ones for tuning in earnest.

Not a benchmark itself; `relay_tasks` uses it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import auto_scheduler, autotvm
from tvm.auto_scheduler.measure import MeasureErrorNo as SchedulerError
from tvm.autotvm.measure.measure import MeasureErrorNo as TunerError

_SLOW_S = 0.05
_FAILED_S = 1e10
"""Time that both tuners' own runners write for a failed candidate."""

Module = tvm.runtime.Module
Arrays = list[tvm.nd.NDArray]


def measure(module: Module, arrays: Arrays, repeats: int = 4, batch_ms: int = 8) -> float:
    """Seconds of the fastest of several batches of runs."""
    timed = module.time_evaluator(module.entry_name, tvm.cpu(), number=1, repeat=1)
    timed(*arrays)
    once = timed(*arrays).min
    if once > _SLOW_S:
        return once
    batches = module.time_evaluator(
        module.entry_name, tvm.cpu(), number=1, repeat=repeats, min_repeat_ms=batch_ms
    )
    return min(once, batches(*arrays).min)


def random_arrays(tensors: Sequence[Any]) -> Arrays:
    """An array for each input and output of a schedule."""
    draw = np.random.default_rng(0)
    shapes = [[int(size) for size in tensor.shape] for tensor in tensors]
    return [tvm.nd.array(draw.standard_normal(shape).astype("float32")) for shape in shapes]


class HereBuilder(autotvm.measure.measure.Builder):
    """AutoTVM's builder without a process of its own.

    Args:
        batch: Configurations that the tuner hands over at once.
        known: Seconds of configurations timed before, by index: these are not built.
    """

    def __init__(self, batch: int, known: Mapping[int, float]) -> None:
        super().__init__(n_parallel=batch)
        self.known = known

    def build(self, measure_inputs: Sequence[Any]) -> list[Any]:
        """One module with its tensors for each input, None where known, or the exception."""
        return [
            None
            if item.config.index in self.known
            else _outcome(build_config, item.task, item.config)
            for item in measure_inputs
        ]


class HereRunner(autotvm.measure.measure.Runner):
    """AutoTVM's runner without a process of its own, which times a configuration once.

    Args:
        known: Seconds of configurations timed before, by index; new ones are added.
    """

    def __init__(self, known: dict[int, float]) -> None:
        super().__init__()
        self.known = known

    def get_build_kwargs(self) -> dict[str, Any]:
        """None."""
        return {}

    def run(self, measure_inputs: Sequence[Any], build_results: Sequence[Any]) -> list[Any]:
        """One `autotvm.MeasureResult` for each input."""
        return [self._timed(*pair) for pair in zip(measure_inputs, build_results, strict=True)]

    def _timed(self, item: Any, built: Any) -> Any:
        start, index = time.time(), item.config.index
        if isinstance(built, Exception):
            cost: Any = ("", str(built)[:500])
            return autotvm.MeasureResult(cost, TunerError.COMPILE_HOST, 0.0, start)
        if index not in self.known:
            self.known[index] = measure(built[0], random_arrays(built[1]))
        return autotvm.MeasureResult(
            (self.known[index],), TunerError.NO_ERROR, time.time() - start, start
        )


def search_with_auto_scheduler(
    task: auto_scheduler.SearchTask,
    model: Any,
    trials: int,
    batch: int,
    log: Path,
    evolution: Mapping[str, int],
    seed: int,
) -> None:
    """A search of a task with a cost model, builds and times in this process; writes TVM's log.

    Args:
        task: The task.
        model: Its cost model.
        trials: Measurements.
        batch: Measurements between two updates of the model.
        log: TVM's own log, which is appended to.
        evolution: Parameters of `SketchPolicy`.
        seed: Seed of the search.
    """
    measure_here()
    policy = auto_scheduler.SketchPolicy(task, model, dict(evolution), seed, verbose=0)
    options = auto_scheduler.TuningOptions(
        num_measure_trials=trials,
        num_measures_per_round=batch,
        builder=auto_scheduler.LocalBuilder(),
        runner=auto_scheduler.LocalRunner(),
        measure_callbacks=[auto_scheduler.RecordToFile(str(log))],
        verbose=0,
    )
    task.tune(options, search_policy=policy)


def build_config(task: autotvm.task.Task, config: Any) -> tuple[Module, list[Any]]:
    """A configuration of AutoTVM, compiled."""
    with task.target:
        schedule, tensors = task.instantiate(config)
        if not config.valid():
            raise ValueError("; ".join(map(str, config.errors)))
        return tvm.build(schedule, tensors, task.target), list(tensors)


def build_state(task: auto_scheduler.SearchTask, state: Any) -> tuple[Module, list[Any]]:
    """A schedule of auto_scheduler, compiled."""
    schedule, tensors = task.compute_dag.apply_steps_from_state(
        state, layout_rewrite=task.layout_rewrite_option
    )
    return tvm.build(schedule, tensors, task.target), list(tensors)


def measure_here() -> None:
    """Lets auto_scheduler's local builder and runner work inside this process."""
    built: dict[str, tuple[Module, list[Any]]] = {}

    def build(inputs: Any, *_: Any) -> list[Any]:
        results = []
        for number, item in enumerate(inputs):
            start, name = time.time(), f"{time.monotonic_ns()}.{number}"
            outcome = _outcome(build_state, item.task, item.state)
            failed = isinstance(outcome, Exception)
            if not failed:
                built[name] = outcome
            code = SchedulerError.COMPILE_HOST if failed else SchedulerError.NO_ERROR
            message, spent = str(outcome)[:500] if failed else None, time.time() - start
            tensors = [] if failed else outcome[1]
            results.append(auto_scheduler.measure.BuildResult(name, tensors, code, message, spent))
        return results

    def run(inputs: Any, build_results: Any, *_: Any) -> list[Any]:
        return [_run_one(built.pop(str(result.filename), None), result) for result in build_results]

    tvm.register_func("auto_scheduler.local_builder.build", build, override=True)
    tvm.register_func("auto_scheduler.local_runner.run", run, override=True)


def _run_one(built: tuple[Module, list[Any]] | None, result: Any) -> Any:
    if built is None:
        cost, code, message = _FAILED_S, int(result.error_no), str(result.error_msg)
    else:
        cost, code, message = measure(built[0], random_arrays(built[1])), 0, None
    return auto_scheduler.MeasureResult([cost], code, message, float(result.time_cost), time.time())


def _outcome(build: Any, task: Any, candidate: Any) -> Any:
    try:
        return build(task, candidate)
    except Exception as error:  # whatever TVM raises is the candidate's own failure
        return error
