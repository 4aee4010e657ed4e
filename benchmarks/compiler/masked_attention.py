"""Networks with masked attention against ONNX Runtime: a causal decoder and a Swin-like network.

    python benchmarks/compiler/masked_attention.py
    python benchmarks/compiler/masked_attention.py --rounds 40 --vocabulary 50257

Checks that both compute the same, then times them on one thread, interleaved; minima count, of CPU
time, which is wall time on an idle machine as one thread never waits. Both have random weights.
Masked scores must be exactly 0 behind the softmax: subnormal ones make the product that reads them
some hundred times slower.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import numpy as np
import onnx
from tabulate import tabulate

from benchmarks import results_file
from benchmarks.compiler.masked_networks import causal_decoder, windowed_attention
from benchmarks.graph_tuning.engines import (
    DEFAULT,
    ONNX_RUNTIME,
    compiled_run,
    interleaved,
    session,
)
from tvm_costmodel.compilers.build_result import compare_outputs
from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.compilers.relax.verification import run
from tvm_costmodel.frontends.onnx.reader import onnx_to_relax

COLUMNS = (
    "network",
    "kernels",
    "ours ms",
    "ONNX Runtime ms",
    "ours / ONNX Runtime",
    "max rel diff",
)
FORMATS = ("", "", ".2f", ".2f", ".2f", ".1e")


Row = tuple[str, int, float, float, float, float]


def measured(name: str, model: onnx.ModelProto, rounds: int) -> Row:
    """One row of the table.

    Raises:
        SystemExit: The two compute different outputs.
    """
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    random = np.random.default_rng(0)
    words = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    x = (
        random.integers(0, 4096, shape)
        if words
        else random.standard_normal(shape).astype("float32")
    )
    built = build(onnx_to_relax(model), cpu_target())
    reference = session(model)
    expected = reference.run(None, {"x": x})
    difference = compare_outputs(run(built.executable, [x]), expected, rtol=1e-3, atol=1e-4)
    if not difference.equal:
        raise SystemExit(f"{name}: outputs differ: {difference}")
    best = interleaved(
        {
            DEFAULT: compiled_run(built.executable, [x]),
            ONNX_RUNTIME: lambda: reference.run(None, {"x": x}),
        },
        rounds,
        time.process_time,
    )
    ours, other = 1e3 * best[DEFAULT], 1e3 * best[ONNX_RUNTIME]
    return name, len(built.kernels), ours, other, ours / other, difference.max_rel_err


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="interleaved rounds of each network")
    parser.add_argument("--vocabulary", type=int, default=8192, help="words that the decoder knows")
    options = parser.parse_args(arguments)
    networks = {
        "causal decoder, 6 layers of 768, 64 tokens": causal_decoder(vocabulary=options.vocabulary),
        "windowed attention, 2+2+2+2 blocks from 96": windowed_attention(),
    }
    rows = []
    for name, model in networks.items():
        rows.append(measured(name, model, options.rounds))
        print(*rows[-1], flush=True)
    table = tabulate(rows, COLUMNS, tablefmt="github", floatfmt=FORMATS)
    print(table)
    protocol = (
        f"One thread, {options.rounds} interleaved rounds of three runs after an untimed one, "
        f"minima of CPU time; random weights; a vocabulary of {options.vocabulary}."
    )
    results_file.write("Masked attention against ONNX Runtime", protocol, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
