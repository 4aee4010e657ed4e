"""``compare``: predictors side by side on the same labels and splits."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tvm_costmodel.cli.options import add_labels, positive_int
from tvm_costmodel.cli.output import Output, table

if TYPE_CHECKING:
    from tvm_costmodel.predictors.compare import Row

HELP = "train and test predictors on the same splits; XGBoost and FLOPs are always in the table"
SCORES = {
    "mape": "MAPE %",
    "within_5": "within 5 %",
    "within_10": "within 10 %",
    "kendall_tau": "Kendall tau",
    "spearman": "Spearman",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_labels(parser)
    parser.add_argument(
        "--predictors",
        default="roofline_former",
        metavar="A,B,...",
        help="names from `tvm-costmodel models` (default: roofline_former)",
    )
    parser.add_argument(
        "--split",
        choices=("random", "leave-one-family-out"),
        default="random",
        help="test set: a random tenth of each family, or each whole family in turn",
    )
    parser.add_argument(
        "--seeds",
        type=positive_int,
        default=3,
        metavar="N",
        help="number of splits and trainings (3)",
    )


def run(args: argparse.Namespace) -> Output:
    """Compares the predictors; the table has means with their spread over seeds."""
    from tvm_costmodel.predictors.compare import compare
    from tvm_costmodel.predictors.registry import regressor_class
    from tvm_costmodel.profiling.label_files.networks import read_labels
    from tvm_costmodel.training.dataset import LabelledGraphs

    predictors = args.predictors.split(",")
    for name in predictors:
        regressor_class(name)  # an unknown one is refused before the labels are read
    labels = LabelledGraphs.of(read_labels(args.store, args.device, keep_stale=args.keep_stale))
    rows = compare(labels, predictors, args.split, range(args.seeds))
    fields = {
        "device": labels.device,
        "pipeline": labels.pipeline_key,
        "networks": len(labels),
        "seeds": args.seeds,
        "rows": [row.to_dict() for row in rows],
    }
    return Output(fields, comparison_table(rows))


def comparison_table(rows: list[Row]) -> str:
    """One line per predictor and split, ``mean ± spread``."""
    headers = ("predictor", "split", "n", *SCORES.values(), "predict ms", "fit s")
    lines = [
        (
            row.predictor,
            row.split,
            f"{row.n:.0f}",
            *(_mean_and_spread(row.mean[score], row.spread[score]) for score in SCORES),
            f"{row.predict_ms:.3g}",
            f"{row.fit_s:.3g}",
        )
        for row in rows
    ]
    return table(lines, headers)


def _mean_and_spread(mean: float, spread: float) -> str:
    shown = f"{mean:.3f}" if abs(mean) <= 1 else f"{mean:.2f}"
    return shown if spread != spread else f"{shown} ± {spread:.2g}"
