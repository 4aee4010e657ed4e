"""A device that nobody measured before, from 5, 10, 20 and 50 of its measurements.

    python benchmarks/new_device/new_device.py --data FOLDER [--seeds 3]

``FOLDER`` holds ``nasbench201/nasbench201.csv.gz``: the 15,625 cells of NAS-Bench-201 with
latencies on 23 device settings (HELP, NeurIPS 2021). Each setting is held out once; the known
devices are those of other boards, with 900 random cells each. Test cells are all that were not
measured. HELP's own split is a second table. Prints Spearman's rank correlation per number of
measurements, strategy and method, mean and spread over seeds of the mean over held-out devices, and
writes ``results/new_device.<machine>.md`` and ``.json``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xgboost
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.datasets.nasbench201 import Cell201, read_nasbench201
from tvm_costmodel.gaussian_process import ridge
from tvm_costmodel.nas.cell_features import live_operations, operation_counts
from tvm_costmodel.nas.cells import nasbench201_cell
from tvm_costmodel.nas.macro_networks import nasbench201_network
from tvm_costmodel.training.metrics import spearman
from tvm_costmodel.transfer.active_learning import STRATEGIES
from tvm_costmodel.transfer.device_prior import DevicePrior, latency_components

COUNTS = (5, 10, 20, 50)
SOURCE_CELLS = 900  # as HELP measures on each of its known devices
EMBEDDED_CELLS = 200  # of these, for the XGBoost that learns from all known devices
CANDIDATES = 1000  # cells that a strategy may choose among, others for each seed
OPERATIONS = ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
HELP_SOURCES = (
    "1080ti_1 1080ti_32 1080ti_256 silver_4114 silver_4210r samsung_a50 pixel3 essential_ph_1 "
    "samsung_s7"
).split()
HELP_TARGETS = "gold_6226 fpga pixel2 eyeriss".split()

OURS, TABLE = "prior of known devices", "the same, known devices' latencies of the test cells"
ALONE, TREES, MEAN, FLOPS = "ridge, samples alone", "XGBoost, samples alone", "mean device", "FLOPs"
EMBEDDED = "XGBoost, known devices and samples"
METHODS = (OURS, TABLE, EMBEDDED, ALONE, TREES, MEAN, FLOPS)
STRATEGIES_OF = {MEAN: ("random",), FLOPS: ("random",), EMBEDDED: ("informative",)}  # others: all


@dataclass(frozen=True, eq=False)
class Bench:
    """The table as arrays: G cells, D device settings."""

    cells: list[Cell201]
    devices: list[str]
    latency_s: np.ndarray  # [G, D]
    counts: np.ndarray  # [G, 8]
    edges: np.ndarray  # [G, 30], one-hot
    macs: np.ndarray  # [G]

    @classmethod
    def read(cls, path: Path) -> Bench:
        """Reads the published table."""
        cells = read_nasbench201(path)
        devices = sorted({name for cell in cells for name in cell.latency_s})
        latency = np.array([[c.latency_s.get(d, np.nan) for d in devices] for c in cells])
        graphs = [cell.graph for cell in cells]
        live = live_operations(graphs, ("none", *OPERATIONS))
        counts = operation_counts(graphs, OPERATIONS)
        return cls(
            cells, devices, latency, counts, np.eye(5)[live].reshape(len(live), -1), macs(counts)
        )


def macs(counts: np.ndarray) -> np.ndarray:
    """Multiply-adds of each network as written: the skeleton's, and a share per convolution."""

    def of(to_end: str) -> int:
        arch = f"|none~0|+|none~0|none~1|+|{to_end}~0|none~1|none~2|"
        return nasbench201_network(nasbench201_cell(arch)).macs

    base = of("skip_connect")
    small, large = (of(f"nor_conv_{kernel}") - base for kernel in ("1x1", "3x3"))
    return base + counts[:, 1] * small + counts[:, 2] * large


def board(device: str) -> str:
    """What a setting runs on: its name without the batch size."""
    return re.sub(r"_(1|32|256)$", "", device)


