r"""Tuning with Relay on held-out networks, by predictor.

    python benchmarks/relay/relay_tuning.py run --labels LABELS.jsonl.xz --minutes 40 --core 1 \
        --strategy flops_kernel=DIR,DIR,DIR --strategy relay_xgboost=DIR,DIR,DIR \
        --strategy relay_kernel_former=DIR,DIR,DIR
    python benchmarks/relay/relay_tuning.py table --labels ...         # with the same strategies

Strategies are replayed here, where torch is; what they want measured is measured where TVM has
Relay (``.venv-relay``, or ``RELAY_ENVIRONMENT_PYTHON``), which ``run`` calls. ``run`` goes on where
an earlier call stopped. A directory is one seed's checkpoint, trained on a split of its own; ours
is the last strategy; random search is always among them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from tabulate import tabulate

from benchmarks import results_file
from benchmarks.relay.relay_networks import (
    NETWORKS,
    read_graph,
    read_source,
    refuse_labelled,
    write_networks,
)
from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.profiling.devices import Device, resolve_device
from tvm_costmodel.profiling.label_files.variants import read_variants
from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.paired_profiler import PairedProfiler
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.variants import VariantRun
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.relay_decisions import RELAY_DECISIONS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("build/relay_tuning")
COMPILER = "relay"
DRAWN = {"random_constants": True}
"""How candidates are built for timing; winners are also built with their own weights."""
POOL, CONFIRMED, FINAL, VERIFIED = "pool.db", "confirmed.db", "final.db", "verified.db"
CONFIRM_ROUNDS = 4
ROUNDS = {POOL: None, CONFIRMED: CONFIRM_ROUNDS, FINAL: 2 * CONFIRM_ROUNDS, VERIFIED: 1}
"""Rounds of a row of each store; the tuner's own number where None."""
TOLERANCE = 1e-3
PROTOCOL = """\
Every strategy is the tuner with another scorer: {measure} candidates measured in two rounds, its
three favourites confirmed, the default (opt level 3) returned where none beats it beyond noise;
{seeds} seeds, each with a checkpoint trained on another split. Candidates were built with random
constants and timed in one pool for each network, interleaved with the default (2 rounds, confirmed
with {rounds}); a ratio is the mean over rounds of the latency in units of a reference kernel. The
pool holds what any strategy wanted and neighbours of the fastest, {candidates} or more for each
network, or all that there are. What the strategies returned and the three fastest of the pool were
then timed once more together, {finals} rounds, and shares of the best known are of those. Winners
of our strategy were built with their weights and their outputs compared with the default's within
1e-3. One thread. None of the networks is among the {labels} labelled ones."""


def relay_device() -> Device:
    """This machine, as labels of Relay name it."""
    return resolve_device("cpu").with_compiler("relay")


