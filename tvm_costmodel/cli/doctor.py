"""``doctor``: checks an installation and says how to fix it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from tvm_costmodel.cli.output import Output, table

HELP = "check the installation and say how to fix it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's option."""
    parser.add_argument(
        "--measure",
        action="store_true",
        help="also build and time three small networks, and compare the predictor with them",
    )


def run(args: argparse.Namespace) -> Output:
    """Runs every check; exit code 1 when a required one fails."""
    from tvm_costmodel.diagnostics import diagnose, measured_checks

    checks = diagnose() + (measured_checks() if args.measure else [])
    healthy = all(check.ok for check in checks if check.required)
    marks = {True: "ok", False: "note"}
    rows = [
        (marks[c.ok] if c.ok or not c.required else "WRONG", c.name, c.found, c.remedy)
        for c in checks
    ]
    return Output(
        {"healthy": healthy, "checks": [asdict(check) for check in checks]},
        table(rows, ("", "check", "found", "fix")),
        exit_code=0 if healthy else 1,
    )
