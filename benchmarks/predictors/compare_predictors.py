"""Latency predictors on the measured labels, mean and spread over seeds.

    python benchmarks/predictors/compare_predictors.py --labels FILE [--split random] [--seeds 3]

``FILE`` is a measurement store (``.db``) or an exported data set (``.jsonl.xz``). Each seed has a
split and a training of its own: 80 % of the networks to train, 10 % to choose the epoch, 10 % to
test. Prints the table, and writes it with its environment to ``results/predictors.<device>.md``
(``results/predictors-unseen.<device>.md`` for ``--split leave-one-family-out``).
"""

from __future__ import annotations

import argparse
import json
import logging
import math
from pathlib import Path

import torch

from benchmarks import results_file
from tvm_costmodel.cli.compare import comparison_table
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.compare import SPLITS, Row, compare
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.training.dataset import LabelledGraphs

NETWORKS = ("roofline_former", "nar_former_v2", "nar_former_v2_published")


def verdict(rows: list[Row], split: str) -> str:
    """One sentence on which predictor has the lowest error."""
    whole = {row.predictor: row for row in rows if row.split == split}
    best = min(whole.values(), key=lambda row: row.mean["mape"])
    others = sorted((r for r in whole.values() if r is not best), key=lambda r: r.mean["mape"])
    second = others[0]
    gap = second.mean["mape"] - best.mean["mape"]
    noise = max(best.spread["mape"], second.spread["mape"])
    sentence = (
        f"{best.predictor} has the lowest MAPE, {best.mean['mape']:.2f} % against "
        f"{second.predictor}'s {second.mean['mape']:.2f} %"
    )
    if math.isnan(noise):
        return f"{sentence}; one seed shows no spread."
    clear = "more than" if gap > noise else "no more than"
    return (
        f"{sentence}; the gap of {gap:.2f} points is {clear} the spread over seeds ({noise:.2f})."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", required=True, help=".db or .jsonl.xz")
    parser.add_argument("--device", help="whose labels, when the file holds several devices'")
    parser.add_argument("--split", choices=SPLITS, default="random")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--predictors", default=",".join(NETWORKS), help="besides the baselines")
    parser.add_argument("--families", help="with leave-one-family-out, only these: a,b,c")
    parser.add_argument(
        "--epochs", type=int, help="epochs of the networks; by default those of their recipes"
    )
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="rows (.json) of others")
    parser.add_argument("--threads", type=int, help="threads of torch; its default when not given")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("tvm_costmodel.predictors.compare").setLevel(logging.INFO)
    if args.threads:
        torch.set_num_threads(args.threads)

    def build(name: str, seed: int) -> Regressor:
        changes = {"epochs": args.epochs} if name in NETWORKS and args.epochs else {}
        return build_regressor(name, seed, changes)

    labels = LabelledGraphs.of(read_labels(args.labels, args.device, keep_stale=True))
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    families = args.families.split(",") if args.families else None
    rows = compare(labels, args.predictors.split(","), args.split, seeds, build, families)
    for path in args.also:
        others = [Row.from_dict(values) for values in json.loads(path.read_text())]
        rows += [row for row in others if row.predictor not in {r.predictor for r in rows}]
    table = comparison_table(rows)
    print(table)
    print(verdict(rows, args.split))
    path = results_file.write(
        f"Predictors on {labels.device}",
        f"{len(labels)} measured networks of {len(set(labels.families))} families, pipeline "
        f"{labels.pipeline_key}, training set {labels.hash}; seeds {seeds[0]} to {seeds[-1]}, "
        f"split {args.split}; mean ± standard deviation over seeds.\n"
        "The epoch is chosen on validation networks, never on the test networks.",
        f"```\n{table}\n```\n\n{verdict(rows, args.split)}",
        stem="predictors" if args.split == "random" else "predictors-unseen",
        suffix=labels.device,
    )
    path.with_suffix(".json").write_text(
        json.dumps([row.to_dict() for row in rows], indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
