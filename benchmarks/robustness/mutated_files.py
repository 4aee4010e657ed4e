"""How commands take randomly damaged files: accepted, refused in one line, or a fault.

    python -m benchmarks.robustness.mutated_files --count 2000

Every mutation follows from its kind and seed, so that a fault can be run again with ``--kind`` and
``--first``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from tests.security.mutations import MUTATORS, Corpus, Outcome, run_cases
from tvm_costmodel.tvm_version import import_tvm_without_torch


def main() -> None:
    """Prints a row for each kind of file, then every fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000, help="mutations of all kinds together")
    parser.add_argument("--first", type=int, default=0, help="first seed of each kind")
    parser.add_argument("--kind", choices=sorted(MUTATORS), help="one kind only")
    args = parser.parse_args()
    import_tvm_without_torch()
    kinds = [args.kind] if args.kind else list(MUTATORS)
    share = -(-args.count // len(kinds))
    faults: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = Corpus(Path(folder) / "whole")
        print("kind accepted refused tracebacks crashes hangs over_2_GiB other")
        for kind in kinds:
            cases = [(kind, args.first + i) for i in range(share)]
            outcomes = run_cases(corpus, cases, Path(folder) / "cases")
            print(kind, *_columns(Counter(outcome.what for outcome in outcomes)), flush=True)
            faults += [outcome for outcome in outcomes if outcome.is_fault]
    for fault in faults:
        print(fault.case.kind, fault.case.seed, fault.what, fault.text.strip()[-500:], sep="\n  ")


def _columns(counts: Counter[str]) -> list[int]:
    crashes = sum(count for what, count in counts.items() if what.startswith("crash"))
    named = ("accepted", "refused", "traceback")
    columns = [counts[what] for what in named] + [crashes, counts["hang"], counts["memory"]]
    return [*columns, sum(counts.values()) - sum(columns)]


if __name__ == "__main__":
    main()
