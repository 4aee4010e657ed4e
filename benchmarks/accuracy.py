"""Accuracy of cells, predicted from few trained ones: NAS-Bench-201, NAS-Bench-101, DARTS.

    python benchmarks/accuracy.py --data FOLDER [--device cuda --jobs 9] [--models a,b] [--steps N]

Trains every predictor on the same draws of training cells and scores Kendall's tau on the rest.
Nothing of a reported draw chooses anything: no epoch is picked (the networks' last weights, or
their moving average, predict), our model's scales come from the likelihood of its training cells,
and the one setting that has to be found here, the networks' learning rate under a cut number of
steps, is found on 1,563 development cells of NAS-Bench-201 that no reported draw trains or tests
on. The same cells are what our model was designed on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from results_file import write
from tvm_costmodel.frontends.nasbench import read_darts, read_nasbench101, read_nasbench201
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.tokenizer.cell_flow import CellStructure, cell_structure
from tvm_costmodel.tokenizer.cells import DARTS_PAIR, NASBENCH101, NASBENCH201, side_by_side
from tvm_costmodel.training.accuracy import ACCURACY_REGRESSORS, accuracy_regressor_class
from tvm_costmodel.training.accuracy_networks import NETWORKS, replicas
from tvm_costmodel.training.accuracy_replicas import AccuracyTraining
from tvm_costmodel.training.cell_arrays import CellArrays
from tvm_costmodel.training.metrics import kendall_tau

BENCHMARKS = ("nasbench201", "nasbench101", "darts")
SIZES_201, SIZES_101, FOLDS = (156, 469, 781, 1563), (100, 172), 5
DEVELOPMENT_SEED, DEVELOPMENT_CELLS = 1000, 1563
CHOICE_SIZES = (156, 781)
"""Training cells, of the development cells, by which the learning rate is chosen."""
REPLICAS = 6
"""Trainings that run as one; more fill a GPU's memory."""


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Cells with labels, and what was computed of them."""

    name: str
    operations: tuple[str, ...]
    cells: list[OpGraph]
    accuracy: np.ndarray
    structures: list[CellStructure]

    @property
    def networks(self) -> np.ndarray:
        """[G]: equal for cells that are the same network."""
        return np.array([structure.identity for structure in self.structures])


@dataclass(frozen=True, eq=False)
class Draw:
    """One training set and what it is scored on."""

    size: str
    seed: int
    train: np.ndarray
    test: np.ndarray


def read(name: str, folder: Path) -> Benchmark:
    """Reads one benchmark; equal graphs become one cell with their mean label."""
    if name == "nasbench201":
        found = read_nasbench201(folder / "nasbench201" / "nasbench201.csv.gz")
        cells, labels = [c.graph for c in found], [c.accuracy["cifar10"] for c in found]
        operations: tuple[str, ...] = NASBENCH201
    elif name == "nasbench101":
        listed = read_nasbench101(folder / "nasbench101" / "nasbench101_500.json")
        cells, labels = [c.graph for c in listed], [c.accuracy for c in listed]
        operations = NASBENCH101
    else:
        pairs = read_darts(folder / "darts" / "darts_725.json")
        cells = [side_by_side(p.normal, p.reduction) for p in pairs]
        labels, operations = [p.accuracy for p in pairs], DARTS_PAIR
    labels_of: dict[str, list[float]] = {}
    first: dict[str, OpGraph] = {}
    for cell, label in zip(cells, labels, strict=True):
        first.setdefault(cell.hash, cell)
        labels_of.setdefault(cell.hash, []).append(label)
    kept = list(first.values())
    means = np.array([np.mean(labels_of[cell.hash]) for cell in kept])
    structures = [cell_structure(cell, operations) for cell in kept]
    return Benchmark(name, operations, kept, means, structures)


def development(benchmark: Benchmark) -> np.ndarray:
    """NAS-Bench-201's cells that no reported draw touches; none of the others."""
    if benchmark.name != "nasbench201":
        return np.zeros(0, dtype=int)
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(len(benchmark.cells))
    return order[:DEVELOPMENT_CELLS]


def draws(benchmark: Benchmark, seeds: int, sizes: Sequence[int]) -> list[Draw]:
    """All draws of a benchmark."""
    found = []
    rest = np.setdiff1d(np.arange(len(benchmark.cells)), development(benchmark))
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(rest)
        if benchmark.name == "darts":
            for fold in range(FOLDS):
                test = order[fold::FOLDS]
                found.append(Draw(f"{FOLDS} folds", seed, np.setdiff1d(order, test), test))
            continue
        known = SIZES_201 if benchmark.name == "nasbench201" else SIZES_101
        for size in known:
            if not sizes or size in sizes:
                found.append(Draw(str(size), seed, order[:size], order[size:]))
    return found


