"""How fast a shipped predictor answers: one ResNet-50, and a list of 1,000 networks like it.

    python benchmarks/predict_speed.py [--checkpoint DIR] [--count 1000] [--threads N]

All networks of the list differ in their channels, and nothing is cached between them: every graph
is costed, tokenised and run through the network. Prints the figures, and writes them with their
environment to ``results/predict_speed.<machine>.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from tabulate import tabulate

import results_file
from tvm_costmodel.frontends.onnx import from_onnx
from tvm_costmodel.graph import Operator, OpGraph, TensorType
from tvm_costmodel.models.nar_former_v2 import NarFormerV2
from tvm_costmodel.predictor import Predictor, load_predictor
from tvm_costmodel.training.network import NarFormerV2Regressor

RESNET50 = Path(onnx.__file__).parent / "backend/test/data/light/light_resnet50.onnx"
CHANNELS = (64, 128, 256, 512, 1024, 2048)
ROUNDS = 30


def rescaled(graph: OpGraph, channels: dict[int, int]) -> OpGraph:
    """The graph with every extent that is a number of channels replaced by another one."""

    def tensor(kind: TensorType) -> TensorType:
        return TensorType(tuple(channels.get(n, n) for n in kind.shape), kind.dtype)

    def operator(old: Operator) -> Operator:
        names = ("in_channels", "out_channels", "in_features")
        attrs = {
            key: channels.get(value, value) if key in names and isinstance(value, int) else value
            for key, value in old.attrs.items()
        }
        outputs, weights = tuple(map(tensor, old.outputs)), tuple(map(tensor, old.weights))
        return replace(old, outputs=outputs, weights=weights, attrs=attrs)

    return OpGraph(tuple(map(operator, graph.operators)), graph.outputs, graph.name)


def variants(graph: OpGraph, count: int, seed: int = 0) -> list[OpGraph]:
    """``count`` networks of ResNet-50's structure, all with other channels."""
    rng = np.random.default_rng(seed)
    factors: set[tuple[int, ...]] = set()
    while len(factors) < count:
        factors.add(tuple(int(n) for n in rng.integers(40, 81, len(CHANNELS))))
    return [
        rescaled(graph, {c: c * f // 64 for c, f in zip(CHANNELS, chosen, strict=True)})
        for chosen in sorted(factors)
    ]


def untrained() -> Predictor:
    """Published shape, random weights: as fast as a trained one."""
    regressor = NarFormerV2Regressor()
    regressor.network = NarFormerV2().eval()
    return Predictor(regressor, "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="directory or zoo name; random weights by default")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    predictor = load_predictor(args.checkpoint) if args.checkpoint else untrained()
    resnet50 = from_onnx(RESNET50)

    singles = variants(resnet50, ROUNDS + 5, seed=1)
    times = []
    for graph in singles:  # a new graph each time, so that nothing about it is known
        start = time.perf_counter()
        predictor.predict(graph)
        times.append(time.perf_counter() - start)
    single_ms = 1e3 * float(np.median(times[5:]))

    graphs = variants(resnet50, args.count)
    start = time.perf_counter()
    estimates = predictor.predict(graphs)
    seconds = time.perf_counter() - start
    assert len({estimate.graph_hash for estimate in estimates}) == args.count
    rows = [
        ["one ResNet-50, median of 30, ms", single_ms, "under 50"],
        [f"{args.count} networks like it, per second", args.count / seconds, "200 or more"],
        ["the same, ms per network", 1e3 * seconds / args.count, ""],
    ]
    headers = ("predict", "measured", "wanted")
    print(tabulate(rows, headers, floatfmt=".1f"))
    results_file.write(
        "Predicting",
        f"{predictor.name}, {len(resnet50)} operators a network, from OpGraph to latency, "
        f"{args.threads} threads.",
        tabulate(rows, headers, tablefmt="github", floatfmt=".1f"),
    )


if __name__ == "__main__":
    main()
