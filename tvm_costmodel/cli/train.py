"""``train``: trains a predictor on measured labels."""

from __future__ import annotations

import argparse
import json

from tvm_costmodel.cli.options import add_labels, renamed_option, seed_number
from tvm_costmodel.cli.output import Output, named_rows, table
from tvm_costmodel.errors import ConfigError

HELP = "train a predictor on measured labels and write a checkpoint"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_labels(parser, required=False)
    parser.add_argument(
        "--predictor",
        default="roofline_former",
        metavar="NAME",
        help="a name from `tvm-costmodel models` (default: roofline_former)",
    )
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="checkpoint directory to write"
    )
    parser.add_argument(
        "--seed", type=seed_number, default=0, help="seed of the split and the training"
    )
    parser.add_argument(
        "--variants",
        metavar="FILE",
        help="learn how decisions change latency, from a store or .jsonl.xz file of "
        "`profile --variants`; --store then adds networks with only their default build",
    )
    parser.add_argument(
        "--init-from",
        metavar="CHECKPOINT",
        help="with --variants of Relay: initialise relay_kernel_former from this kernel_former of "
        "Relax",
    )
    renamed_option(parser, "--start", "--init-from")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted training")
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="change a training setting, for instance epochs=100; may be repeated",
    )


def run(args: argparse.Namespace) -> Output:
    """Trains on 80 % of the labels, chooses the epoch on 10 % and reports on 10 %."""
    from tvm_costmodel.predictors.registry import build_regressor, require_decision_aware
    from tvm_costmodel.predictors.train import train
    from tvm_costmodel.profiling.label_files.networks import read_labels
    from tvm_costmodel.training.dataset import LabelledGraphs

    settings = dict(map(_setting, args.set))
    build_regressor(args.predictor, args.seed, settings)  # is refused before the labels are read
    if not (args.store or args.variants):
        raise ConfigError("give labels to learn from: --store DB, or --variants FILE")
    if args.variants:
        require_decision_aware(args.predictor)
    if args.init_from and not args.variants:
        raise ConfigError(
            "--init-from is for relay_kernel_former, which learns from --variants FILE"
        )
    labels = None
    if args.store:
        stored = read_labels(args.store, args.device, keep_stale=args.keep_stale)
        labels = LabelledGraphs.of(stored)
    if args.variants:
        from tvm_costmodel.profiling.label_files.variants import read_variants
        from tvm_costmodel.tuning.learning.variant_dataset import labels_of_variants

        variants = read_variants(args.variants, args.device, args.keep_stale)
        labels = labels_of_variants(variants, labels)
    assert labels is not None
    summary = train(
        labels,
        args.predictor,
        args.output,
        seed=args.seed,
        resume=args.resume,
        settings=settings,
        init_from=args.init_from,
    )
    fields = summary.to_dict()
    return Output(fields, table(named_rows(fields), ("", args.predictor)))


def _setting(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text!r} is not NAME=VALUE, for instance --set epochs=100")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
