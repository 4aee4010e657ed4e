"""``tune``: finds graph-level decisions for a network with a predictor and a few measurements."""

from __future__ import annotations

import argparse
from pathlib import Path

from tvm_costmodel.cli.options import (
    add_board,
    add_compiler,
    add_device,
    add_model,
    parse_shapes,
    positive_float,
    positive_int,
    renamed_option,
    seed_number,
)
from tvm_costmodel.cli.output import Output

HELP = "find the graph-level decisions that make a model fastest, and compile it with them"


_SETTINGS = (
    "measure rounds candidates strategy adapt minutes seed tolerance store output cores force"
).split()
"""Options that are keywords of `tvm_costmodel.tune` under the same name."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_model(parser, compiled=True)
    add_device(parser)
    add_compiler(parser)
    add_board(parser)
    parser.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="directory for library and report"
    )
    _add_budgets(parser)
    _add_search(parser)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-3,
        metavar="T",
        help="largest difference of an output, relative to the largest magnitude of it (1e-3)",
    )
    parser.add_argument(
        "--store", metavar="DB", help="store to measure into (default: DIR/measurements.db)"
    )
    parser.add_argument(
        "--force", action="store_true", help="tune and measure anew what the store has already"
    )
    renamed_option(parser, "--again", "--force")


def _add_budgets(parser: argparse.ArgumentParser) -> None:
    from tvm_costmodel.tuning.config import MEASURE
    from tvm_costmodel.tuning.search.search import BUDGET

    parser.add_argument(
        "--measure",
        type=positive_int,
        default=MEASURE,
        metavar="K",
        help=f"candidates to measure at most, besides the default ({MEASURE})",
    )
    parser.add_argument(
        "--candidates",
        type=positive_int,
        default=BUDGET,
        metavar="N",
        help=f"candidates to score at most ({BUDGET})",
    )
    parser.add_argument(
        "--rounds", type=positive_int, default=2, metavar="N", help="rounds of measuring (2)"
    )
    parser.add_argument(
        "--minutes", type=positive_float, metavar="M", help="start no round after this time"
    )


def _add_search(parser: argparse.ArgumentParser) -> None:
    from tvm_costmodel.tuning.search.search import STRATEGIES

    scorer = parser.add_mutually_exclusive_group()
    scorer.add_argument(
        "--predictor",
        metavar="P",
        help="predictor that scores candidates: a name from `tvm-costmodel models`, or random "
        "(default: the shipped one of the device)",
    )
    scorer.add_argument("--checkpoint", metavar="DIR", help="the same: a directory of `train`")
    parser.add_argument(
        "--strategy", choices=("auto", *STRATEGIES), default="auto", help="how to search"
    )
    parser.add_argument(
        "--adapt", action="store_true", help="learn from each round before the next"
    )
    parser.add_argument("--seed", type=seed_number, default=0, help="seed of the search")


def run(args: argparse.Namespace) -> Output:
    """Tunes and writes the winner; exit code 130 when interrupted."""
    from tvm_costmodel.profiling.devices import choose_device
    from tvm_costmodel.tuning.config import STORE
    from tvm_costmodel.tuning.standalone import has_programs
    from tvm_costmodel.tuning.tune import tune

    result = tune(
        args.model,
        device=choose_device(args.device, args.tracker, args.key, args.threads),
        compiler=args.compiler,
        shapes=parse_shapes(args.shape),
        predictor=args.checkpoint or args.predictor,
        progress=not args.quiet,
        **{name: getattr(args, name) for name in _SETTINGS},
    )
    artifact = str(result.artifact(args.output))
    written = {"artifact": artifact, "store": args.store or f"{args.output}/{STORE}"}
    text = f"{result.report.to_text()}\n{artifact} holds it"
    if has_programs(Path(args.output)):
        text += "; run.py and main.cc next to it run it with TVM's runtime alone"
    code = 130 if result.report.stopped == "interrupted" else 0
    return Output(result.report.to_dict() | written, text, code)
