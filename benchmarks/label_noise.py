"""The noise floor of a store's labels: measures networks again and compares.

    python benchmarks/label_noise.py --store labels.db --count 50

Takes networks evenly over the store's good labels, measures each again under the same pipeline
into a store of its own, and prints the relative difference of the two latencies: median, mean and
90th percentile. Writes it with its environment to ``results/label_noise.<machine>.md``.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from tvm_costmodel.errors import CostModelError, MeasurementError
from tvm_costmodel.profiling.environment import describe
from tvm_costmodel.profiling.measurement import Measurement, quantile
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.sources import source_from_dict
from tvm_costmodel.profiling.store import Store

RESULTS = Path(__file__).resolve().parent.parent / "results"


@dataclass(frozen=True)
class Pair:
    """One network, measured twice."""

    family: str
    first_s: float
    second_s: float
    quiet: bool

    @property
    def difference(self) -> float:
        """|second - first| over their mean."""
        return abs(self.second_s - self.first_s) / (0.5 * (self.first_s + self.second_s))


def chosen(rows: Sequence[Measurement], count: int) -> list[Measurement]:
    """``count`` rows, evenly over the order in which they were measured."""
    if len(rows) <= count:
        return list(rows)
    return [rows[int(i * len(rows) / count)] for i in range(count)]


def remeasure(store: Store, count: int, cores: Sequence[int] | None) -> tuple[list[Pair], str]:
    """Measures again; gives the pairs and a line on the environment of the second measurement."""
    device = max(store.summary(), key=lambda s: s.ok).device
    pipeline_key, _ = store.require_one_pipeline(device)
    settings = store.pipelines()[pipeline_key]["config"]
    rows = [row for row in store.measurements(device, pipeline_key=pipeline_key) if row.timing]
    first = {row.graph_hash: row for row in chosen(rows, count)}
    with tempfile.TemporaryDirectory() as folder:
        again = Store(Path(folder) / "again.db")
        profiler = Profiler(device, again, pipeline=settings, cores=cores)
        summary = profiler.run([source_from_dict(row.source) for row in first.values()])
        if summary.pipeline_key != pipeline_key:
            raise MeasurementError(
                f"the store's labels are of pipeline {pipeline_key}, this version builds "
                f"{summary.pipeline_key}; run `tvm-costmodel profile --remeasure-stale` first"
            )
        pairs = []
        for row in again.measurements():
            old = first[row.graph_hash]
            assert old.timing is not None and row.timing is not None
            quiet = old.timing.quiet and row.timing.quiet
            pairs.append(Pair(row.family, old.timing.latency_s, row.timing.latency_s, quiet))
        return pairs, describe(next(iter(again.environments().values())))


def table(pairs: Sequence[Pair]) -> str:
    """Median, mean and 90th percentile of the difference, over all pairs and the quiet ones."""
    rows = []
    for name, group in (("all", pairs), ("quiet both times", [p for p in pairs if p.quiet])):
        if group:
            values = [pair.difference for pair in group]
            shares = (quantile(values, 0.5), sum(values) / len(values), quantile(values, 0.9))
            within = sum(value <= 0.03 for value in values) / len(values)
            rows.append([name, len(group), *(f"{s:.2%}" for s in (*shares, max(values), within))])
    head = ["labels", "networks", "median", "mean", "90th percentile", "largest", "within 3 %"]
    return tabulate(rows, head, tablefmt="github")


def worst(pairs: Sequence[Pair], count: int = 5) -> str:
    """The networks that differ most."""
    order = sorted(pairs, key=lambda pair: -pair.difference)[:count]
    rows = [
        [p.family, p.first_s * 1e3, p.second_s * 1e3, f"{p.difference:.2%}", p.quiet] for p in order
    ]
    head = ["family", "first ms", "second ms", "difference", "quiet"]
    return tabulate(rows, head, tablefmt="github", floatfmt=".3f")


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", required=True)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--cores", help="cores to measure on, such as 1")
    options = parser.parse_args()
    cores = [int(core) for core in options.cores.split(",")] if options.cores else None
    try:
        with Store(options.store, write=False) as store:
            pairs, environment = remeasure(store, options.count, cores)
    except CostModelError as error:
        print(f"label_noise: {error}", file=sys.stderr)
        return error.exit_code
    text = (
        f"# Noise floor of the labels\n\n{len(pairs)} networks measured again, relative difference "
        f"of the two latencies.\n{environment}\n"
        f"Made by `python benchmarks/label_noise.py --count {options.count}`.\n\n"
        f"{table(pairs)}\n\nThose that differ most:\n\n{worst(pairs)}\n"
    )
    print(text)
    machine = re.sub(r"[^a-z0-9]+", "-", environment.split("(")[0].strip().lower()).strip("-")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"label_noise.{machine}.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
