"""ONNX's own operator tests: how many are right, refused clearly, refused unclearly, wrong.

    python benchmarks/compiler/onnx_operators.py --resume build/onnx_operators.jsonl
    python benchmarks/compiler/onnx_operators.py --pattern 'resize|attention' --list

Takes the tests whose operators the importer names: some 10 minutes on one idle core for all of
them. A run that was stopped goes on where it was with the same ``--resume``.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import results_file
from benchmarks.compiler.onnx_operator_cases import (
    STATUSES,
    Outcome,
    forked_outcomes,
    named_by_importer,
    operator_tests,
)

_PROTOCOL = (
    "Each test whose operators the importer names, through front end, default build and one "
    "inference, against the outputs that it comes with; operands after the first are weights. "
    "Skipped: text, complex numbers, sequences."
)


def main() -> int:
    """Prints the counts, and each test that is not right where asked; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pattern", default="", help="regular expression of the tests' names")
    parser.add_argument("--list", action="store_true", help="print what is not right")
    parser.add_argument("--resume", type=Path, help="file of outcomes, a line each; added to")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    import onnxslim  # noqa: F401  (before the forks)

    import tvm_costmodel.compilers.relax  # noqa: F401

    cases = named_by_importer(operator_tests())
    cases = [case for case in cases if re.search(arguments.pattern, case.name)]
    known = _kept(arguments.resume)
    counts = collections.Counter[str]()
    for outcome in _outcomes(cases, known, arguments.resume):
        counts[outcome.status] += 1
        if outcome.status in ("unclear", "wrong") or (arguments.list and outcome.status != "right"):
            print(f"{outcome.status}  {outcome.name}  {outcome.text[:200]}", flush=True)
    rows = [
        (status, counts[status], f"{counts[status] / max(1, len(cases)):.1%}")
        for status in (*STATUSES, "skipped")
    ]
    table = tabulate(rows, headers=("", "tests", f"of {len(cases)}"), tablefmt="github")
    print(table)
    if not arguments.pattern:
        results_file.write("ONNX's own operator tests", _PROTOCOL, table)
    return int(counts["wrong"] > 0)


def _kept(path: Path | None) -> dict[str, Outcome]:
    """Outcomes of a run before, by the test's name."""
    if path is None or not path.exists():
        return {}
    outcomes = (Outcome(**json.loads(line)) for line in path.read_text().splitlines())
    return {outcome.name: outcome for outcome in outcomes}


def _outcomes(cases: list[Any], known: dict[str, Outcome], path: Path | None) -> Iterator[Outcome]:
    """Those of a run before, and then those of the other tests, which are added to the file."""
    yield from (known[case.name] for case in cases if case.name in known)
    for outcome in forked_outcomes(case for case in cases if case.name not in known):
        if path is not None:
            with path.open("a") as file:
                print(json.dumps(dataclasses.asdict(outcome)), file=file)
        yield outcome


if __name__ == "__main__":
    sys.exit(main())
