#!/usr/bin/env python
"""Measures networks on this machine or on a board behind a TVM RPC tracker, into a store.

Local:  python scripts/profile_device.py --store cpu.db --count 100
Board:  python scripts/profile_device.py --tracker HOST:PORT --key rpi4 --store rpi4.db --count 100
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tvm_costmodel.errors import CostModelError
from tvm_costmodel.profiling.dataset import export_dataset, import_dataset
from tvm_costmodel.profiling.devices import choose_device
from tvm_costmodel.profiling.profiler import Profiler, ProfileSummary
from tvm_costmodel.profiling.store import Store


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", required=True, help="SQLite file that rows are added to")
    parser.add_argument("--device", default="cpu", help="name or .toml file (default: cpu)")
    parser.add_argument("--tracker", metavar="HOST:PORT", help="RPC tracker of the board")
    parser.add_argument("--key", help="key of the board at the tracker")
    parser.add_argument("--suite", default="default", help="which workloads (default: default)")
    parser.add_argument("--count", type=int, default=100, help="number of networks")
    parser.add_argument("--seed", type=int, default=0, help="seed of the workloads")
    parser.add_argument("--minutes", type=float, help="start no network after this time")
    parser.add_argument("--cores", help="cores to measure on, such as 1 or 2,3")
    parser.add_argument("--threads", type=int, help="threads a network may use")
    parser.add_argument("--retry-failed", action="store_true", help="try failed networks again")
    parser.add_argument(
        "--remeasure-stale", action="store_true", help="redo labels of older versions, then end"
    )
    parser.add_argument(
        "--remeasure-noisy", action="store_true", help="redo labels that stayed noisy, then end"
    )
    parser.add_argument("--export", metavar="FILE", help="write the labels as .jsonl.xz, then end")
    parser.add_argument("--import", dest="source", metavar="FILE", help="add an exported file")
    return parser.parse_args(argv)


def profile(options: argparse.Namespace) -> ProfileSummary:
    """Measures, resuming where the store stopped."""
    from tvm_costmodel.profiling.workloads import suite

    profiler = Profiler(
        choose_device(options.device, options.tracker, options.key, options.threads),
        options.store,
        cores=[int(core) for core in options.cores.split(",")] if options.cores else None,
        retry_failed=options.retry_failed,
    )
    if options.remeasure_stale:
        return profiler.remeasure_stale(minutes=options.minutes)
    if options.remeasure_noisy:
        return profiler.remeasure_noisy(minutes=options.minutes)
    sources = suite(options.suite, options.count, options.seed)
    return profiler.run(sources, options.count, options.minutes)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parse(argv)
    try:
        if options.source:
            with Store(options.store) as store:
                print(f"added {import_dataset(store, options.source)} rows to {options.store}")
            return 0
        if options.export:
            with Store(options.store, write=False) as store:
                header = export_dataset(store, options.export)
            print(f"wrote {header['networks']} networks to {options.export}: {header['note']}")
            return 0
        summary = profile(options)
    except CostModelError as error:
        print(f"profile_device: {error}", file=sys.stderr)
        return error.exit_code
    print(
        f"{summary.device}: measured {summary.measured}, reused {summary.reused}, "
        f"failed {summary.failed} in {summary.seconds:.0f} s; store {summary.store}"
    )
    return 130 if summary.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
