"""Reads a model as an OpGraph and prints what it costs, operator by operator.

    python examples/export_onnx.py model.onnx [graph.json]

Without arguments it takes the SqueezeNet that ships inside the `onnx` package.
"""

import sys
from collections import Counter
from pathlib import Path

import onnx

from tvm_costmodel.frontends import load_model

SQUEEZENET = Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx"


def main() -> None:
    """Prints the operators with the most arithmetic; writes the graph where a path is given."""
    path = sys.argv[1] if len(sys.argv) > 1 else SQUEEZENET
    graph = load_model(path).graph
    print(f"{path}: {len(graph)} operators, {graph.flops / 1e9:.2f} GFLOP, hash {graph.hash}")
    print(
        "  ".join(f"{op} {n}" for op, n in Counter(op.op for op in graph.operators).most_common())
    )
    if graph.unknown_ops:
        print("not in the catalogue:", ", ".join(graph.unknown_ops))

    costs = list(zip(graph.costs, graph.operators, strict=True))
    for cost, operator in sorted(costs, key=lambda pair: -pair[0].flops)[:5]:
        shape = "x".join(map(str, operator.outputs[0].shape))
        print(f"{cost.flops / 1e6:8.1f} MFLOP  {operator.op:10} -> {shape}")
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(graph.to_json())


if __name__ == "__main__":
    main()
