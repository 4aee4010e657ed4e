"""``calibrate``: a trained predictor for a new device, from few measurements."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tvm_costmodel.cli.options import add_board, add_device, add_keep_stale, positive_float
from tvm_costmodel.cli.output import Output, table
from tvm_costmodel.errors import ConfigError

if TYPE_CHECKING:
    from tvm_costmodel.training.metrics import Metrics
    from tvm_costmodel.transfer.workflow import CalibrationSummary

HELP = "correct a trained predictor for this machine, or another device"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.epilog = (
        "Without --store it measures networks on this machine for --seconds; what it learns is "
        "kept and used by `predict` and Python from then on, and the same command again adds to "
        "it. With --store it learns from labels: `tvm-costmodel profile --suite default --count "
        "200 --select 10 --calibrate-for CHECKPOINT --device NAME --store DB` selects networks."
    )
    parser.add_argument(
        "--from",
        dest="checkpoint",
        metavar="CHECKPOINT",
        help="predictor of another device: a name from `tvm-costmodel models`, such as "
        "cpu-amd-zen5/roofline_former, or a directory that `train` wrote (default: the shipped "
        "one that `predict` takes)",
    )
    parser.add_argument("--store", metavar="FILE", help="labels: a .db store or .jsonl.xz file")
    add_keep_stale(parser)
    add_device(parser, default=None)
    add_board(parser)
    parser.add_argument(
        "--seconds",
        type=positive_float,
        metavar="S",
        help="how long to measure where no --store is given (180)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="checkpoint directory to write (default without --store: this user's cache)",
    )


def run(args: argparse.Namespace) -> Output:
    """Calibrates, and reports the errors before and after."""
    from tvm_costmodel.predictors.loading import load_predictor

    if args.store is None:
        return _probe(args)
    if args.seconds is not None:
        raise ConfigError("--seconds is for measuring without --store; leave one of them out")
    if args.checkpoint is None or args.output is None:
        raise ConfigError("labels of a --store need --from CHECKPOINT and -o DIR")
    from tvm_costmodel.profiling.label_files.networks import read_labels
    from tvm_costmodel.training.dataset import LabelledGraphs
    from tvm_costmodel.transfer.workflow import calibrate_checkpoint

    regressor = load_predictor(args.checkpoint).regressor
    labels = LabelledGraphs.of(read_labels(args.store, args.device, keep_stale=args.keep_stale))
    summary = calibrate_checkpoint(regressor, labels, args.output)
    return Output(summary.to_dict(), _text(summary))


def _probe(args: argparse.Namespace) -> Output:
    """Measures on this machine or a board, and calibrates to that."""
    from tvm_costmodel.predictors.loading import load_predictor, shipped_default
    from tvm_costmodel.profiling.devices import choose_device
    from tvm_costmodel.transfer.probe import SECONDS, probe

    device = choose_device(args.device or "cpu", args.tracker, args.key, args.threads)
    regressor = load_predictor(args.checkpoint or shipped_default()).regressor
    done = probe(regressor, device, args.seconds or SECONDS, args.output, progress=not args.quiet)
    fields = done.calibration.to_dict() | {
        "store": str(done.store),
        "measured": done.measured,
        "noisy": done.noisy,
        "seconds": done.seconds,
    }
    text = _text(done.calibration) + f"\n{done.measured} networks measured in {done.seconds:.0f} s"
    return Output(fields, text)


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
