"""Accuracy of cells, predicted from few trained ones: NAS-Bench-201, NAS-Bench-101, DARTS.

    python benchmarks/nas/accuracy.py --data FOLDER [--device cuda --jobs 9] [--models a,b]

Trains every predictor on the same draws of training cells and scores Kendall's tau on the rest.
Nothing of a reported draw chooses anything: no epoch is selected (the networks' last weights, or
their moving average, predict), our model's scales come from the likelihood of its training cells,
and the one setting that has to be chosen here, the networks' learning rate under a cut number of
steps, is chosen on 1,563 development cells of NAS-Bench-201 that no reported draw trains or tests
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
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.nas.accuracy_draws import (
    BENCHMARKS,
    DEVELOPMENT_SEED,
    Benchmark,
    Draw,
    development,
    draws,
    noise_ceiling,
    read,
    retrained_ceiling,
    stored_draws,
)
from benchmarks.results_file import write
from tvm_costmodel.nas.accuracy import ACCURACY_REGRESSORS, RENAMED, accuracy_regressor_class
from tvm_costmodel.nas.accuracy_networks import NETWORKS, build_ensemble
from tvm_costmodel.nas.accuracy_trainer import AccuracyTraining
from tvm_costmodel.nas.cell_batch import CellArrays
from tvm_costmodel.training.metrics import kendall_tau

CHOICE_SIZES = (156, 781)
"""Training cells, of the development cells, by which the learning rate is chosen."""
MEMBERS = 6
"""Trainings that run as one ensemble; more fill a GPU's memory."""


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
    training = build_ensemble(
        model, recipe, cells, benchmark.accuracy / 100, [d.train for d in chosen], chosen[0].seed
    )
    training.run()
    seconds = (time.perf_counter() - started) / len(chosen)
    predicted = training.predict(np.arange(len(benchmark.cells)))
    steps = training.steps_per_epoch
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
    chosen = {}
    for model in args.models:
        if model in NETWORKS:
            published = NETWORKS[model].recipe
            cut = replace(published, steps=args.steps, batch_size=args.batch_size)
            chosen[model] = published if args.published else cut
    return chosen


