"""ONNX's own operator tests: how many are right, refused clearly, refused unclearly, wrong.

    python benchmarks/compiler/onnx_operators.py
    python benchmarks/compiler/onnx_operators.py --pattern 'resize|attention' --list

Takes the tests whose operators the importer names. Each runs in a child of one warm process: some
20 minutes on one core for all of them.
"""

from __future__ import annotations

import argparse
import collections
import logging
import re
import sys
import time

from tabulate import tabulate

from benchmarks.compiler.onnx_operator_cases import (
    STATUSES,
    forked_outcome,
    named_by_importer,
    operator_tests,
)


def main() -> int:
    """Prints the counts, and each test that is not right where asked; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pattern", default="", help="regular expression of the tests' names")
    parser.add_argument("--list", action="store_true", help="print what is not right")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    import onnxslim  # noqa: F401  (before the forks)

    import tvm_costmodel.compilers.relax  # noqa: F401

    cases = named_by_importer(operator_tests())
    cases = [case for case in cases if re.search(arguments.pattern, case.name)]
    start, counts = time.perf_counter(), collections.Counter[str]()
    for case in cases:
        outcome = forked_outcome(case)
        counts[outcome.status] += 1
        if outcome.status in ("unclear", "wrong") or (arguments.list and outcome.status != "right"):
            print(f"{outcome.status}  {outcome.name}  {outcome.text[:200]}", flush=True)
    rows = [
        (status, counts[status], f"{counts[status] / max(1, len(cases)):.1%}")
        for status in STATUSES
    ]
    rows.append(("skipped", counts["skipped"], ""))
    print(tabulate(rows, headers=("", "tests", f"of {len(cases)}")))
    print(f"{time.perf_counter() - start:.0f} s")
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
