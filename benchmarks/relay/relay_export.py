"""How long exporting a graph from Relay takes, compared with Relay's own type inference.

    python benchmarks/relay/relay_export.py            # the nine ONNX networks, ResNet-50 first
    python benchmarks/relay/relay_export.py resnet50

Run it in the Relay environment (``bash scripts/relay_environment.sh`` prints its python). Prints a
table, and writes it with its environment to ``results/relay_export.<machine>.md`` when no network
is named. CPU time of one thread that never waits, as in ``graph_walk.py``.
"""

from __future__ import annotations

from typing import Any

from benchmarks.compiler.export_timing import fastest_ms, light, time_exports
from tvm_costmodel.frontends.relax.export import graph_from_arrays
from tvm_costmodel.frontends.relay import walk
from tvm_costmodel.frontends.relay.export import from_relay, with_types
from tvm_costmodel.frontends.relay.model_files import onnx_to_relay

COLUMNS = ("network, operators, InferType ms, walk ms, arrays to OpGraph ms, from_relay ms").split(
    ", "
)


def row(network: str) -> list[Any]:
    module = onnx_to_relay(light(network))
    function = module["main"]
    arrays = walk.walk(function)
    ms = fastest_ms(
        {
            "types": lambda: with_types(module),
            "walk": lambda: walk.walk(function),
            "graph": lambda: graph_from_arrays(arrays),
            "from_relay": lambda: from_relay(module),
        }
    )
    return [network, len(from_relay(module)), *ms.values()]


def main() -> None:
    time_exports("Exporting a graph from Relay", row, COLUMNS, ("", "", ".1f", ".1f", ".1f", ".1f"))


if __name__ == "__main__":
    main()