def answers(
    bench: Bench, sources: Sequence[int], target: int, seed: int
) -> Mapping[tuple[str, str, int], tuple[np.ndarray, np.ndarray]]:
    """(method, strategy, measurements) -> predictions for all cells, and which were measured."""
    rng = np.random.default_rng(seed)
    source_cells = rng.permutation(len(bench.cells))[:SOURCE_CELLS]
    candidates = rng.permutation(len(bench.cells))[:CANDIDATES]
    latency, boards = bench.latency_s[:, sources], [board(bench.devices[i]) for i in sources]
    features = {OURS: bench.counts, TABLE: latency_components(latency)}
    prior = {
        name: DevicePrior.learn(values[source_cells], latency[source_cells], boards)
        for name, values in features.items()
    }
    predictions = {}
    for strategy in STRATEGIES:
        order = {}
        for name in features:
            pool = features[name][candidates]
            order[name] = candidates[prior[name].choose(pool, max(COUNTS), strategy, seed)]
        for count in COUNTS:
            for name, values in features.items():
                at = order[name][:count]
                if strategy == "spread":
                    pool = values[candidates]
                    at = candidates[prior[name].choose(pool, count, strategy, seed)]
                adapted = prior[name].adapt(values[at], bench.latency_s[at, target])
                predictions[name, strategy, count] = adapted.predict(values), at
            at = predictions[OURS, strategy, count][1]
            measured = bench.latency_s[at, target]
            predictions[ALONE, strategy, count] = ridge_alone(bench, at, measured), at
            predictions[TREES, strategy, count] = trees_alone(bench, at, measured), at
            if strategy in STRATEGIES_OF[EMBEDDED]:
                predictions[EMBEDDED, strategy, count] = (
                    embedded(bench, at, measured, source_cells, sources),
                    at,
                )
            if strategy in STRATEGIES_OF[MEAN]:
                predictions[MEAN, strategy, count] = mean_device(prior[OURS], bench), at
                predictions[FLOPS, strategy, count] = bench.macs, at
    return predictions


def ridge_alone(bench: Bench, at: np.ndarray, latency_s: np.ndarray) -> np.ndarray:
    """Ridge on the operation counts of the measured cells."""
    rows = np.concatenate([bench.counts, np.ones((len(bench.counts), 1))], axis=1)
    measured, mean = rows[at], latency_s.mean()
    return mean + rows @ ridge(measured, latency_s - mean, 0.1)


def trees_alone(bench: Bench, at: np.ndarray, latency_s: np.ndarray) -> np.ndarray:
    """XGBoost on operation counts, multiply-adds and the edges' operations of the same cells."""
    rows = np.concatenate([bench.counts, bench.edges, bench.macs[:, None] / 1e6], axis=1)
    settings = {"max_depth": 3, "eta": 0.1, "min_child_weight": 0, "nthread": 1, "seed": 0}
    label = latency_s / latency_s.mean()
    trees = xgboost.train(settings, xgboost.DMatrix(rows[at], label=label), 100)
    return trees.predict(xgboost.DMatrix(rows)) * latency_s.mean()


