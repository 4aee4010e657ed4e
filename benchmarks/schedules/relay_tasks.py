"""Searching schedules with AutoTVM and auto_scheduler: our cost model against their XGBoost.

    python -m benchmarks.schedules.relay_tasks          # all stages; goes on where it stopped
    python -m benchmarks.schedules.relay_tasks --trials 16 --seeds 1 --operators 2 \
        --stages earlier search
    python -m benchmarks.schedules.relay_tasks --systems autotvm --minutes 20

Run it at the repository's root in the Relay environment (``bash scripts/relay_environment.sh``
prints its python), on one core, with ``taskset -c 0`` in front. Stages: ``earlier`` tunes other
shapes and writes the logs that the strategies named ``+logs`` start from; ``replay`` lets every
strategy search those logs themselves, without building anything; ``search`` runs every strategy
with every seed on every task; ``confirm`` builds the winner of each search again and times those of
a task in interleaved rounds; ``table`` prints, and writes ``results/relay_tasks.<machine>.md``.
Logs are TVM's own, one file for a search, in ``build/relay_tasks``; a search that was cut off is
run again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("TVM_NUM_THREADS", "1")
os.environ.setdefault("TOPHUB_LOCATION", "NONE")

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from benchmarks.schedules import schedule_timing
from benchmarks.schedules.schedule_replay import BATCH as REPLAY_BATCH
from benchmarks.schedules.schedule_replay import SchedulerPool, TunerPool, replay
from benchmarks.schedules.schedule_strategies import BATCH, STRATEGIES, AutoScheduler, AutoTVM
from benchmarks.schedules.schedule_tasks import EARLIER, SEARCHED, Operator
from tvm_costmodel.atomic_files import write_atomically

FOLDER = results_file.RESULTS.parent / "build" / "relay_tasks"
STAGES = ("earlier", "replay", "search", "confirm", "table")
SYSTEMS = {"auto_scheduler": AutoScheduler, "autotvm": AutoTVM}
Shares = dict[tuple[str, str, int], list[float]]
"""By task, strategy and seed: the share after each number of trials."""

POOLS = {"auto_scheduler": SchedulerPool, "autotvm": TunerPool}
REPLAY_MARKS = (8, 16, 24, 32, 48)
ROUNDS = 8
TIE = 0.02
MARKS = (16, 32, 64)
SOURCE = {"auto_scheduler": "xgboost", "autotvm": "random"}
"""The strategy of the search that wrote the earlier logs."""

PROTOCOL = f"""Searches of one operator at a time at equal trials, one thread, float32.

**Replayed**: the candidates are those of a log, with their times, and a cost model chooses which
to take next, {REPLAY_BATCH} at a time after {REPLAY_BATCH} random ones (ours with logs chooses from
the start). `+logs` learns from the logs of the other tasks. Shares are of the speed of the fastest
candidate. Nothing is built or timed, so the figures leave out how well a model guides what a search
generates. The settings of our model were chosen on auto_scheduler's logs; AutoTVM's were not looked
at.