def quartered(recipe: AccuracyTraining) -> AccuracyTraining:
    """For DARTS, whose cells have four times the nodes: a quarter of the cells a step.

    And of the rate, which is chosen at the whole batch: at the whole rate the units of NAR-Former
    V2's head die one after the other, until it predicts the same for every cell.
    """
    smaller = max(8, recipe.batch_size // 4)
    return replace(recipe, batch_size=smaller, learning_rate=recipe.learning_rate / 4)


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Every training of the table, on ``args.jobs`` processes."""
    context = multiprocessing.get_context("fork")
    structured = [model for model in args.models if model not in NETWORKS]
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        recipe, choices = recipes(args), {}
        if len(args.rates) == 1:
            recipe = {m: replace(r, learning_rate=args.rates[0]) for m, r in recipe.items()}
        elif args.rates and not args.published and "nasbench201" in LOADED:
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
                for start in range(0, len(every), args.members):
                    part = every[start : start + args.members]
                    trained = recipe[model]
                    if name == "darts" and not args.published:
                        trained = quartered(trained)
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
                steps, rate = (chosen[0].get(key, "") for key in ("steps", "learning_rate"))
                fit = float(np.mean([row["fit_s"] for row in chosen]))
                tested = f"{chosen[0]['n_test']} / {chosen[0]['n_unseen']}"
                lines.append([size, model, *taus, tested, steps, rate, f"{fit:.1f}"])
    names = "cells, predictor, tau, tau of networks unseen, tau of all cells, tested / unseen"
    headers = [*names.split(", "), "steps", "rate", "fit s"]
    rule = ["---"] * len(headers)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in [headers, rule, *lines])


def _over_seeds(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """Mean and standard deviation over seeds of the means over folds."""
    seeds = sorted({row["seed"] for row in rows})
    means = [float(np.mean([row[key] for row in rows if row["seed"] == s])) for s in seeds]
    if not np.isfinite(means).all():
        return "one answer for all"
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
        help="learning rates to choose from; a single one is used",
    )
    parser.add_argument("--published", action="store_true", help="the networks' whole recipes")
    parser.add_argument("--members", type=int, default=MEMBERS, help="trainings that run as one")
    parser.add_argument(
        "--add", type=Path, nargs="*", default=[], help="files of rows of earlier runs"
    )
    parser.add_argument("--noise", action="store_true", help="print the labels' noise, no more")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    args = parser.parse_args()
    trained = not args.published and not set(args.models).isdisjoint(NETWORKS)
    if trained and len(args.rates) != 1 and "nasbench201" not in args.benchmarks:
        parser.error("rates are chosen on nasbench201: add it to --benchmarks, or give one --rates")
    return args


def merged(
    earlier: Sequence[Sequence[Mapping[str, Any]]], rows: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Rows of earlier runs that this one did not take again, then its own."""

    def of(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row[key] for key in ("model", "benchmark", "size", "seed"))

    repeated = {of(row) for row in rows}
    named = [
        {**row, "model": RENAMED.get(row["model"], row["model"])}
        for part in earlier
        for row in part
    ]
    return [row for row in named if of(row) not in repeated] + list(rows)


def cut(args: argparse.Namespace) -> str:
    """How far the networks' trainings are those published."""
    if args.published:
        return "whole published recipes"
    rates = ", ".join(map(str, args.rates))
    chosen = rates if len(args.rates) == 1 else f"chosen among {rates} on development cells"
    return (
        f"networks cut to {args.steps} steps of {args.batch_size} cells (published are 1,000 to "
        f"6,000 epochs), learning rate {chosen}; on DARTS a quarter of the cells and of the rate"
    )


def noise(benchmark: Benchmark) -> str:
    """What the noise of labels leaves to a predictor."""
    ceiling, cells = noise_ceiling(benchmark)
    return (
        f"Noise of NAS-Bench-201's labels: the mean label of the other cells that are the same "
        f"network orders the {cells} cells that have such others with tau {ceiling:.4f}. Were all "
        f"cells trained once more, knowing every network's accuracy would order them with tau "
        f"{retrained_ceiling(benchmark):.4f}."
    )


def main() -> None:
    args, started = arguments(), time.perf_counter()
    if args.noise:
        print(noise(read("nasbench201", args.data)))
        return
    for name in args.benchmarks:
        LOADED[name] = read(name, args.data)
        count = len(set(LOADED[name].networks))
        print(f"{name}: {len(LOADED[name].cells)} cells, {count} networks", flush=True)
    rows = merged([json.loads(path.read_text()) for path in args.add], run(args))
    shown = [name for name in BENCHMARKS if any(row["benchmark"] == name for row in rows)]
    body = "\n\n".join(f"## {name}\n\n{summary(rows, name)}" for name in shown)
    if "nasbench201" in LOADED:
        body += f"\n\n{noise(LOADED['nasbench201'])}"
    print(body)
    path = write(
        "Accuracy of cells from few trained ones",
        f"{args.seeds} seeds; {cut(args)}; {time.perf_counter() - started:.0f} s in all on "
        f"{args.jobs} processes.\n{PROTOCOL}",
        body,
        also=_gpu() if args.device == "cuda" else "",
    )
    path.with_suffix(".json").write_text(json.dumps(rows, indent=0) + "\n")
    splits = {
        name: stored_draws(benchmark, draws(benchmark, args.seeds, args.sizes))
        for name, benchmark in LOADED.items()
    }
    stored = path.with_name("accuracy.splits.json")
    known = json.loads(stored.read_text()) if stored.exists() else {}
    stored.write_text(json.dumps({**known, **splits}) + "\n")


PROTOCOL = """
`tau` is Kendall's tau-b on the cells that neither a draw's training nor development saw (mean ±
standard deviation over seeds); `of networks unseen` leaves out test cells that are the same network
as a training cell written differently; `of all cells` is the published protocol, every cell of the
benchmark, training cells among them. NAS-Bench-201: CIFAR-10 validation accuracy, 156 / 469 / 781 /
1,563 of 15,625 cells. NAS-Bench-101: 100 and 172 of the 292 distinct graphs among NASLib's 500
cells, tested on the others of the 292 (published figures: on all 423,624). DARTS: 725 genotypes,
labels of a surrogate, 5 folds, tau averaged over folds.
"""


def _gpu() -> str:
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