def embedded(
    bench: Bench,
    at: np.ndarray,
    latency_s: np.ndarray,
    source_cells: np.ndarray,
    sources: Sequence[int],
) -> np.ndarray:
    """XGBoost on a cell and its device, which its latencies of the measured cells describe."""
    cells = np.concatenate([bench.counts, bench.macs[:, None] / 1e6], axis=1)
    source_cells = source_cells[:EMBEDDED_CELLS]

    def rows(which: np.ndarray, on_measured: np.ndarray) -> np.ndarray:
        described = np.tile(on_measured / on_measured.mean(), (len(which), 1))
        return np.concatenate([cells[which], described], axis=1)

    learn = [rows(source_cells, bench.latency_s[at, i]) for i in sources]
    label = [bench.latency_s[source_cells, i] / bench.latency_s[at, i].mean() for i in sources]
    learn.append(np.repeat(rows(at, latency_s), EMBEDDED_CELLS // len(at), axis=0))
    label.append(np.repeat(latency_s / latency_s.mean(), EMBEDDED_CELLS // len(at)))
    data = xgboost.DMatrix(np.concatenate(learn), label=np.concatenate(label))
    settings = {"max_depth": 5, "eta": 0.1, "nthread": 1, "seed": 0}
    trees = xgboost.train(settings, data, 80)
    everything = np.arange(len(bench.cells))
    return trees.predict(xgboost.DMatrix(rows(everything, latency_s))) * latency_s.mean()


def mean_device(prior: DevicePrior, bench: Bench) -> np.ndarray:
    """What the known devices expect, without any measurement."""
    return prior.standardised(bench.counts) @ prior.mean


@dataclass
class Scores:
    """Spearman and median error per (method, strategy, measurements), then [seed][device]."""

    rank: dict[tuple[str, str, int], dict[int, dict[str, float]]]
    error: dict[tuple[str, str, int], dict[int, dict[str, float]]]
    measured: dict[str, list[int]]

    def mean(self, key: tuple[str, str, int]) -> tuple[float, float]:
        """Mean over devices: its mean and standard deviation over seeds."""
        seeds = [np.mean(list(by_device.values())) for by_device in self.rank[key].values()]
        return float(np.mean(seeds)), float(np.std(seeds))


def run(
    bench: Bench,
    targets: Sequence[str],
    sources_of: Callable[[str], Sequence[str]],
    seeds: int,
) -> Scores:
    """Holds out every target with every seed."""
    scores = Scores(
        defaultdict(lambda: defaultdict(dict)), defaultdict(lambda: defaultdict(dict)), {}
    )
    for seed in range(seeds):
        for device in targets:
            target = bench.devices.index(device)
            sources = [bench.devices.index(name) for name in sources_of(device)]
            truth = bench.latency_s[:, target]
            for key, (predicted, at) in answers(bench, sources, target, seed).items():
                rest = np.ones(len(truth), dtype=bool)
                rest[at] = False
                rest &= ~np.isnan(truth)
                scores.rank[key][seed][device] = spearman(predicted[rest], truth[rest])
                error = np.abs(predicted[rest] / truth[rest] - 1)
                scores.error[key][seed][device] = 100 * float(np.median(error))
                if key == (OURS, "informative", 10):
                    scores.measured[f"{device}, seed {seed}"] = [bench.cells[i].index for i in at]
    return scores


def ceilings(bench: Bench) -> dict[str, float]:
    """Spearman of XGBoost or of the same features, whichever is better, from half of all cells."""
    order = np.random.default_rng(0).permutation(len(bench.cells))
    half = len(order) // 2
    learn, test = order[:half], order[half:]
    rows = np.concatenate([bench.counts, np.ones((len(bench.counts), 1))], axis=1)
    ceiling = {}
    for i, device in enumerate(bench.devices):
        label = bench.latency_s[:, i]
        line = rows @ np.linalg.lstsq(rows[learn], label[learn], rcond=None)[0]
        features = np.concatenate([bench.counts, bench.edges], axis=1)
        data = xgboost.DMatrix(features[learn], label=label[learn] / label.mean())
        settings = {"max_depth": 5, "eta": 0.1, "nthread": 1}
        trees = xgboost.train(settings, data, 150).predict(xgboost.DMatrix(features[test]))
        ceiling[device] = max(spearman(line[test], label[test]), spearman(trees, label[test]))
    return ceiling


def table(scores: Scores) -> str:
    """Rows: method and strategy; columns: measurements."""
    rows = []
    for method in METHODS:
        for strategy in STRATEGIES_OF.get(method, STRATEGIES):
            cells = []
            for count in COUNTS:
                mean, spread = scores.mean((method, strategy, count))
                cells.append(f"{mean:.3f} ± {spread:.3f}")
            rows.append([method, strategy if method not in (MEAN, FLOPS) else "", *cells])
    return tabulate(rows, ("method", "measured cells", *COUNTS), tablefmt="github")


def per_device(scores: Scores, best: Mapping[str, float]) -> str:
    """Each held-out device at 10 chosen measurements, with the ceiling that its noise allows."""
    rows = []
    key, other = (OURS, "informative", 10), (EMBEDDED, "informative", 10)
    for device in scores.rank[key][0]:
        mine = [by_device[device] for by_device in scores.rank[key].values()]
        trees = [by_device[device] for by_device in scores.rank[other].values()]
        error = [by_device[device] for by_device in scores.error[key].values()]
        values = [np.mean(mine), np.std(mine), np.mean(trees), best[device], np.mean(error)]
        rows.append([device, *(f"{v:.3f}" for v in values[:4]), f"{values[4]:.1f}"])
    head = ("device", "Spearman", "spread", "XGBoost", "half of all cells", "median error %")
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the published data")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    bench = Bench.read(args.data / "nasbench201" / "nasbench201.csv.gz")
    everyone = bench.devices
    boards_apart = run(
        bench,
        everyone,
        lambda device: [name for name in everyone if board(name) != board(device)],
        args.seeds,
    )
    help_split = run(bench, HELP_TARGETS, lambda device: HELP_SOURCES, args.seeds)
    best = ceilings(bench)
    protocol = f"""NAS-Bench-201, {len(bench.cells)} cells, {len(everyone)} device settings (HELP's
files; phones that report whole milliseconds, `fpga` and `eyeriss` are estimates). Spearman's rank
correlation on all cells that were not measured; mean over the held-out devices, mean ± standard
deviation over {args.seeds} seeds."""
    head = f"""Each device, 10 measurements, `{OURS}`, `informative`, next to `{EMBEDDED}` and a
model learned from half of all cells of that very device, which shows what its noise allows (mean
{np.mean(list(best.values())):.3f}):"""
    body = f"""## Each setting held out once

Known devices: all settings of other boards (a GPU at batch 32 is not new where batch 1 is known),
{SOURCE_CELLS} random cells each. A strategy selects from {CANDIDATES} random cells, others for
each seed. The second method reads nothing of a cell but its measured latencies on known devices,
test cells included: another task. `{EMBEDDED}`
learns from the known devices' labels, with the latencies of the measured cells as features that
describe a device; `mean device` is what the known devices expect, without any measurement.

{table(boards_apart)}

{head}

{per_device(boards_apart, best)}

## HELP's split

Known: {", ".join(HELP_SOURCES)}.
Held out: {", ".join(HELP_TARGETS)} (HELP also holds out `titan_rtx_256` and `raspi4`, which this
table lacks; its published numbers with 10 measurements are 0.989, 0.985, 0.802 and 0.940 for these
four, mean 0.929, on other test cells).

{table(help_split)}

{per_device(help_split, best)}"""
    print(body)
    path = results_file.write("A new device from few measurements", protocol, body)
    record = {
        "protocol": settings(args.seeds),
        "boards_apart": rows_of(boards_apart),
        "help_split": rows_of(help_split),
        "measured_cells": measured_hashes(bench, boards_apart),
        "half_of_all_cells": best,
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def settings(seeds: int) -> dict[str, object]:
    """How the cells were drawn, as JSON."""
    return {
        "source_cells": SOURCE_CELLS,
        "candidates": CANDIDATES,
        "seeds": seeds,
        "cells": "numpy default_rng(seed): the first permutation gives the known devices' "
        "cells, the second the candidates, as rows of the table",
    }


def rows_of(scores: Scores) -> list[dict[str, object]]:
    """The table as JSON rows."""
    rows = []
    for (method, strategy, count), by_seed in sorted(scores.rank.items()):
        mean, spread = scores.mean((method, strategy, count))
        row = {"method": method, "rule": strategy, "measurements": count, "spearman": mean}
        rows.append(row | {"spread": spread, "seeds": len(by_seed)})
    return rows


def measured_hashes(bench: Bench, scores: Scores) -> dict[str, list[str]]:
    """Graph hashes of the ten cells that each device was asked to measure."""
    graphs = {cell.index: cell.graph for cell in bench.cells}
    return {name: [graphs[i].hash for i in indices] for name, indices in scores.measured.items()}


if __name__ == "__main__":
    main()