def scores(benchmark: Benchmark, draw: Draw, predicted: np.ndarray) -> dict[str, Any]:
    """Taus of predictions for all cells under one draw."""
    measured, networks = benchmark.accuracy, benchmark.networks
    unseen = draw.test[~np.isin(networks[draw.test], networks[draw.train])]

    def tau(at: np.ndarray) -> float:
        return kendall_tau(predicted[at], measured[at])

    return {
        "benchmark": benchmark.name,
        "size": draw.size,
        "seed": draw.seed,
        "tau": tau(draw.test),
        "tau_unseen": tau(unseen),
        "tau_all": tau(np.arange(len(measured))),
        "n_test": len(draw.test),
        "n_unseen": len(unseen),
    }


LOADED: dict[str, Benchmark] = {}  # read before the workers fork, so that they share it


def run_structures(model: str, name: str, draw: Draw, device: str) -> list[dict[str, Any]]:
    """One training of a model that reads structures."""
    torch.set_num_threads(1)
    benchmark, started = LOADED[name], time.perf_counter()
    regressor: Any = accuracy_regressor_class(model)(
        benchmark.operations, seed=draw.seed, device=device
    )
    chosen = [benchmark.structures[i] for i in draw.train]
    regressor.fit_structures(chosen, benchmark.accuracy[draw.train])
    seconds = time.perf_counter() - started
    predicted = regressor.score_structures(benchmark.structures)
    return [{"model": model, "fit_s": seconds, **scores(benchmark, draw, predicted)}]


