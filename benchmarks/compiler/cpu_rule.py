"""Whole networks on one thread: this package's CPU pipeline, TVM's default one and ONNX Runtime.

    python benchmarks/compiler/cpu_rule.py    # the nine ONNX networks at their own input size
    python benchmarks/compiler/cpu_rule.py squeezenet --no-default

Prints a table with both ratios and their geometric means, then the slowest kernels of the two
networks that are slowest relative to ONNX Runtime, and writes both with their environment to
``results/cpu_rule.<machine>.md`` when all nine networks ran. The three are interleaved within one
run. All of it is one thread that never waits, so its CPU time is measured: on an idle machine that
is the wall time, and under other load it stays close to it. TVM's default code runs once after a
warm-up, as one run takes seconds.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import math
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tvm
from tabulate import tabulate

from benchmarks import results_file
from benchmarks.graph_tuning.engines import (
    clocked,
    compiled_run,
    default_run,
    interleaved,
    kernel_times,
    random_inputs,
    session,
)
from benchmarks.graph_tuning.tuned_networks import ONNX_NETWORKS as NETWORKS
from tvm_costmodel.compilers.relax import PIPELINE_VERSION, RULE_VERSION, build, cpu_target
from tvm_costmodel.compilers.relax.verification import compare_outputs, run
from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax

COLUMNS = (
    "network, kernels, build s, ours ms, TVM default ms, ONNX Runtime ms, default / ours, "
    "ours / ONNX Runtime, max rel diff"
).split(", ")
FORMATS = ("", "", ".1f", ".2f", ".0f", ".2f", ".0f", ".2f", ".1e")


@dataclasses.dataclass(frozen=True)
class Row:
    """One network: milliseconds of CPU time per run, and its kernels, the slowest first."""

    network: str
    build_s: float
    ours: float
    default: float
    onnxruntime: float
    difference: float
    kernels: tuple[tuple[str, str, int, float], ...]

    @property
    def speedup(self) -> float:
        """Times faster than TVM's default code."""
        return self.default / self.ours

    @property
    def against_onnxruntime(self) -> float:
        """Milliseconds over ONNX Runtime's."""
        return self.ours / self.onnxruntime

    def cells(self) -> list[object]:
        """Table cells under `COLUMNS`."""
        return [
            self.network,
            len(self.kernels),
            self.build_s,
            self.ours,
            self.default,
            self.onnxruntime,
            self.speedup,
            self.against_onnxruntime,
            self.difference,
        ]


def measure(network: str, rounds: int, with_default: bool) -> Row:
    path = Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{network}.onnx"
    model = load_onnx(path, weights="random")
    mod = onnx_to_relax(model)
    target = cpu_target(threads=1)
    start = time.process_time()
    built = build(mod, target)
    build_s = time.process_time() - start
    inputs = random_inputs(mod)
    reference = session(model)
    feed = {value.name: array for value, array in zip(reference.get_inputs(), inputs, strict=True)}
    expected = reference.run(None, feed)
    difference = compare_outputs(run(built.executable, inputs), expected).max_rel_err
    runs = {
        "ours": compiled_run(built.executable, inputs),
        "onnxruntime": lambda: reference.run(None, feed),
    }
    best = interleaved(runs, rounds, time.process_time)
    kernels = kernel_times(built)
    default = default_ms(mod, target, inputs) if with_default else float("nan")
    ours, theirs = 1e3 * best["ours"], 1e3 * best["onnxruntime"]
    return Row(network, build_s, ours, default, theirs, difference, kernels)


def default_ms(mod: tvm.IRModule, target: tvm.target.Target, inputs: list[np.ndarray]) -> float:
    step = default_run(mod, target, inputs)
    return 1e3 * min(clocked(step, time.process_time) for _ in range(2))


def geometric_mean(values: list[float]) -> float:
    return math.exp(sum(math.log(value) for value in values) / len(values))


def summary(rows: list[Row]) -> str:
    lines = [
        f"ours against ONNX Runtime, geometric mean: "
        f"{geometric_mean([row.against_onnxruntime for row in rows]):.2f} (below 1: faster)"
    ]
    if not any(math.isnan(row.default) for row in rows):
        lines.append(
            f"faster than TVM's default code, geometric mean: "
            f"{geometric_mean([row.speedup for row in rows]):.1f} times"
        )
    return "\n".join(lines)


def slowest_kernels(row: Row, count: int = 6) -> tuple[list[str], list[list[object]]]:
    total = sum(kernel[3] for kernel in row.kernels)
    columns = [f"{row.network}: kernel", "template", "calls", "ms per run", "share %"]
    return columns, [
        [name, template, calls, ms, 100 * ms / total]
        for name, template, calls, ms in row.kernels[:count]
    ]


def report(rows: list[Row], style: str) -> str:
    table = [row.cells() for row in rows]
    parts = [tabulate(table, COLUMNS, tablefmt=style, floatfmt=FORMATS), summary(rows)]
    for row in sorted(rows, key=lambda row: -row.against_onnxruntime)[:2]:
        columns, cells = slowest_kernels(row)
        floats = ("", "", "", ".3f", ".1f")
        parts.append(tabulate(cells, columns, tablefmt=style, floatfmt=floats))
    return "\n\n".join(parts)


def write(rows: list[Row], rounds: int) -> None:
    results_file.write(
        "Whole networks on one thread",
        f"CPU time per run, fastest of {rounds} interleaved rounds of three runs (TVM's default "
        "code: of two runs).",
        report(rows, "github"),
        also=f"onnxruntime {onnxruntime.__version__}; pipeline version {PIPELINE_VERSION}, rule "
        f"version {RULE_VERSION}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help="all nine when none is named")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-default", action="store_true", help="leave TVM's default code out")
    args = parser.parse_args()
    rows = []
    for network in args.networks or NETWORKS:
        rows.append(measure(network, args.rounds, not args.no_default))
        print(tabulate([rows[-1].cells()], COLUMNS, floatfmt=FORMATS), flush=True)
        gc.collect()
    print(report(rows, "simple"))
    if not args.networks and not args.no_default:
        write(rows, args.rounds)


if __name__ == "__main__":
    main()
