"""``doctor``: what is wrong with an installation, and what mends it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tvm_costmodel.cli.output import Output, table

HELP = "look over the installation and say what mends it"


def configure(parser: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(args: argparse.Namespace) -> Output:
    """Looks at everything; exit code 1 when something required is wrong."""
    from tvm_costmodel.diagnosis import diagnose

    checks = diagnose()
    healthy = all(check.ok for check in checks if check.required)
    marks = {True: "ok", False: "note"}
    rows = [
        (marks[c.ok] if c.ok or not c.required else "WRONG", c.name, c.found, c.remedy)
        for c in checks
    ]
    return Output(
        {"healthy": healthy, "checks": [asdict(check) for check in checks]},
        table(rows, ("", "what", "found", "to mend it")),
        exit_code=0 if healthy else 1,
    )
