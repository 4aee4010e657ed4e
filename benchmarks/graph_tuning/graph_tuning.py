"""Graph-level tuning of held-out networks: predictors, fixed choices and other engines compared.

    python benchmarks/graph_tuning/graph_tuning.py prepare plan warm  # no timing: may be busy
    python benchmarks/graph_tuning/graph_tuning.py measure --core 0 --minutes 45 &
    python benchmarks/graph_tuning/graph_tuning.py measure --core 1 --minutes 45
    python benchmarks/graph_tuning/graph_tuning.py times tune speed table

Every stage goes on where an earlier call stopped; ``--minutes`` bounds a call of ``measure``,
``times`` and ``tune``. Settings are kept in the folder, so that later calls need not repeat them.
Programs of one folder may run at the same time, each on a core of its own: they build
concurrently and time alone.

========= =======================================================================================
prepare   networks as ONNX files, after a check that none of them is labelled
plan      every strategy's search
warm      what ``torch.compile`` compiles, into its own cache
measure   the candidates that the strategies want, the fixed choices, neighbours of the fastest;
          the fastest and what each strategy returns again, with more rounds, twice
times     default and tuned build, ONNX Runtime, ``torch.compile``, TVM's default code
tune      ``tvm-costmodel tune`` as a user runs it, and how long that takes
speed     candidates made and scored a second
table     prints the figures and writes ``results/graph_tuning.<machine>.md`` and ``.json``
========= =======================================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import results_file
from benchmarks.graph_tuning.engines import ENGINES, TORCH, TUNED
from benchmarks.graph_tuning.new_kernels import known_share
from benchmarks.graph_tuning.tuned_networks import read_graphs, refuse_trained, write_networks
from benchmarks.graph_tuning.tuning_figures import (
    against_engines,
    fixed_choices,
    network_figures,
    pool_seconds,
    shares,
    tables,
    whole_space,
)
from benchmarks.graph_tuning.tuning_measure import Filler, claim
from benchmarks.graph_tuning.tuning_pool import NetworkPool, NotMeasuredYet, Pool
from benchmarks.graph_tuning.tuning_settings import (
    QUICK_MEASUREMENT,
    STRATEGIES,
    Settings,
    settings_of,
)
from benchmarks.graph_tuning.tuning_strategies import fingerprint
from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.errors import CostModelError
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.measuring.cpu_affinity import TimingLock
from tvm_costmodel.profiling.measuring.environment import machine_facts
from tvm_costmodel.profiling.measuring.record import MeasurementConfig

HERE = Path(__file__).resolve().parent
FOLDER = Path("build/graph_tuning")
PROTOCOL = """\
Every strategy is the tuner with another scorer: {measure} candidates measured in two rounds, its
three favourites confirmed, the default returned where none beats it beyond noise; {seeds} seeds.
A search scores up to 6,000 candidates with `KernelFormer` and 512 with the others, which read a
whole graph for each. Every seed has a checkpoint of its own, trained on another split.
Candidates were measured in one pool per network, interleaved with the default (2 rounds, confirmed
with {rounds}), outputs compared with the default's within 1e-3; a ratio is the mean over rounds of
the latency in units of a reference kernel. The pool holds all that any strategy wanted, every
fixed choice, the next of our own list and neighbours of the fastest. What the strategies returned
and the three fastest of the pool were then timed once more together, in twice as many rounds, and
shares of the best known candidate's speed are of those. One thread, except where said; on two
threads the tuned build is the one that was tuned on one. A speed-up over TVM is TVM's time over
the default's in one run, times the pool's ratio where the tuned build was not timed with them.
The networks' hashes are in none of {labels} labelled networks."""