**Searched**: strategies share everything but the cost model: the same search (auto_scheduler:
`SketchPolicy`, population 64; AutoTVM: `ModelBasedTuner`, the same simulated annealing), {BATCH}
trials between two updates, the same features of statements for auto_scheduler; AutoTVM's XGBoost
with its default features. `+logs` starts from logs of other shapes (auto_scheduler's of a search
with its XGBoost, AutoTVM's of random configurations): XGBoost by `update_from_file` and
`load_history`, which AutoTVM confines to logs of the same template. A trial's time is the fastest
of several batches of runs. AutoTVM's configurations are timed once for all strategies. The winner
of each search was built again, and the winners of a task were timed in {ROUNDS} interleaved rounds;
the figures at the last trial are theirs.

A share is the fastest known time of the task over the strategy's: means over tasks and seeds that
all strategies finished, standard error in brackets. The speed over the first strategy is a
geometric mean of the winners' speeds; ahead and behind count those that differ by more than
{100 * TIE:.0f} %.
"""


def log_path(system: Any, operator: Operator, strategy: str, seed: int, folder: Path) -> Path:
    return folder / f"{system.name}.{operator.name.replace(' ', '_')}.{strategy}.{seed}.log"


def run_search(
    system: Any,
    operator: Operator,
    strategy: str,
    seed: int,
    trials: int,
    folder: Path,
    earlier: list[Path],
) -> None:
    """Runs a search unless its log is there; a log gets its name when it is whole."""
    path = log_path(system, operator, strategy, seed, folder)
    if path.is_file():
        return
    partial = path.with_suffix(".part")
    partial.unlink(missing_ok=True)
    start = time.perf_counter()
    system.search(operator, strategy, seed, trials, partial, earlier)
    partial.rename(path)
    times = system.times(path)
    print(
        f"{system.name} {operator.name} {strategy} seed {seed}: {len(times)} trials, "
        f"best {min(times) * 1e3:.4g} ms, {time.perf_counter() - start:.0f} s",
        flush=True,
    )


def searches(options: argparse.Namespace) -> Iterator[tuple[Operator, str, int]]:
    """Seed by seed and task by task, the strategies of a task one after the other."""
    chosen = SEARCHED[: options.operators]
    for seed, operator, strategy in product(range(options.seeds), chosen, options.strategies):
        yield operator, strategy, seed


def earlier_logs(system: Any, folder: Path) -> list[Path]:
    strategy = SOURCE[system.name]
    paths = [log_path(system, operator, strategy, 0, folder / "earlier") for operator in EARLIER]
    return [path for path in paths if path.is_file()]


def replay_path(system: Any, folder: Path) -> Path:
    return folder / f"replayed.{system.name}.json"


def run_replays(system: Any, options: argparse.Namespace, folder: Path) -> None:
    """Replays every strategy on the log of every earlier task, unless its result is stored."""
    path = replay_path(system, folder)
    rows = json.loads(path.read_text()) if path.is_file() else []
    done = {(operator, strategy, seed) for operator, strategy, seed, _ in rows}
    pools = [POOLS[system.name](log.name, log) for log in earlier_logs(system, folder)]
    for seed, pool, strategy in product(range(options.replays), pools, options.strategies):
        if (pool.name, strategy, seed) not in done:
            others = [other for other in pools if other is not pool]
            times = replay(pool, strategy, seed, max(REPLAY_MARKS), others)
            best = np.minimum.accumulate(times)
            marks = [best[min(mark, len(best)) - 1] for mark in REPLAY_MARKS]
            rows.append([pool.name, strategy, seed, [pool.seconds.min() / one for one in marks]])
            write_atomically(path, json.dumps(rows))


def replayed(system: Any, folder: Path) -> Shares:
    path = replay_path(system, folder)
    rows = json.loads(path.read_text()) if path.is_file() else []
    return {(operator, strategy, seed): shares for operator, strategy, seed, shares in rows}


def confirm(system: Any, options: argparse.Namespace, folder: Path) -> None:
    """Times the winners of each task's searches in interleaved rounds."""
    for operator in SEARCHED[: options.operators]:
        builds: dict[str, Any] = {}
        for strategy, seed in product(options.strategies, range(options.seeds)):
            path = log_path(system, operator, strategy, seed, folder)
            if path.is_file():
                module, tensors = _build(system, *system.best(operator, path))
                builds[path.name] = module, schedule_timing.random_arrays(tensors)
        times: dict[str, float] = {name: np.inf for name in builds}
        for _ in range(ROUNDS):
            for name, built in builds.items():
                times[name] = min(times[name], schedule_timing.measure(*built))
        path = folder / f"confirmed.{system.name}.{operator.name.replace(' ', '_')}.json"
        write_atomically(path, json.dumps(times, indent=1))
        print(f"{system.name} {operator.name}: {len(times)} winners confirmed", flush=True)


def _build(system: Any, task: Any, candidate: Any) -> Any:
    if system.name == "auto_scheduler":
        return schedule_timing.build_state(task, candidate)
    return schedule_timing.build_config(task, candidate)


def shares(system: Any, options: argparse.Namespace, folder: Path) -> Shares:
    """Share of the fastest known speed after some trials, by (task, strategy, seed)."""
    shares_of: Shares = {}
    for operator in SEARCHED[: options.operators]:
        stem = operator.name.replace(" ", "_")
        path = folder / f"confirmed.{system.name}.{stem}.json"
        confirmed = json.loads(path.read_text()) if path.is_file() else {}
        curves = {}
        for strategy, seed in product(options.strategies, range(options.seeds)):
            log = log_path(system, operator, strategy, seed, folder)
            times = system.times(log)
            if log.name in confirmed:
                best = np.minimum.accumulate(times)
                marks = [best[min(mark, len(best)) - 1] for mark in marks_of(options)]
                # Of the winner, both times are known: their ratio puts the others on one scale.
                scale = confirmed[log.name] / best[-1]
                curves[operator.name, strategy, seed] = [float(mark * scale) for mark in marks]
        fastest = min((curve[-1] for curve in curves.values()), default=np.nan)
        shares_of |= {key: [fastest / mark for mark in curve] for key, curve in curves.items()}
    return shares_of


def marks_of(options: argparse.Namespace) -> list[int]:
    return sorted({*(mark for mark in MARKS if mark < options.trials), options.trials})


def finished(all_shares: Shares, strategies: Sequence[str]) -> Shares:
    """Shares of some strategies on the (task, seed) pairs that all of them finished."""
    mine = {key: one for key, one in all_shares.items() if key[1] in strategies}
    count = Counter((operator, seed) for operator, _, seed in mine)
    return {k: one for k, one in mine.items() if count[k[0], k[2]] == len(strategies)}


def groups(all_shares: Shares, strategies: Sequence[str]) -> list[tuple[str, ...]]:
    """All strategies, and, where some were run on less, those that were run on most."""
    runs = Counter(strategy for _, strategy, _ in all_shares)
    most = max(runs.values(), default=0)
    every = tuple(s for s in strategies if runs[s])
    return list(dict.fromkeys([tuple(s for s in every if runs[s] == most), every]))


def summary(all_shares: Shares, strategies: Sequence[str], marks: Sequence[int]) -> str:
    """Shares after some trials, and how often each is ahead of the first strategy in the end."""
    rows = []
    for strategy in strategies:
        mine = {(o, n): one for (o, s, n), one in all_shares.items() if s == strategy}
        mean, error = 100 * np.mean([*mine.values()], 0), 100 * np.std([*mine.values()], 0)
        error /= np.sqrt(len(mine))
        ratios = [one[-1] / all_shares[o, strategies[0], n][-1] for (o, n), one in mine.items()]
        ahead, behind = sum(r > 1 + TIE for r in ratios), sum(r < 1 - TIE for r in ratios)
        cells = [f"{m:.1f} ({e:.1f})" for m, e in zip(mean, error, strict=True)]
        rows.append([strategy, *cells, np.exp(np.mean(np.log(ratios))), f"{ahead} / {behind}"])
    after = [f"after {mark}, %" for mark in marks]
    heads = ["cost model", *after, f"speed over {strategies[0]}", "ahead / behind"]
    return tabulate(rows, heads, tablefmt="github", floatfmt=".3f")


def by_task(all_shares: Shares, strategies: Sequence[str]) -> str:
    """Shares at the last trial, a row for each task."""
    rows = []
    for operator in dict.fromkeys(name for name, _, _ in all_shares):
        cells = []
        for strategy in strategies:
            mine = [
                one[-1] for (o, s, _), one in all_shares.items() if (o, s) == (operator, strategy)
            ]
            cells.append(f"{100 * np.mean(mine):.1f}" if mine else "-")
        rows.append([operator, *cells])
    return tabulate(rows, ["task, %", *strategies], tablefmt="github")


def tables(all_shares: Shares, marks: Sequence[int], options: argparse.Namespace) -> list[str]:
    """All tables of one system's searches."""
    parts = []
    for strategies in groups(all_shares, options.strategies):
        mine = finished(all_shares, strategies)
        if mine:
            pairs = {(operator, seed) for operator, _, seed in mine}
            tasks = {operator for operator, _ in pairs}
            parts.append(f"{len(tasks)} tasks, {len(pairs)} searches for each cost model:")
            parts.append(summary(mine, strategies, marks))
    return parts


def write_table(systems: list[Any], options: argparse.Namespace, folder: Path) -> None:
    parts = []
    for system in systems:
        logs = [len(system.times(path)) for path in earlier_logs(system, folder)]
        parts.append(f"## {system.name}")
        parts.append(f"Earlier logs: {sum(logs)} trials of {len(logs)} tasks.")
        replays = tables(replayed(system, folder), REPLAY_MARKS, options)
        parts += ["### Replayed", *replays] if replays else []
        searched = shares(system, options, folder)
        live = tables(searched, marks_of(options), options)
        parts += ["### Searched", *live, "Task by task, at the last trial:"] if live else []
        parts += [by_task(searched, options.strategies)] if live else []
    body = "\n\n".join(parts)
    print(body)
    if options.operators >= 4:
        results_file.write("Searching schedules at equal trials", PROTOCOL, body)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--earlier", type=int, default=96, help="trials of each earlier task")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--replays", type=int, default=5, help="seeds of the replay")
    parser.add_argument("--operators", type=int, default=len(SEARCHED))
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for searches")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    folder = options.folder
    (folder / "earlier").mkdir(parents=True, exist_ok=True)
    systems = [SYSTEMS[name]() for name in options.systems]
    until = time.monotonic() + 60 * options.minutes
    if "earlier" in options.stages:
        for system, operator in product(systems, EARLIER):
            place = folder / "earlier"
            run_search(system, operator, SOURCE[system.name], 0, options.earlier, place, [])
    if "replay" in options.stages:
        for system in systems:
            run_replays(system, options, folder)
    if "search" in options.stages:
        for (operator, strategy, seed), system in product(searches(options), systems):
            if time.monotonic() < until:
                logs = earlier_logs(system, folder)
                run_search(system, operator, strategy, seed, options.trials, folder, logs)
    if "confirm" in options.stages:
        for system in systems:
            confirm(system, options, folder)
    if "table" in options.stages:
        write_table(systems, options, folder)


if __name__ == "__main__":
    main(arguments())
