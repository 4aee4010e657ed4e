"""How fast a shipped predictor answers: one ResNet-50, and a list of 1,000 networks like it.

    python benchmarks/predictors/predict_speed.py [--checkpoint DIR] [--engine torch onnxruntime]
        [--count 1000] [--threads N]

All networks of the list differ in their channels, and nothing is cached between them: every graph
is costed, tokenised and run through the network. Prints the figures, and writes them with their
environment to ``results/predict_speed.<machine>.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.frontends.onnx.reader import from_onnx
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.predictors.loading import Predictor, load_predictor

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
    from tvm_costmodel.models.nar_former_v2 import NarFormerV2
    from tvm_costmodel.predictors.token_networks import NarFormerV2Regressor

    regressor = NarFormerV2Regressor()
    regressor.network = NarFormerV2().eval()
    return Predictor(regressor, "none")


def one_by_one(predictors: Sequence[Predictor], graphs: Sequence[OpGraph]) -> np.ndarray:
    """Seconds of predicting each graph alone, float64 [engines, G], the engines interleaved.

    Every predictor gets an equal graph of its own, about which nothing is known yet.
    """
    seconds = np.zeros((len(predictors), len(graphs)))
    for i, graph in enumerate(graphs):
        for engine, predictor in enumerate(predictors):
            fresh = OpGraph(graph.operators, graph.outputs, graph.name)
            start = time.perf_counter()
            predictor.predict(fresh)
            seconds[engine, i] = time.perf_counter() - start
    return seconds


def together(predictor: Predictor, graphs: Sequence[OpGraph]) -> float:
    """Seconds of predicting a list of graphs about which nothing is known yet."""
    fresh = [OpGraph(graph.operators, graph.outputs, graph.name) for graph in graphs]
    start = time.perf_counter()
    estimates = predictor.predict(fresh)
    seconds = time.perf_counter() - start
    assert len({estimate.graph_hash for estimate in estimates}) == len(graphs)
    return seconds


def load(checkpoint: str | None, engine: str, threads: int) -> Predictor:
    """The predictor on an engine; ONNX Runtime keeps to one thread by itself."""
    if engine != "onnxruntime":
        import torch

        torch.set_num_threads(threads)
    return load_predictor(checkpoint, engine=engine) if checkpoint else untrained()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", help="directory or zoo name; random weights by default")
    parser.add_argument(
        "--engine",
        nargs="+",
        choices=("torch", "onnxruntime"),
        default=["torch"],
        help="engines to time, interleaved; onnxruntime needs a --checkpoint that holds an export",
    )
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    args = parser.parse_args()
    if "onnxruntime" in args.engine and not args.checkpoint:
        parser.error("--engine onnxruntime needs --checkpoint")
    predictors = [load(args.checkpoint, engine, args.threads) for engine in args.engine]
    resnet50 = from_onnx(RESNET50)
    alone = one_by_one(predictors, variants(resnet50, ROUNDS + 5, seed=1))[:, 5:]
    graphs = variants(resnet50, args.count)
    rows = []
    for engine, predictor, seconds in zip(args.engine, predictors, alone, strict=True):
        listed = together(predictor, graphs)
        rows += [
            [engine, "one ResNet-50, median of 30, ms", 1e3 * np.median(seconds), "under 50"],
            [engine, f"{args.count} networks like it, per second", args.count / listed, "over 200"],
            [engine, "the same, ms per network", 1e3 * listed / args.count, ""],
        ]
    if len(predictors) == 2:
        ratio = float(np.median(alone[0] / alone[1]))
        rows.append(["", f"one: {args.engine[0]} over {args.engine[1]}", ratio, "over 1"])
    headers = ("engine", "predict", "measured", "wanted")
    print(tabulate(rows, headers, floatfmt=".2f"))
    results_file.write(
        "Predicting",
        f"{predictors[0].name}, {len(resnet50)} operators a network, from OpGraph to latency, "
        f"{args.threads} threads (ONNX Runtime: 1). Each engine gets graphs of its own; single "
        "ones go to the engines alternately.",
        tabulate(rows, headers, tablefmt="github", floatfmt=".2f"),
    )


if __name__ == "__main__":
    main()
