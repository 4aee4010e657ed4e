"""Measures the noise floor of a store's labels: measures networks again and compares.

    python benchmarks/labels/label_noise.py --store labels.db --count 50

Takes networks evenly over the store's good labels, measures each again under the same pipeline
into a store of its own, and prints the relative difference of the two: median, mean and 90th
percentile, for the plain latency and for the latency at the machine's usual speed (by the reference
kernel), which is what predictors learn from. Writes it with its environment to
``results/label_noise.<machine>.md``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.cli.options import core_list
from tvm_costmodel.errors import CostModelError, MeasurementError
from tvm_costmodel.profiling.measuring.record import Measurement, Timing, quantile
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.sources import source_from_dict
from tvm_costmodel.profiling.store.store import Store


@dataclass(frozen=True)
class Pair:
    """One network, measured twice."""

    family: str
    first: Timing
    second: Timing

    @property
    def measured(self) -> float:
        """Relative difference of the plain latencies."""
        return difference(self.first.latency_s, self.second.latency_s)

    @property
    def at_usual_speed(self) -> float:
        """Relative difference of the latencies in units of the reference kernel."""
        return difference(self.first.relative, self.second.relative)


def difference(one: float, other: float) -> float:
    """|one - other| over their mean."""
    return abs(one - other) / (0.5 * (one + other))


def spread_rows(rows: Sequence[Measurement], count: int) -> list[Measurement]:
    """``count`` rows, evenly over the order in which they were measured."""
    if len(rows) <= count:
        return list(rows)
    return [rows[int(i * len(rows) / count)] for i in range(count)]


def remeasure(
    store: Store, count: int, cores: Sequence[int] | None
) -> tuple[list[Pair], dict[str, Any]]:
    """Measures again; returns the pairs and the environment of the second measurement."""
    device = max(store.summary(), key=lambda s: s.ok).device
    pipeline_key, _ = store.require_one_pipeline(device)
    settings = store.pipelines()[pipeline_key]["config"]
    rows = [row for row in store.measurements(device, pipeline_key=pipeline_key) if row.timing]
    first = {row.graph_hash: row for row in spread_rows(rows, count)}
    with tempfile.TemporaryDirectory() as folder:
        second = Store(Path(folder) / "second.db")
        profiler = Profiler(device, second, pipeline=settings, cores=cores)
        summary = profiler.run([source_from_dict(row.source) for row in first.values()])
        if summary.pipeline_key != pipeline_key:
            raise MeasurementError(
                f"the store's labels are of pipeline {pipeline_key}, this version builds "
                f"{summary.pipeline_key}; run `tvm-costmodel profile --remeasure-stale` first"
            )
        pairs = []
        for row in second.measurements():
            old = first[row.graph_hash]
            assert old.timing is not None and row.timing is not None
            pairs.append(Pair(row.family, old.timing, row.timing))
        return pairs, next(iter(second.environments().values()))


def table(pairs: Sequence[Pair]) -> str:
    """Median, mean and 90th percentile of the difference, plain and at the usual speed."""
    rows = []
    for name, values in (
        ("at the machine's usual speed", [pair.at_usual_speed for pair in pairs]),
        ("plain", [pair.measured for pair in pairs]),
    ):
        shares = (quantile(values, 0.5), sum(values) / len(values), quantile(values, 0.9))
        within = sum(value <= 0.03 for value in values) / len(values)
        rows.append([name, *(f"{share:.2%}" for share in (*shares, max(values), within))])
    head = ["latency", "median", "mean", "90th percentile", "largest", "within 3 %"]
    return tabulate(rows, head, tablefmt="github")


def worst(pairs: Sequence[Pair], count: int = 5) -> str:
    """A table of the networks that differ most."""
    rows = []
    for pair in sorted(pairs, key=lambda pair: -pair.at_usual_speed)[:count]:
        speed = pair.second.reference_s / pair.first.reference_s - 1
        quiet = pair.first.quiet and pair.second.quiet
        shares = [f"{share:.2%}" for share in (pair.at_usual_speed, pair.measured, speed)]
        latencies = [pair.first.latency_s * 1e3, pair.second.latency_s * 1e3]
        rows.append([pair.family, *latencies, *shares, "yes" if quiet else "no"])
    head = ["family", "first ms", "second ms", "difference", "plain", "reference", "quiet"]
    return tabulate(rows, head, tablefmt="github", floatfmt=".3f")


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--cores", type=core_list, help="cores to measure on, such as 1")
    options = parser.parse_args()
    try:
        with Store(options.store, write=False) as store:
            pairs, facts = remeasure(store, options.count, options.cores)
    except CostModelError as error:
        print(f"label_noise: {error}", file=sys.stderr)
        return error.exit_code
    tables = f"{table(pairs)}\n\nThose that differ most:\n\n{worst(pairs)}"
    print(tables)
    results_file.write(
        "Noise floor of the labels",
        f"{len(pairs)} networks measured again: relative difference of the two latencies.",
        tables,
        facts=facts,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