@dataclass(frozen=True)
class Bench:
    """One folder of the benchmark.

    Attributes:
        folder: Where everything is kept.
        strategies: ``NAME=DIR,DIR`` each, ours last.
        labels: Exported variants of Relay.
        networks: Names from `relay_networks`.
        seeds: Seeds of each strategy.
        measure: Candidates that a strategy may measure.
        candidates: Rows of a network's pool, at least.
        core: The core to measure on; the last one when not given.
        lock: File that programs share which measure at the same time; none when not given.
        results: Where the table goes; the benchmarks' own folder when not given.
    """

    folder: Path
    strategies: tuple[str, ...] = ()
    labels: Path | None = None
    networks: tuple[str, ...] = NETWORKS
    seeds: int = 3
    measure: int = 8
    candidates: int = 80
    core: int | None = None
    lock: Path | None = None
    results: Path | None = None

    @property
    def places(self) -> Path:
        """Folder of the networks."""
        return self.folder / "networks"

    @property
    def wanted(self) -> Path:
        """What is to be measured, by network and store."""
        return self.folder / "wanted.json"

    def prepare(self) -> None:
        """Writes the networks; where TVM has Relay."""
        write_networks(self.places, self.networks)

    def fill(self, minutes: float) -> None:
        """Measures what is wanted; where TVM has Relay."""
        end = time.monotonic() + 60 * minutes
        wanted: dict[str, dict[str, list[Any]]] = json.loads(self.wanted.read_text())
        for store in ROUNDS:
            todo = {name: kinds[store] for name, kinds in wanted.items() if kinds.get(store)}
            if todo:
                self._fill(store, todo, end)

    def _fill(self, store: str, todo: Mapping[str, list[Any]], end: float) -> None:
        from tvm_costmodel.tuning.space.decision_space import DecisionSpace

        cores = None if self.core is None else (self.core,)
        drawn = None if store == VERIFIED else DRAWN
        with Store(self.folder / store) as opened:
            unopened = PairedProfiler(
                relay_device(),
                opened,
                MeasurementConfig(kernels=False),
                drawn,
                cores,
                progress=False,
                compiler=COMPILER,
                timing_lock=self.lock,
            )
            with unopened as profiler:
                for name, listed in todo.items():
                    if time.monotonic() > end:
                        return
                    start = time.monotonic()
                    graph = profiler.open(read_source(self.places, name))
                    space = DecisionSpace.for_graph(graph, TOLERANCE, compiler="relay")
                    candidates = [Candidate.from_dict(fields) for fields in listed]
                    trials = [VariantRun(space.config_fields(c), c.to_dict()) for c in candidates]
                    profiler.measure(trials, None if drawn else TOLERANCE, ROUNDS[store])
                    took = time.monotonic() - start
                    print(f"{name}: {store} {len(trials)} in {took:.0f} s", flush=True)

    def run(self, minutes: float) -> None:
        """Replays and measures in turn until all is there or the time is up."""
        end = time.monotonic() + 60 * minutes
        self._there("prepare")
        refuse_labelled(self.places, self._labelled(), self.networks)
        while time.monotonic() < end:
            wanted = self.plan()
            if not wanted:
                print("all measured")
                return
            write_atomically(self.wanted, json.dumps(wanted))
            self._there("fill", "--minutes", str((end - time.monotonic()) / 60))
        print("the time is up")

    def plan(self) -> dict[str, dict[str, list[Any]]]:
        """What is to be measured next, by network and store; empty when all is there."""
        from benchmarks.relay.relay_pool import next_of

        wanted = {}
        for name, network in self.pools().items():
            kind, candidates = next_of(network, self.shared_plan())
            if kind == "done":
                kind, candidates = VERIFIED, list(self._unverified(network))
            if candidates:
                store = {"pool": POOL, "confirm": CONFIRMED, "final": FINAL}.get(kind, kind)
                wanted[name] = {store: [candidate.to_dict() for candidate in candidates]}
        return wanted

    def pools(self) -> dict[str, Any]:
        """Each network's view of the pool."""
        from benchmarks.graph_tuning.tuning_pool import Pool
        from benchmarks.relay.relay_pool import RelayNetworkPool

        searches = self.folder / "searches"
        searches.mkdir(parents=True, exist_ok=True)
        pool = Pool.open(self.folder, relay_device())
        graphs = {name: read_graph(self.places, name) for name in self.networks}
        return {
            name: RelayNetworkPool(name, graph, pool, searches, self.measure)
            for name, graph in graphs.items()
        }

    def shared_plan(self) -> Any:
        """Strategies, seeds and budgets."""
        from benchmarks.graph_tuning.tuning_measure import Plan
        from benchmarks.graph_tuning.tuning_strategies import Strategy

        listed = tuple(Strategy.read(text) for text in ("random", *self.strategies))
        return Plan(listed, self.seeds, self.candidates, confirm_rounds=CONFIRM_ROUNDS)

    def _unverified(self, network: Any) -> Iterator[Candidate]:
        """Winners of our strategy whose outputs were not compared yet."""
        seen = set(self.verified().get(network.graph.hash, {}))
        for winner in _winners(network, self.shared_plan()):
            if winner.entries and winner not in seen:
                seen.add(winner)
                yield winner

    def verified(self) -> dict[str, dict[Candidate, tuple[str, float]]]:
        """Status and largest relative difference of outputs, by network and candidate."""
        path = self.folder / VERIFIED
        outcomes: dict[str, dict[Candidate, tuple[str, float]]] = {}
        if not path.exists():
            return outcomes
        with Store(path, write=False) as store:
            for row in store.measurements(relay_device().name, status=None, variants=True):
                candidate = Candidate.from_dict(row.pipeline["decisions"])
                error = row.timing.max_rel_err if row.timing is not None else None
                outcome = (row.status, math.nan if error is None else error)
                outcomes.setdefault(row.graph_hash, {})[candidate] = outcome
        return outcomes

    def table(self) -> None:
        """Prints the figures and writes them to the results."""
        from benchmarks.graph_tuning.tuning_figures import network_figures

        plan, pools, verified = self.shared_plan(), self.pools(), self.verified()
        figures = {name: network_figures(pool, plan) for name, pool in pools.items()}
        names = [strategy.name for strategy in plan.strategies]
        parts = [_strategies(figures, pools, names), _networks(figures, pools, plan, verified)]
        labels = self._labelled()
        protocol = PROTOCOL.format(
            measure=self.measure, seeds=self.seeds, rounds=CONFIRM_ROUNDS, finals=ROUNDS[FINAL],
            candidates=self.candidates, labels=len(labels),
        )  # fmt: skip
        body = "\n\n".join(parts)
        print(body)
        path = results_file.write(
            "Tuning with Relay", protocol, body, stem="relay_tuning", folder=self.results
        )
        write_atomically(path.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")

    def _labelled(self) -> set[str]:
        if self.labels is None:
            return set()
        return {record.graph_hash for record in read_variants(self.labels, keep_stale=True).records}

    def _there(self, stage: str, *more: str) -> None:
        """Runs a stage in the environment whose TVM has Relay."""
        command = [_relay_python(), str(Path(__file__).resolve()), stage, *more]
        command += ["--folder", str(self.folder), "--networks", ",".join(self.networks)]
        if self.core is not None:
            command += ["--core", str(self.core)]
        if self.lock is not None:
            command += ["--lock", str(self.lock)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment)


def _relay_python() -> str:
    for place in (os.environ.get("RELAY_ENVIRONMENT_PYTHON"), ROOT / ".venv-relay/bin/python"):
        if place and Path(place).is_file():
            return str(place)
    raise SystemExit("there is no Relay environment; make one: bash scripts/relay_environment.sh")


def _winners(network: Any, plan: Any) -> Iterable[Candidate]:
    """What our strategy returned, by seed, as far as its rows allow."""
    ours = plan.strategies[-1].name
    for seed in range(plan.seeds):
        yield from (r.winner for r in plan.replays(network, seed).done if r.strategy == ours)


def _strategies(figures: Mapping[str, Any], pools: Mapping[str, Any], names: Sequence[str]) -> str:
    from benchmarks.graph_tuning.tuning_figures import shares

    rows = []
    for name in names:
        share = shares(figures, name)
        if share is None:
            rows.append([name, *["missing"] * 6])
            continue
        worst = f"{share['worst']:.1f} ({share['worst_network']})"
        error = share["speedup"] * _noise(figures, pools, name)
        speedup = f"{share['speedup']:.3f} ± {error:.3f}"
        rows.append([name, f"{share['mean']:.1f}", f"{share['spread']:.1f}", worst,
                     f"{share['lowest']:.1f}", speedup, share["runs"]])  # fmt: skip
    headers = (
        "strategy, share of best known %, spread over seeds, worst network %, lowest run %, "
        "speed-up over opt level 3, runs"
    ).split(", ")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def _noise(figures: Mapping[str, Any], pools: Mapping[str, Any], strategy: str) -> float:
    """Standard error of the geometric mean's logarithm, from that of each network's ratios."""
    errors = []
    for name, network in figures.items():
        runs = [run for run in network["runs"] if run["strategy"] == strategy]
        ratios = [pools[name].ratio(Candidate.from_dict(run["winner"])) for run in runs]
        errors.append(mean(ratio.error for ratio in ratios if ratio is not None))
    return math.sqrt(sum(error**2 for error in errors)) / max(1, len(errors))


def _networks(
    figures: Mapping[str, Any],
    pools: Mapping[str, Any],
    plan: Any,
    verified: Mapping[str, Mapping[Candidate, tuple[str, float]]],
) -> str:
    from benchmarks.graph_tuning.tuning_figures import shares

    names = [strategy.name for strategy in plan.strategies]
    of = {name: (shares(figures, name) or {}).get("networks", {}) for name in names}
    declared = {decision.name: decision for decision in RELAY_DECISIONS}
    rows = []
    for name, network in figures.items():
        best = Candidate.from_dict(network["best"]["candidate"])
        chosen = [(declared[key], value) for key, value in best.network]
        decisions = ", ".join(f"{d.title or d.name} {d.label(v)}" for d, v in chosen) or "default"
        winners = {w for w in _winners(pools[name], plan) if w.entries}
        checks = [verified.get(network["graph_hash"], {}).get(winner) for winner in winners]
        errors = [check[1] if check and check[0] == "ok" else math.nan for check in checks]
        cells = [f"{of[strategy].get(name, math.nan):.1f}" for strategy in names]
        rows.append([name, network["joint_size"], network["measured"], network["failed"],
                     f"{1 / network['best']['ratio']:.3f}", decisions, *cells,
                     f"{max(errors):.1e}" if errors else "-"])  # fmt: skip
    headers = ["network", "candidates", "measured", "failed", "best known speed-up", "which is"]
    headers += [*(f"{strategy} %" for strategy in names), "error of our outputs"]
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    """Reads the command line and runs a stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("run", "table", "prepare", "fill"))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--labels", type=Path, help="labels that no network may be among")
    parser.add_argument("--strategy", action="append", default=[], metavar="NAME=DIR[,DIR...]")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--measure", type=int, default=8)
    parser.add_argument("--candidates", type=int, default=80)
    parser.add_argument("--core", type=int)
    parser.add_argument("--lock", type=Path, help="shared with others that measure now")
    parser.add_argument("--minutes", type=float, default=math.inf)
    args = parser.parse_args()
    bench = Bench(
        args.folder, tuple(args.strategy), args.labels, tuple(args.networks.split(",")),
        args.seeds, args.measure, args.candidates, args.core, args.lock,
    )  # fmt: skip
    args.folder.mkdir(parents=True, exist_ok=True)
    stages = {"table": bench.table, "prepare": bench.prepare}
    if args.stage in stages:
        stages[args.stage]()
    else:
        {"run": bench.run, "fill": bench.fill}[args.stage](args.minutes)


if __name__ == "__main__":
    main()
