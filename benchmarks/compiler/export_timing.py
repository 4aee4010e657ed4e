"""Shared by the benchmarks of exporting graphs: their networks, and interleaved timing of steps.

Not a benchmark itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from tabulate import tabulate

from benchmarks import results_file

NETWORKS = (
    "resnet50 bvlc_alexnet densenet121 inception_v1 inception_v2 shufflenet squeezenet vgg19 "
    "zfnet512"
).split()
ROUNDS = 15
PROTOCOL = f"CPU time of one thread, fastest of {ROUNDS} rounds, one run."


def light(network: str) -> Path:
    """The ONNX file of a network, which the ``onnx`` package holds without its weights."""
    return Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{network}.onnx"


def fastest_ms(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Fastest of `ROUNDS` runs of each step, all steps interleaved in every round."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS):
        for name, step in steps.items():
            step()  # brings the step's own code and objects back into the caches
            start = time.thread_time()
            step()
            best[name] = min(best[name], 1e3 * (time.thread_time() - start))
    return best


def time_exports(
    title: str, row: Callable[[str], list[Any]], columns: Sequence[str], formats: Sequence[str]
) -> None:
    """Prints a table of the networks on the command line; writes that of all of them."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("networks", nargs="*", help="all nine when none is named")
    named = parser.parse_args().networks
    rows = [row(network) for network in named or NETWORKS]
    print(tabulate(rows, columns, floatfmt=formats))
    if not named:
        table = tabulate(rows, columns, tablefmt="github", floatfmt=formats)
        results_file.write(title, PROTOCOL, table)