@dataclass(frozen=True)
class Bench:
    """One folder of the benchmark.

    Attributes:
        folder: Where everything is kept.
        settings: Settings that the stages share.
        minutes: Time limit of this call.
        core: The core to measure on; the last one when not given.
        measurement: How a label is taken.
        results: Where the table goes; the benchmarks' own folder when not given.
    """

    folder: Path
    settings: Settings
    minutes: float = float("inf")
    core: int | None = None
    results: Path | None = None
    measurement: MeasurementConfig = field(default_factory=lambda: MeasurementConfig(kernels=False))

    @property
    def lock(self) -> Path:
        """The timing lock that the programs of a folder share."""
        return self.folder / "timing.lock"

    def model(self, name: str) -> Path:
        """A network's ONNX file."""
        return self.folder / "networks" / f"{name}.onnx"

    def networks(self) -> dict[str, NetworkPool]:
        """Each network's view of the pool."""
        (self.folder / "searches").mkdir(parents=True, exist_ok=True)
        pool = Pool.open(self.folder, resolve_device("cpu"))
        graphs = read_graphs(self.folder / "networks", self.settings.networks)
        where, most = self.folder / "searches", self.settings.measure
        return {n: NetworkPool(n, g, pool, where, most) for n, g in graphs.items()}

    def prepare(self) -> None:
        """Networks as files, none of them labelled, and how new their kernels are."""
        write_networks(self.folder / "networks", self.settings.networks)
        graphs = read_graphs(self.folder / "networks", self.settings.networks)
        print(f"{len(graphs)} networks, none among {refuse_trained(graphs)} labelled ones")
        for name in self.settings.networks:
            share = known_share(self.model(name))
            print(
                f"{name}: {share:.0%} of the default build's time in kernels of labels", flush=True
            )

    def plan(self) -> None:
        """Searches of every strategy on every network, which are kept."""
        for name, network in self.networks().items():
            for seed in range(self.settings.seeds):
                for strategy in self.settings.plan.strategies:
                    start = time.monotonic()
                    with contextlib.suppress(NotMeasuredYet):
                        network.replay(strategy, seed)
                    took = time.monotonic() - start
                    print(f"{name}: {strategy.name}, seed {seed}: {took:.1f} s", flush=True)

    def warm(self) -> None:
        """Compiles what ``torch.compile`` would compile while it is timed."""
        for name, threads in self._engine_runs():
            out = self.folder / "warm" / f"{name}.{threads}.json"
            if not out.exists():
                self._engines(name, threads, out, [TORCH], None)

    def measure(self) -> None:
        """Fills the pool."""
        networks = self.networks()
        args = (self.folder, self.settings.plan, networks, self.core, self.lock, self.measurement)
        whole = Filler(*args).run(self.minutes)
        print("all measured" if whole else "the time is up")

    def times(self) -> None:
        """Times our builds and other engines."""
        networks, end = self.networks(), time.monotonic() + 60 * self.minutes
        for name, threads in self._engine_runs():
            if time.monotonic() > end:
                print("the time is up")
                return
            out = self.folder / "times" / f"{name}.{threads}.json"
            candidate = self._winner(networks[name])
            if out.exists() and json.loads(out.read_text())["candidate"] == candidate:
                continue
            with claim(self.folder, f"{name}.{threads}") as mine:
                if mine:
                    self._engines(name, threads, out, ENGINES, candidate)

    def tune(self) -> None:
        """The command as a user runs it, each in a directory of its own."""
        end = time.monotonic() + 60 * self.minutes
        for name in self.settings.networks:
            if time.monotonic() > end:
                print("the time is up")
                return
            out = self.folder / "tune" / f"{name}.json"
            if not out.exists():
                self._tune(name, out)

    def speed(self) -> None:
        """Candidates made and scored a second, of ResNet-50 or the first network."""
        from tvm_costmodel.tuning.scoring.loading import load_scorer
        from tvm_costmodel.tuning.search.search import BUDGET, search

        networks = self.networks()
        name = "resnet50" if "resnet50" in networks else next(iter(networks))
        network = networks[name]
        predictor = self.settings.plan.strategies[-1].predictor(0)
        runs = []
        with TimingLock(self.lock).timing():
            for seed in range(3):
                start = time.perf_counter()
                scorer, _ = load_scorer(predictor, network.space, network.pool.device, seed)
                loaded = time.perf_counter() - start
                done = search(network.space, scorer, BUDGET, strategy="evolution", seed=seed)
                runs.append((done.per_second, done.scored / (loaded + done.seconds), done.scored))
        speed = {
            "network": name,
            "per_second": statistics.median(rate for rate, _, _ in runs),
            "per_second_with_loading": statistics.median(rate for _, rate, _ in runs),
            "scored": [scored for _, _, scored in runs],
            "cores": len(os.sched_getaffinity(0)),
        }
        print(speed)
        write_atomically(self.folder / "speed.json", json.dumps(speed) + "\n")

    def table(self) -> None:
        """Prints the figures and writes them to the results."""
        figures = self.figures()
        body = tables(figures, self.settings.ours)
        print(body)
        facts = machine_facts()
        protocol = PROTOCOL.format(
            measure=self.settings.measure,
            seeds=self.settings.seeds,
            rounds=self.settings.plan.confirm_rounds,
            labels=figures["labels"],
        )
        commands = "\n".join(dict.fromkeys(self._commands().read_text().splitlines()))
        path = results_file.write(
            "Graph-level tuning",
            protocol,
            f"{body}\n\n## Commands\n\n```\n{commands}\n```",
            facts=facts,
            stem="graph_tuning",
            folder=self.results,
        ).with_suffix(".json")
        write_atomically(path, json.dumps({"environment": facts, **figures}, indent=1) + "\n")
        print(f"written to {path}")

    def figures(self) -> dict[str, Any]:
        """All figures from what the stages stored."""
        networks, plan = self.networks(), self.settings.plan
        by_network = {name: network_figures(network, plan) for name, network in networks.items()}
        device = resolve_device("cpu").name
        marks = {p: fingerprint(p, device) for ps in self.settings.strategies.values() for p in ps}
        times = [json.loads(path.read_text()) for path in self._made("times")]
        spent = pool_seconds(self.folder / "visits.jsonl")
        tunes = {}
        for path in self._made("tune"):
            tunes[path.stem] = {
                **json.loads(path.read_text()),
                "pool_visits_s": spent.get(path.stem),
            }
        speed = self.folder / "speed.json"
        graphs = {name: network.graph for name, network in networks.items()}
        return {
            "settings": asdict(self.settings),
            "checkpoints": marks,
            "labels": refuse_trained(graphs),
            "networks": by_network,
            "strategies": {name: shares(by_network, name) for name in self.settings.strategies},
            "fixed": fixed_choices(by_network),
            "engines": against_engines(times, by_network, self.settings.ours),
            "tunes": whole_space(tunes, by_network),
            "throughput": json.loads(speed.read_text()) if speed.exists() else None,
        }

    def note_command(self) -> None:
        """Keeps the command that is running, for the table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self._commands(), "a") as file:
            file.write(results_file.command_line() + "\n")

    def _commands(self) -> Path:
        return self.folder / "commands.txt"

    def _made(self, stage: str) -> Iterator[Path]:
        """Files that a stage left, of the networks that are asked for."""
        for path in sorted((self.folder / stage).glob("*.json")):
            if path.name.split(".")[0] in self.settings.networks:
                yield path

    def _engine_runs(self) -> list[tuple[str, int]]:
        most = min(2, os.cpu_count() or 1)
        return [(name, t) for t in range(1, most + 1) for name in self.settings.networks]

    def _winner(self, network: NetworkPool) -> dict[str, Any] | None:
        """What our strategy returned with its first seed; None while that is open."""
        try:
            return network.replay(self.settings.plan.strategies[-1], 0).winner.to_dict()
        except NotMeasuredYet:
            return None

    def _engines(
        self,
        name: str,
        threads: int,
        out: Path,
        engines: Sequence[str],
        candidate: Mapping[str, Any] | None,
    ) -> None:
        out.parent.mkdir(parents=True, exist_ok=True)
        wanted = [e for e in engines if e != TUNED or candidate is not None]
        command = [sys.executable, str(HERE / "engines.py"), str(self.model(name))]
        command += ["--threads", str(threads), "--rounds", str(self.settings.rounds)]
        command += ["--engines", ",".join(wanted), "--lock", str(self.lock), "--out", str(out)]
        if threads == 1:
            core = max(os.sched_getaffinity(0)) if self.core is None else self.core
            command += ["--cores", str(core)]
        if candidate is not None:
            command += ["--candidate", json.dumps(candidate)]
        variables = {"TVM_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
        environment = os.environ | dict.fromkeys(variables, str(threads))
        environment["TORCHINDUCTOR_CACHE_DIR"] = str((self.folder / "inductor").resolve())
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        print(f"{name}, {threads} threads: {lines[-1] if lines else done.returncode}", flush=True)

    def _tune(self, name: str, out: Path) -> None:
        tuned = out.with_suffix("")
        shutil.rmtree(tuned, ignore_errors=True)
        predictor = self.settings.plan.strategies[-1].predictor(0)
        kind = "--checkpoint" if Path(predictor).is_dir() else "--predictor"
        command = [sys.executable, "-m", "tvm_costmodel", "tune", str(self.model(name))]
        command += ["--measure", str(self.settings.measure), kind, predictor]
        command += ["-o", str(tuned), "--format", "json"]
        with TimingLock(self.lock).timing():
            start = time.monotonic()
            done = subprocess.run(command, capture_output=True, text=True)
            wall = time.monotonic() - start
        if done.returncode:
            print(f"{name}: {done.stderr.strip()[-500:]}", flush=True)
            return
        shutil.rmtree(tuned, ignore_errors=True)
        result = {
            "wall_s": wall,
            "command": shlex.join(command[1:]),
            "report": json.loads(done.stdout),
        }
        write_atomically(out, json.dumps(result, indent=1) + "\n")
        print(f"{name}: {wall:.0f} s, {result['report']['speedup']:.2f}x", flush=True)


STAGES: dict[str, Callable[[Bench], None]] = {
    "prepare": Bench.prepare,
    "plan": Bench.plan,
    "warm": Bench.warm,
    "measure": Bench.measure,
    "times": Bench.times,
    "tune": Bench.tune,
    "speed": Bench.speed,
    "table": Bench.table,
}


def main(words: Sequence[str] | None = None) -> int:
    """Runs stages."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=STAGES, metavar="STAGE")
    parser.add_argument("--folder", type=Path, help=f"where all is kept ({FOLDER})")
    parser.add_argument("--networks", help="for this call: modern, kin, or names with commas")
    parser.add_argument(
        "--strategy",
        action="append",
        metavar="NAME[=P,P,...]",
        help="a predictor by name or directory, one for each seed or one for all; may be repeated, "
        f"ours last (default: {', '.join(STRATEGIES)})",
    )
    parser.add_argument("--seeds", type=int, help="seeds of each strategy (3)")
    parser.add_argument("--measure", type=int, help="candidates a strategy may measure (8)")
    parser.add_argument("--candidates", type=int, help="candidates of a pool, at least (80)")
    parser.add_argument("--bred", type=int, help="of these, beyond what is wanted (16)")
    parser.add_argument("--rounds", type=int, help="rounds of timing the engines (7)")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"), help="time limit of this call"
    )
    parser.add_argument("--core", type=int, help="core to measure on (the last one)")
    parser.add_argument("--quick", action="store_true", help="two tiny networks, random search")
    args = parser.parse_args(words)
    folder = args.folder or (FOLDER.with_name("graph_tuning_quick") if args.quick else FOLDER)
    measurement = QUICK_MEASUREMENT if args.quick else MeasurementConfig(kernels=False)
    settings = settings_of(args, folder)
    results = folder if args.quick else None
    bench = Bench(folder, settings, args.minutes, args.core, results, measurement)
    bench.note_command()
    try:
        for stage in args.stages:
            STAGES[stage](bench)
    except CostModelError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
