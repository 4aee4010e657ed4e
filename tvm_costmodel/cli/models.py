"""``models``: the predictors there are, and the checkpoints that ship with the package."""

from __future__ import annotations

import argparse

from tvm_costmodel.cli.output import Output, table

HELP = "list the predictors and the trained checkpoints"


def configure(parser: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(args: argparse.Namespace) -> Output:
    """Lists the registry and the zoo."""
    from tvm_costmodel.predictor import zoo
    from tvm_costmodel.training.registry import REGISTRY

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
