"""``models``: lists predictors and shipped checkpoints, and exports a checkpoint to ONNX."""

from __future__ import annotations

import argparse

from tvm_costmodel.cli.output import Output, table
from tvm_costmodel.errors import ConfigError, MissingDependencyError

HELP = "list the predictors and the trained checkpoints, or export one to ONNX"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    parser.add_argument(
        "action",
        nargs="?",
        choices=("list", "export"),
        default="list",
        help="list (default), or export: write a checkpoint with its network in ONNX, which "
        "predicts without torch",
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        nargs="?",
        help="checkpoint to export: a directory that `train` wrote, or a name from the list",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="directory for the exported checkpoint; may be CHECKPOINT",
    )


def run(args: argparse.Namespace) -> Output:
    """Lists the registry and the zoo, or exports a checkpoint."""
    if args.action == "export":
        return _export(args)
    if args.checkpoint or args.output:
        raise ConfigError(
            "a checkpoint and -o are for `tvm-costmodel models export CHECKPOINT -o DIR`"
        )
    return _list()


def _export(args: argparse.Namespace) -> Output:
    from tvm_costmodel.predictors.loading import checkpoint_path

    if not args.checkpoint or not args.output:
        raise ConfigError(
            "name a checkpoint and an output: `tvm-costmodel models export CHECKPOINT -o DIR`"
        )
    path = checkpoint_path(args.checkpoint)
    try:
        from tvm_costmodel.predictors.onnx_export import OPSET, export_checkpoint
    except ImportError as error:
        raise MissingDependencyError(
            f"exporting needs PyTorch ({error}): pip install torch onnx onnxscript onnxruntime"
        ) from error
    written = export_checkpoint(path, args.output)
    fields = {
        "checkpoint": str(written.path),
        "source": str(path),
        "opset": OPSET,
        "bytes": written.size,
        "largest_difference": written.difference,
    }
    text = (
        f"{written.path}: {written.size / 1e6:.1f} MB of ONNX, opset {OPSET}; differs from the "
        f"network in torch by {written.difference:.1e} at most"
    )
    return Output(fields, text)


def _list() -> Output:
    from tvm_costmodel.predictors.loading import zoo
    from tvm_costmodel.predictors.registry import REGISTRY

    entries = [(entry, entry.card) for entry in zoo()]
    checkpoints = [
        {
            "name": f"{entry.device}/{entry.predictor}",
            "device": entry.device,
            "predictor": entry.predictor,
            "trained_on": card.get("trained_on"),
            "test": card.get("test"),
            "path": str(entry.path),
        }
        for entry, card in entries
    ]
    rows = [
        (
            f"{entry.device}/{entry.predictor}",
            card.get("trained_on", "-"),
            _number(card, "mape"),
            _number(card, "within_10"),
            _number(card, "kendall_tau"),
        )
        for entry, card in entries
    ]
    text = "predictors: " + ", ".join(REGISTRY) + "\n\n"
    text += table(rows, ("checkpoint", "networks", "MAPE %", "within 10 %", "Kendall tau"))
    return Output({"predictors": list(REGISTRY), "checkpoints": checkpoints}, text)


def _number(card: dict[str, dict[str, float]], score: str) -> str:
    value = (card.get("test") or {}).get(score)
    return "-" if value is None else f"{value:.3g}"
