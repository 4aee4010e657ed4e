"""A predictor trained on one phone's CPU, calibrated to other devices with few measurements.

    python benchmarks/new_device/calibration.py --data FOLDER [--predictor xgboost] [--seeds 3]

``FOLDER`` holds ``nnmeter_bench/nnmeter_bench.npz``. A predictor learns 1,800 networks on the
Cortex-A76 and is calibrated to each of the other three devices of nn-Meter's bench with 5, 10, 20
and 50 networks that it did not learn from; test networks are 700 others. Prints the MAPE per number
of measurements, strategy and method, mean and spread over seeds, and writes it to
``results/calibration.<machine>.md``.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.datasets.nn_meter import NnMeterBench
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.flops import FlopsRegressor
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.predictors.xgboost import XGBoostRegressor
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.training.splits import Split
from tvm_costmodel.transfer.active_learning import STRATEGIES
from tvm_costmodel.transfer.calibration import calibrate, choose_networks

SOURCE = "cortexA76cpu_tflite21"
LEARN, HELD, POOL, TEST = 1800, 200, 500, 700
COUNTS = (5, 10, 20, 50)
Key = tuple[str, str, str, int]  # device, method, strategy, measurements


@dataclass(frozen=True, eq=False)
class Networks:
    """Distinct networks that every device measured, and their sides."""

    graphs: list[OpGraph]
    latency_s: np.ndarray  # [G, devices]
    devices: tuple[str, ...]
    sides: dict[str, np.ndarray]

    @classmethod
    def draw(cls, bench: NnMeterBench, seed: int) -> Networks:
        """Random networks, no graph twice."""
        everywhere = np.flatnonzero(~np.isnan(bench.latency_s).any(axis=1))
        order = np.random.default_rng(seed).permutation(everywhere)
        distinct: dict[str, tuple[int, OpGraph]] = {}
        for i in order:
            if len(distinct) < LEARN + HELD + POOL + TEST:
                graph = bench.graph(int(i))
                distinct.setdefault(graph.hash, (int(i), graph))
        ends = np.cumsum([LEARN, HELD, POOL, TEST])
        parts = np.split(np.arange(len(distinct)), ends[:-1])
        sides = dict(zip(("learn", "held", "pool", "test"), parts, strict=True))
        Split("random", sides["learn"], sides["held"], np.concatenate(parts[2:])).check(
            list(distinct)
        )
        latency = bench.latency_s[[at for at, _ in distinct.values()]]
        return cls([graph for _, graph in distinct.values()], latency, bench.devices, sides)

    def side(self, name: str, device: str) -> tuple[list[OpGraph], np.ndarray]:
        """Networks of a side and their seconds on a device."""
        at = self.sides[name]
        latency = self.latency_s[at, self.devices.index(device)]
        return [self.graphs[i] for i in at], latency


def run(networks: Networks, trained: Regressor, seed: int) -> dict[Key, float]:
    """MAPE on the test networks of every target device."""
    errors: dict[Key, float] = {}
    pool, test = networks.side("pool", SOURCE)[0], networks.side("test", SOURCE)[0]
    orders = {
        (strategy, count): choose_networks(trained, pool, count, strategy, seed)
        for strategy, count in product(STRATEGIES, COUNTS)
    }
    base = trained.predict(test)  # the same for every device
    for device, ((strategy, count), at) in product(networks.devices, orders.items()):
        if device == SOURCE:
            continue
        truth = networks.side("test", device)[1]
        graphs, latency = [pool[i] for i in at], networks.side("pool", device)[1][at]
        moved = calibrate(trained, graphs, latency, device).calibration
        assert moved is not None
        errors[device, "calibrated", strategy, count] = mape(moved.apply(test, base), truth)
        if strategy == "random":
            factor = np.median(latency / trained.predict(graphs))
            errors[device, "one factor", strategy, count] = mape(factor * base, truth)
            alone = XGBoostRegressor(rounds=300, seed=seed), FlopsRegressor()
            for rival in alone:
                rival.fit(graphs, latency, validation=(graphs, latency))
                key = device, f"{rival.name}, samples alone", strategy, count
                errors[key] = mape(rival.predict(test), truth)
    return errors


def table(runs: list[dict[Key, float]]) -> str:
    """A row per device, method and strategy."""
    by_row: dict[tuple[str, str, str], dict[int, list[float]]] = defaultdict(dict)
    for run_of_seed in runs:
        for (device, method, strategy, count), error in run_of_seed.items():
            by_row[device, method, strategy].setdefault(count, []).append(error)
    rows = []
    for row, by_count in by_row.items():
        cells = [f"{np.mean(by_count[c]):.1f} ± {np.std(by_count[c]):.1f}" for c in COUNTS]
        rows.append([*row, *cells])
    head = ("device", "method", "measured networks", *(f"{count}, MAPE %" for count in COUNTS))
    return tabulate(sorted(rows), head, tablefmt="github")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the published data")
    parser.add_argument("--predictor", default="xgboost", help="registered predictor to calibrate")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    bench = NnMeterBench(args.data / "nnmeter_bench" / "nnmeter_bench.npz")
    runs, own = [], []
    for seed in range(args.seeds):
        networks = Networks.draw(bench, seed)
        trained = build_regressor(args.predictor, seed)
        trained.fit(*networks.side("learn", SOURCE), validation=networks.side("held", SOURCE))
        trained.card["device"] = SOURCE
        test, truth = networks.side("test", SOURCE)
        own.append(mape(trained.predict(test), truth))
        runs.append(run(networks, trained, seed))
        print(f"seed {seed}: {own[-1]:.2f} % on {SOURCE}", flush=True)
    body = table(runs)
    print(body)
    results_file.write(
        "A trained predictor on a new device",
        f"nn-Meter's bench, random networks of all families that four devices measured, no graph "
        f"on two sides: {LEARN} to learn and {HELD} to validate on {SOURCE}, {POOL} for the new "
        f"device to choose from, {TEST} to test. `{args.predictor}` errs by {np.mean(own):.2f} % "
        f"on {SOURCE} itself. `one factor`: its answers times the median ratio. The widths of "
        "the calibration's prior were set on another draw of the same bench. Mean ± standard "
        f"deviation over {args.seeds} seeds.",
        body,
    )


if __name__ == "__main__":
    main()
