"""``export``: a model's computation graph as an OpGraph."""

from __future__ import annotations

import argparse

from tvm_costmodel.cli.options import add_compiler, add_model, parse_shapes
from tvm_costmodel.cli.output import Output, named_rows, table
from tvm_costmodel.compilers.registry import known_compiler

HELP = "write a model's computation graph as OpGraph JSON"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the command's options."""
    add_model(parser)
    add_compiler(parser)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="graph JSON to write")


def run(args: argparse.Namespace) -> Output:
    """Exports and writes the graph; writes nothing when the model cannot be read."""
    from tvm_costmodel.atomic_files import write_atomically

    graph = known_compiler(args.compiler).load_model(args.model, parse_shapes(args.shape)).graph
    write_atomically(args.output, graph.to_json() + "\n")
    fields = {
        "graph_hash": graph.hash,
        "nodes": len(graph.operators),
        "edges": len(graph.edges),
        "unknown_ops": list(graph.unknown_ops),
        "gflops": graph.flops / 1e9,
        "output": args.output,
    }
    return Output(fields, table(named_rows(fields), ("", args.model)))
