"""Latency predictors on nn-Meter's bench: four devices, networks and families never seen.

    python benchmarks/nn_meter/nnmeter.py --data nnmeter_bench.npz
        [--predictors roofline_former,xgboost,...] [--splits random,leave-one-family-out]
        [--seeds 3] [--set epochs=N] [--torch-device cuda]

``random``: 80 % of the networks to train, 10 % to choose the epoch by, 10 % to test, equal graphs
kept together. ``leave-one-family-out``: trained on ten families (5 % of their networks choose the
epoch), tested on all of the eleventh. `roofline_gp`, XGBoost and the power law learn one device at
a time, networks learn all devices at once. Encoded graphs are cached in ``--cache`` for later runs.
Prints the tables and writes them to ``results/nnmeter.<machine>.md``, every run's figures to
``.json``, and the splits, as lists of hashes, to ``results/nnmeter.splits.json.xz``; ``--stem``
names them otherwise. ``--also`` takes rows of earlier runs (their ``.json``) into the tables, for
predictors and kinds of split that this run leaves out.

Predictors are roofline_former, roofline_gp, xgboost, flops, and the published networks of
`nnmeter_networks`: nnlp, nar_former_v2, nn_former and nar_former. ``--set`` changes a field of a
network's recipe (`TrainingConfig`, and ``bfloat16``), of `RooflineFormer`'s recipe
(`EnsembleConfig`) or shape (`RooflineFormerConfig`), or of `roofline_gp` (`RooflineGPConfig`),
value in JSON. An ablation of `RooflineFormer` is `nnmeter_ablation`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import lzma
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import fields
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import results_file
from benchmarks.nn_meter.nnmeter_encoding import Encoded, encode
from benchmarks.nn_meter.nnmeter_tables import label_noise, noise_table, tables
from tvm_costmodel.errors import require_known
from tvm_costmodel.predictors.checkpoint import current_name
from tvm_costmodel.predictors.flops import solve_power_law
from tvm_costmodel.tokenizer.roofline_terms import kernel_table
from tvm_costmodel.training.metrics import evaluate
from tvm_costmodel.training.splits import Split, leave_one_family_out, random_split

SPLITS = ("random", "leave-one-family-out")
OURS = ("roofline_former", "roofline_gp")
PREDICTORS = (*OURS, "xgboost", "flops")
NETWORKS = ("nnlp", "nar_former_v2", "nn_former", "nar_former")
"""What `nnmeter_networks` trains, named here because that needs torch."""
_CHUNK = 150

BySeed = dict[int, list[tuple[str, Split]]]
AnswersBySplit = dict[tuple[str, str, str], list[np.ndarray]]
"""Predictor, kind of split and part to the answers of each seed."""


def make_splits(encoded: Encoded, names: Sequence[str], seed: int) -> Iterator[tuple[str, Split]]:
    """Every split of a seed with the name of its kind."""
    families, hashes = encoded.arrays["family"].tolist(), encoded.arrays["hash"].tolist()
    if "random" in names:
        yield "random", random_split(families, hashes, seed)
    if "leave-one-family-out" in names:
        for split in leave_one_family_out(families, hashes, seed, validation=0.05):
            yield "leave-one-family-out", split


@cache
def _encoded(path: Path) -> Encoded:
    """The cache of `encode`, read once in each process."""
    return encode(Path(), path, 1, 1)


def run_tables(job: tuple[Path, str, int, Split]) -> np.ndarray:
    """A predictor of one device at a time on one split: ms of the test networks."""
    from tvm_costmodel.predictors.xgboost import Table, XGBoostRegressor

    cache, name, seed, split = job
    encoded = _encoded(cache)
    table = Table(encoded.arrays["features"], encoded.arrays["columns"])
    answers = np.full((len(split.test), encoded.latency_ms.shape[1]), np.nan)
    for device, latency_ms in enumerate(encoded.latency_ms.T):
        train, held = (
            side[np.isfinite(latency_ms[side])] for side in (split.train, split.validation)
        )
        if name == "flops":
            law = solve_power_law(table.columns[train], latency_ms[train])
            answers[:, device] = np.exp(table.columns[split.test] @ law)
            continue
        regressor = XGBoostRegressor(seed=seed)
        regressor.fit_table(
            table.rows(train), latency_ms[train], table.rows(held), latency_ms[held]
        )
        answers[:, device] = regressor.predict_table(table.rows(split.test))
    return answers


def run_gp(job: tuple[Path, int, Split, dict[str, Any]]) -> np.ndarray:
    """`roofline_gp` of each device on one split: ms of the test networks."""
    from tvm_costmodel.models.roofline_gp import RooflineGP, RooflineGPConfig

    encoded, (_, seed, split, settings) = _encoded(job[0]), job
    names = [field.name for field in fields(RooflineGPConfig)]
    require_known(settings, names, "roofline_gp does not take these settings")
    tokens = encoded.tokens()
    tables = [
        kernel_table([tokens[i] for i in split.test[at : at + _CHUNK]])
        for at in range(0, len(split.test), _CHUNK)
    ]
    answers = np.full((len(split.test), encoded.latency_ms.shape[1]), np.nan)
    for device, latency_ms in enumerate(encoded.latency_ms.T):
        train = split.train[np.isfinite(latency_ms[split.train])]
        model = RooflineGP(RooflineGPConfig(**{"seed": seed, **settings}))
        model.fit([tokens[i] for i in train], latency_ms[train])
        parts = [table.sums(model.parts(table)) for table in tables]
        answers[:, device] = np.concatenate(parts)
    return answers


def train_roofline(
    encoded: Encoded, splits: Sequence[Split], seed: int, settings: dict[str, Any], device: str
) -> np.ndarray:
    """`RooflineFormer` on all splits of a seed at once: ms of all networks, [splits, G, P]."""
    import torch

    from tvm_costmodel.models.roofline_former import RooflineFormerConfig
    from tvm_costmodel.predictors.roofline_former import new_networks
    from tvm_costmodel.training.ensemble_trainer import EnsembleConfig, EnsembleTrainer
    from tvm_costmodel.training.ragged_dataset import GraphSet

    torch.set_float32_matmul_precision("high")
    every = np.arange(len(encoded.latency_ms))
    train = np.array([np.isin(every, split.train) for split in splits])
    held = np.array([np.isin(every, split.validation) for split in splits])
    known = [[f.name for f in fields(kind)] for kind in (EnsembleConfig, RooflineFormerConfig)]
    require_known(settings, [*known[0], *known[1]], "roofline_former does not take these settings")
    recipe, shape = ({k: v for k, v in settings.items() if k in names} for names in known)
    config = RooflineFormerConfig(devices=encoded.latency_ms.shape[1], **shape)
    trainer = EnsembleTrainer(
        new_networks(config, len(splits), seed),
        EnsembleConfig(seed=seed, **recipe),
        GraphSet(encoded.tokens(), device),
        encoded.latency_ms,
        train,
        held,
    )
    trainer.run()
    return trainer.predict(every)


def _roofline_job(job: tuple[Path, Sequence[Split], int, dict[str, Any], str]) -> list[np.ndarray]:
    """Ms of each split's test networks."""
    answers = train_roofline(_encoded(job[0]), *job[1:])
    return [answers[m][split.test] for m, split in enumerate(job[1])]