def run_networks(
    model: str, name: str, chosen: Sequence[Draw], recipe: AccuracyTraining, device: str
) -> list[dict[str, Any]]:
    """Several trainings of one network as one."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True
    benchmark, started = LOADED[name], time.perf_counter()
    cells = CellArrays(benchmark.cells, benchmark.operations, device)
    training = replicas(
        model, recipe, cells, benchmark.accuracy / 100, [d.train for d in chosen], chosen[0].seed
    ).run()
    seconds = (time.perf_counter() - started) / len(chosen)
    predicted = training.predict(np.arange(len(benchmark.cells)))
    steps = training.total
    del training
    if device == "cuda":
        torch.cuda.empty_cache()  # the next training may be in another process
    shared = {"model": model, "fit_s": seconds, "learning_rate": recipe.learning_rate}
    return [
        {**shared, "steps": steps, **scores(benchmark, draw, answers)}
        for draw, answers in zip(chosen, predicted, strict=True)
    ]


def choose_rate(
    pool: ProcessPoolExecutor,
    model: str,
    recipe: AccuracyTraining,
    rates: Sequence[float],
    device: str,
) -> list[tuple[float, Any]]:
    """Trainings on development cells, one per rate, as (rate, future)."""
    order = np.random.default_rng(2 * DEVELOPMENT_SEED).permutation(
        development(LOADED["nasbench201"])
    )
    sides = [Draw(str(size), 7, order[:size], order[max(CHOICE_SIZES) :]) for size in CHOICE_SIZES]
    return [
        (
            rate,
            pool.submit(
                run_networks,
                model,
                "nasbench201",
                sides,
                replace(recipe, learning_rate=rate),
                device,
            ),
        )
        for rate in rates
    ]


def recipes(args: argparse.Namespace) -> dict[str, AccuracyTraining]:
    """How each network is trained: as published, or in ``--steps`` steps of a larger batch."""
    found = {}
    for model in args.models:
        if model in NETWORKS:
            published = NETWORKS[model].recipe
            cut = replace(published, steps=args.steps, batch_size=args.batch_size)
            found[model] = published if args.published else cut
    return found


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every training of the table, on ``args.jobs`` processes."""
    context = multiprocessing.get_context("fork")
    structured = [model for model in args.models if model not in NETWORKS]
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        recipe, choices = recipes(args), {}
        if args.rates and not args.published and "nasbench201" in LOADED:
            choices = {
                model: choose_rate(pool, model, recipe[model], args.rates, args.device)
                for model in recipe
            }
        waiting = [
            pool.submit(run_structures, model, name, draw, args.device)
            for name, benchmark in LOADED.items()
            for draw in sorted(
                draws(benchmark, args.seeds, args.sizes), key=lambda d: -len(d.train)
            )
            for model in structured
        ]
        for model, tried in choices.items():
            taus = {rate: float(np.mean([r["tau"] for r in f.result()])) for rate, f in tried}
            print(f"{model}: tau on development cells by learning rate: {taus}", flush=True)
            best = max(taus, key=lambda rate: taus[rate])
            recipe[model] = replace(recipe[model], learning_rate=best)
        for name, benchmark in LOADED.items():
            every = draws(benchmark, args.seeds, args.sizes)
            for model in recipe:
                for start in range(0, len(every), args.replicas):
                    part = every[start : start + args.replicas]
                    trained = recipe[model]
                    if name == "darts":  # four times the nodes
                        trained = replace(trained, batch_size=max(8, trained.batch_size // 4))
                    waiting.append(
                        pool.submit(run_networks, model, name, part, trained, args.device)
                    )
        rows = []
        for future in waiting:
            for row in future.result():
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def summary(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """Table of one benchmark: mean ± standard deviation over seeds."""
    mine = [row for row in rows if row["benchmark"] == name]
    lines = []
    for size in dict.fromkeys(row["size"] for row in mine):
        for model in ACCURACY_REGRESSORS:
            chosen = [r for r in mine if (r["model"], r["size"]) == (model, size)]
            if chosen:
                taus = [_over_seeds(chosen, key) for key in ("tau", "tau_unseen", "tau_all")]
                steps = chosen[0].get("steps", "")
                fit = float(np.mean([row["fit_s"] for row in chosen]))
                tested = f"{chosen[0]['n_test']} / {chosen[0]['n_unseen']}"
                lines.append([size, model, *taus, tested, steps, f"{fit:.1f}"])
    headers = [
        "cells",
        "predictor",
        "tau",
        "tau, networks unseen",
        "tau, all cells",
        "tested / unseen",
        "steps",
        "fit s",
    ]
    rule = ["---"] * len(headers)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [headers, rule, *lines])


def _over_seeds(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Mean and standard deviation over seeds of the means over folds."""
    seeds = sorted({row["seed"] for row in rows})
    means = [float(np.mean([row[key] for row in rows if row["seed"] == s])) for s in seeds]
    spread = f" ± {np.std(means, ddof=1):.4f}" if len(means) > 1 else ""
    return f"{np.mean(means):.4f}{spread}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    folder = os.environ.get("TVM_COSTMODEL_DATA", "../shared/data")
    parser.add_argument("--data", type=Path, default=Path(folder), help="published data sets")
    split = lambda text: [word for word in text.split(",") if word]  # noqa: E731
    parser.add_argument("--models", type=split, default=list(ACCURACY_REGRESSORS))
    parser.add_argument("--benchmarks", type=split, default=list(BENCHMARKS))
    parser.add_argument("--sizes", type=lambda t: [int(n) for n in split(t)], default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of each network")
    parser.add_argument("--batch-size", type=int, default=128, help="of each network")
    parser.add_argument(
        "--rates",
        type=lambda t: [float(n) for n in split(t)],
        default=[1e-4, 3e-4, 1e-3],
        help="learning rates to choose from",
    )
    parser.add_argument("--published", action="store_true", help="the networks' whole recipes")
    parser.add_argument("--replicas", type=int, default=REPLICAS, help="trainings run as one")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="rows of earlier runs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    args, started = arguments(), time.perf_counter()
    for name in args.benchmarks:
        LOADED[name] = read(name, args.data)
        count = len(set(LOADED[name].networks))
        print(f"{name}: {len(LOADED[name].cells)} cells, {count} networks", flush=True)
    rows = [row for path in args.add for row in json.loads(path.read_text())] + run(args)
    body = "\n\n".join(f"## {name}\n\n{summary(rows, name)}" for name in LOADED)
    print(body)
    cut = (
        "whole published recipes"
        if args.published
        else (
            f"networks cut to {args.steps} steps of {args.batch_size} cells (a quarter on DARTS), "
            "published are 1,000 to 6,000 epochs; their learning rate was chosen among "
            f"{', '.join(map(str, args.rates))} on development cells"
        )
    )
    path = write(
        "Accuracy of cells from few trained ones",
        f"{args.seeds} seeds; {cut}; {time.perf_counter() - started:.0f} s in all on "
        f"{args.jobs} processes.\n" + (PROTOCOL),
        body,
        also=_gpu() if args.device == "cuda" else "",
    )
    path.with_suffix(".json").write_text(json.dumps(rows, indent=0) + "\n")
    splits = {
        name: stored_draws(benchmark, draws(benchmark, args.seeds, args.sizes))
        for name, benchmark in LOADED.items()
    }
    path.with_name("accuracy.splits.json").write_text(json.dumps(splits) + "\n")


def stored_draws(benchmark: Benchmark, every: Sequence[Draw]) -> list[dict[str, Any]]:
    """Draws as hashes: the largest training set (smaller ones are its beginnings), or the fold."""
    most = max(len(draw.train) for draw in every)
    if benchmark.name == "darts":
        return [{"seed": d.seed, "test": [benchmark.cells[i].hash for i in d.test]} for d in every]
    return [
        {"seed": d.seed, "train": [benchmark.cells[i].hash for i in d.train]}
        for d in every
        if len(d.train) == most
    ]


PROTOCOL = """
`tau` is Kendall's tau-b on the cells that neither a draw's training nor development saw (mean ±
standard deviation over seeds); `networks unseen` leaves out test cells that are the same network as
a training cell written differently; `all cells` is the published protocol, every cell of the
benchmark, training cells among them. NAS-Bench-201: CIFAR-10 validation accuracy, 156 / 469 / 781 /
1,563 of 15,625 cells. NAS-Bench-101: 100 and 172 of the 292 distinct graphs among NASLib's 500
cells, tested on the others of the 292 (published figures: on all 423,624). DARTS: 725 genotypes,
labels of a surrogate, 5 folds, tau averaged over folds.
"""


def _gpu() -> str:
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
