"""``calibrate``: a trained predictor for a new device, from few measurements."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tvm_costmodel.cli.options import add_labels
from tvm_costmodel.cli.output import Output, table

if TYPE_CHECKING:
    from tvm_costmodel.training.metrics import Metrics
    from tvm_costmodel.transfer.workflow import CalibrationSummary

HELP = "correct a trained predictor for another device, from 5 to 50 measured networks"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog = (
        "Measure first: `tvm-costmodel profile --suite default --count 200 --select 10 "
        "--calibrate-for CHECKPOINT --device NAME --store DB` selects the networks."
    )
    parser.add_argument(
        "--from",
        dest="checkpoint",
        metavar="CHECKPOINT",
        required=True,
        help="predictor of another device: a name from `tvm-costmodel models`, such as "
        "cpu-x86-avx512/roofline_former, or a directory that `train` wrote",
    )
    add_labels(parser)
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="checkpoint directory to write"
    )


def run(args: argparse.Namespace) -> Output:
    """Calibrates to all labels and reports the leave-one-out error."""
    from tvm_costmodel.predictors.loading import load_predictor
    from tvm_costmodel.profiling.label_files.networks import read_labels
    from tvm_costmodel.training.dataset import LabelledGraphs
    from tvm_costmodel.transfer.workflow import calibrate_checkpoint

    regressor = load_predictor(args.checkpoint).regressor
    labels = LabelledGraphs.of(read_labels(args.store, args.device))
    summary = calibrate_checkpoint(regressor, labels, args.output)
    return Output(summary.to_dict(), _text(summary))


def _text(summary: CalibrationSummary) -> str:
    rows = [
        _row(f"uncalibrated, as for {summary.source}", summary.uncalibrated),
        _row("scaled by one factor", summary.one_factor),
        _row("calibrated", summary.calibrated),
    ]
    text = table(rows, (summary.predictor, "MAPE %", "within 10 %", "Kendall tau"))
    interval = summary.interval
    text += (
        f"\n{summary.networks} networks of {summary.device}; each of {summary.calibrated.n} "
        "predicted from the others' measurements"
        f"\ninterval {interval.low:.3g} to {interval.high:.3g} times the prediction, for "
        f"{interval.coverage:.0%} of networks"
        f"\ntvm-costmodel predict MODEL --checkpoint {summary.checkpoint} --device {summary.device}"
    )
    return text


def _row(what: str, metrics: Metrics) -> tuple[str, ...]:
    scores = (metrics.mape, metrics.within_10, metrics.kendall_tau)
    return (what, *(f"{score:.3g}" for score in scores))
