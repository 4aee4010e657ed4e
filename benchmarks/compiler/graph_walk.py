"""How long exporting a graph takes: the native walk, its Python twin, and what follows them.

    python benchmarks/compiler/graph_walk.py              # the nine ONNX networks, ResNet-50 first
    python benchmarks/compiler/graph_walk.py resnet50

Prints a table, and writes it with its environment to ``results/graph_walk.<machine>.md`` when no
network is named. The two walks are interleaved within one run, so that their ratio does not depend
on the machine's speed. All of it is one thread that never waits, so its CPU time is measured: on
an idle machine that is the wall time, and other load does not change it.
"""

from __future__ import annotations

from typing import Any

from benchmarks.compiler.export_timing import fastest_ms, light, time_exports
from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax
from tvm_costmodel.frontends.relax import native_walk, walk
from tvm_costmodel.frontends.relax.export import from_relax, graph_from_arrays
from tvm_costmodel.graph.op_graph import OpGraph

COLUMNS = (
    "network, operators, native walk ms, Python walk ms, ratio, arrays to OpGraph ms, "
    "from_relax ms, hash ms, costs ms, from_json ms"
).split(", ")


def row(network: str) -> list[Any]:
    module = onnx_to_relax(load_onnx(light(network)))
    function = module["main"]
    inputs = len(function.params)
    arrays = native_walk.walk(function, inputs)
    graph = from_relax(module)
    text = graph.to_json()
    ms = fastest_ms(
        {
            "native": lambda: native_walk.walk(function, inputs),
            "python": lambda: walk.walk(function, inputs),
            "graph": lambda: graph_from_arrays(arrays),
            "from_relax": lambda: from_relax(module),
            "hash": lambda: OpGraph(graph.operators, graph.outputs).hash,
            "costs": lambda: OpGraph(graph.operators, graph.outputs).costs,
            "from_json": lambda: OpGraph.from_json(text),
        }
    )
    rest = [ms[name] for name in ("graph", "from_relax", "hash", "costs", "from_json")]
    return [network, len(graph), ms["native"], ms["python"], ms["python"] / ms["native"], *rest]


def main() -> None:
    time_exports(
        "Exporting a graph",
        row,
        COLUMNS,
        ("", "", ".3f", ".2f", ".1f", ".2f", ".2f", ".2f", ".2f", ".2f"),
    )


if __name__ == "__main__":
    main()
