"""How long exporting a graph from Relay takes, beside what Relay's own type inference takes.

    python benchmarks/relay_export.py            # the nine ONNX networks, ResNet-50 first
    python benchmarks/relay_export.py resnet50

Run it in the Relay environment (``bash scripts/relay_environment.sh`` prints its python). Prints a
table, and writes it with its environment to ``results/relay_export.<machine>.md`` when no network
is named. CPU time of one thread that never waits, as in ``graph_walk.py``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from tabulate import tabulate

import results_file
from tvm_costmodel.frontends import relay_walk
from tvm_costmodel.frontends.relax import graph_from_arrays
from tvm_costmodel.frontends.relay import from_relay, with_types
from tvm_costmodel.frontends.relay_files import onnx_to_relay

NETWORKS = (
    "resnet50 bvlc_alexnet densenet121 inception_v1 inception_v2 shufflenet squeezenet vgg19 "
    "zfnet512"
).split()
ROUNDS = 15
COLUMNS = ("network, operators, InferType ms, walk ms, arrays to OpGraph ms, from_relay ms").split(
    ", "
)


def fastest_ms(steps: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Fastest of `ROUNDS` runs of each step, all steps taking turns within every round."""
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS):
        for name, step in steps.items():
            step()  # brings the step's own code and objects back into the caches
            start = time.thread_time()
            step()
            best[name] = min(best[name], 1e3 * (time.thread_time() - start))
    return best


def row(network: str) -> list[Any]:
    light = Path(onnx.__file__).parent / "backend/test/data/light" / f"light_{network}.onnx"
    module = onnx_to_relay(light)
    function = module["main"]
    arrays = relay_walk.walk(function)
    ms = fastest_ms(
        {
            "types": lambda: with_types(module),
            "walk": lambda: relay_walk.walk(function),
            "graph": lambda: graph_from_arrays(arrays),
            "from_relay": lambda: from_relay(module),
        }
    )
    return [network, len(from_relay(module)), *ms.values()]


def main(networks: list[str]) -> None:
    rows = [row(network) for network in networks or NETWORKS]
    formats = ("", "", ".1f", ".1f", ".1f", ".1f")
    print(tabulate(rows, COLUMNS, floatfmt=formats))
    if not networks:
        results_file.write(
            "Exporting a graph from Relay",
            f"CPU time of one thread, fastest of {ROUNDS} rounds, one run.",
            tabulate(rows, COLUMNS, tablefmt="github", floatfmt=formats),
        )


if __name__ == "__main__":
    main(sys.argv[1:])