def _networks_job(
    job: tuple[Path, str, Sequence[tuple[int, Split]], dict[str, Any], str],
) -> list[np.ndarray]:
    from benchmarks.nn_meter.nnmeter_networks import run_networks

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    return run_networks(_encoded(job[0]).arrays, *job[1:])


def score(
    encoded: Encoded, name: str, kind: str, seed: int, split: Split, answers: np.ndarray
) -> Iterator[dict[str, Any]]:
    """Figures of each device."""
    for device, label in enumerate(encoded.arrays["devices"].tolist()):
        measured = encoded.latency_ms[split.test, device]
        has_label = np.isfinite(measured)
        if has_label.any():
            figures = evaluate(answers[has_label, device], measured[has_label]).to_dict()
            yield {
                "predictor": name,
                "split": kind,
                "part": split.name,
                "device": label,
                "seed": seed,
                **{key: round(value, 4) for key, value in figures.items()},
            }


def ensemble(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Geometric mean over seeds of predictions for the same test networks."""
    return np.exp(np.mean(np.log(np.array(answers)), axis=0))


def write_splits(encoded: Encoded, by_seed: BySeed, stem: str) -> None:
    """Test and validation hashes (8 digits) of random splits; digests of all sides of others."""
    short = [str(graph)[:8] for graph in encoded.arrays["hash"]]
    entries: dict[str, Any] = {}
    for seed, named in by_seed.items():
        for kind, split in named:
            sides = {"train": split.train, "validation": split.validation, "test": split.test}
            lists = {side: sorted(short[i] for i in at) for side, at in sides.items()}
            entry: dict[str, Any] = {
                side: hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
                for side, names in lists.items()
            }
            entry["validation_hashes"] = lists["validation"]
            if kind == "random":
                entry["test_hashes"] = lists["test"]
            entries[f"{kind} {split.name} seed {seed}"] = entry
    text = json.dumps(entries, indent=0, sort_keys=True)
    results_file.RESULTS.mkdir(exist_ok=True)
    path = results_file.RESULTS / f"{stem}.splits.json.xz"
    path.write_bytes(lzma.compress(text.encode(), preset=9))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="nnmeter_bench.npz")
    parser.add_argument("--cache", type=Path, default=Path("nnmeter_encoded.npz"))
    parser.add_argument("--predictors", default=",".join(PREDICTORS))
    parser.add_argument("--splits", default=",".join(SPLITS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--set", action="append", default=[], metavar="K=V", help="change of the recipe"
    )
    parser.add_argument("--torch-device", default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--every", type=int, default=1, help="only every n-th network")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="rows (.json) of others")
    parser.add_argument("--stem", default="nnmeter", help="stem of the results' files")
    parser.add_argument("--answers", type=Path, help="also write every prediction (.npz)")
    return parser.parse_args()


def run_all(
    args: argparse.Namespace, by_seed: BySeed, settings: dict[str, Any]
) -> Iterator[tuple[str, int, list[np.ndarray]]]:
    """Every predictor and seed with the answers on that seed's splits."""
    names = args.predictors.split(",")
    require_known(names, [*PREDICTORS, *NETWORKS], "unknown predictors")
    every = [(seed, split) for seed, named in by_seed.items() for _, split in named]
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        waiting: list[tuple[str, int, Callable[[], list[np.ndarray]]]] = []
        for name in (n for n in names if n in NETWORKS):
            at_once = 1 if args.torch_device == "cpu" else len(every)  # a GPU trains them together
            trained = [
                pool.submit(
                    _networks_job,
                    (args.cache, name, every[at : at + at_once], settings, args.torch_device),
                )
                for at in range(0, len(every), at_once)
            ]
            for seed in by_seed:
                waiting.append((name, seed, partial(_of_seed, trained, every, seed)))
        rest = [name for name in names if name not in NETWORKS]
        for seed, named in by_seed.items():
            splits = [split for _, split in named]
            for name in sorted(rest, key=lambda n: n != "roofline_former"):
                if name == "roofline_former":
                    task = (args.cache, splits, seed, settings, args.torch_device)
                    waiting.append((name, seed, pool.submit(_roofline_job, task).result))
                else:
                    jobs = [
                        pool.submit(run_gp, (args.cache, seed, split, settings))
                        if name == "roofline_gp"
                        else pool.submit(run_tables, (args.cache, name, seed, split))
                        for split in splits
                    ]
                    waiting.append((name, seed, partial(_results, jobs)))
        for name, seed, answers in waiting:
            yield name, seed, answers()


def _of_seed(
    jobs: Sequence[Future[list[np.ndarray]]], every: Sequence[tuple[int, Split]], seed: int
) -> list[np.ndarray]:
    results = (answers for job in jobs for answers in job.result())
    return [answers for (s, _), answers in zip(every, results, strict=True) if s == seed]


def _results(jobs: Sequence[Future[np.ndarray]]) -> list[np.ndarray]:
    return [job.result() for job in jobs]


def ensemble_rows(
    encoded: Encoded, by_seed: BySeed, by_split: AnswersBySplit
) -> list[dict[str, Any]]:
    """Figures of our predictors' seeds as one, on splits that all seeds share."""
    rows: list[dict[str, Any]] = []
    for (name, kind, part), answers in by_split.items():
        if name in OURS and kind != "random" and len(answers) > 1:
            split = next(s for k, s in by_seed[0] if (k, s.name) == (kind, part))
            rows += score(encoded, f"{name} x{len(answers)}", kind, 0, split, ensemble(answers))
    return rows


def _with_current_name(row: dict[str, Any]) -> dict[str, Any]:
    """A row of an earlier run under its predictor's name in use."""
    name, *seeds = row["predictor"].split()
    return {**row, "predictor": " ".join([current_name(name), *seeds])}


def main() -> None:
    args = parse_arguments()
    started = time.perf_counter()
    encoded = encode(args.data, args.cache, args.jobs, args.every)
    print(f"{len(encoded.latency_ms)} networks encoded, {time.perf_counter() - started:.0f} s")
    kinds = args.splits.split(",")
    settings = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in args.set)}
    by_seed = {seed: list(make_splits(encoded, kinds, seed)) for seed in range(args.seeds)}
    rows: list[dict[str, Any]] = []
    by_split: AnswersBySplit = {}
    for name, seed, answers in run_all(args, by_seed, settings):
        for (kind, split), own in zip(by_seed[seed], answers, strict=True):
            rows += score(encoded, name, kind, seed, split, own)
            by_split.setdefault((name, kind, split.name), []).append(own)
        print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", flush=True)
    rows += ensemble_rows(encoded, by_seed, by_split)
    if args.answers:
        arrays = {f"{'|'.join(k)}|{i}": a for k, own in by_split.items() for i, a in enumerate(own)}
        np.savez(args.answers, **arrays)
    others = [_with_current_name(r) for path in args.also for r in json.loads(path.read_text())]
    here = {(row["predictor"], row["split"]) for row in rows}
    rows += [row for row in others if (row["predictor"], row["split"]) not in here]
    noise = label_noise(encoded.arrays["hash"], encoded.latency_ms, encoded.arrays["devices"])
    table = f"{tables(rows)}\n\n### label noise\n\n{noise_table(noise)}"
    print(table)
    write_splits(encoded, by_seed, args.stem)
    together = f" `x{args.seeds}` is the geometric mean of the seeds' predictions."
    path = results_file.write(
        "Predictors on nn-Meter's bench",
        f"{len(encoded.latency_ms)} networks, seeds: {args.seeds}, recipe {settings or 'default'}; "
        "the epoch is chosen on validation networks, never on test networks."
        f"{together if args.seeds > 1 else ''} "
        "`label noise` is the error of a predictor that knows the true latency, on networks of "
        "which the bench holds several equal ones, measured separately.",
        table,
        stem=args.stem,
    )
    path.with_suffix(".json").write_text(json.dumps(rows, indent=0) + "\n")


if __name__ == "__main__":
    main()
