"""Training steps of NAR-Former V2: one network at a time, padded batches, merged batches.

    python benchmarks/predictors/padded_training.py --labels FILE [--networks 64] [--rounds 3]
        [--device cuda]

The published code runs its networks one after the other and adds up their losses. Here the same
steps are taken on the same networks of 16 in three ways: one at a time (`loop`), padded to the
largest (`padded`), and with equal operators computed once (`merged`, what training uses). The loss
of each step, without dropout, must agree to 1e-4; the ways are interleaved, and the fastest run of
each is reported. Writes ``results/padded_training.<machine>.md``.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor

from benchmarks import results_file
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.tokenizer import TokenArrays, Tokenizer, collate
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.losses import relative_squared
from tvm_costmodel.training.matmul_precision import fast_matmul
from tvm_costmodel.training.trainer import forward

BATCH = 16


def padded(network: NarFormerV2, tokens: Sequence[TokenArrays]) -> Tensor:
    """Answers for networks padded to the largest, [B]."""
    batch, device = collate(tokens), next(network.parameters()).device
    arrays = (batch.features, batch.adjacency, batch.mask, batch.static)
    out: Tensor = network(*(torch.from_numpy(array).to(device) for array in arrays))
    return out


def loop(network: NarFormerV2, tokens: Sequence[TokenArrays]) -> Tensor:
    """Answers for networks one after the other, [B]."""
    return torch.cat([padded(network, [graph]) for graph in tokens])


WAYS: dict[str, Callable[[NarFormerV2, Sequence[TokenArrays]], Tensor]] = {
    "loop": loop,
    "padded": padded,
    "merged": forward,
}


def steps(
    way: str, network: NarFormerV2, tokens: Sequence[TokenArrays], labels: Tensor
) -> tuple[float, list[float]]:
    """Seconds of all steps, and their losses; the weights stay as they are."""
    losses = []
    started = time.perf_counter()
    for at in range(0, len(tokens), BATCH):
        loss = relative_squared(
            WAYS[way](network, tokens[at : at + BATCH]), labels[at : at + BATCH]
        )
        network.zero_grad(set_to_none=True)
        loss.backward()
        losses.append(float(loss.detach()))
    if labels.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, losses


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", required=True, help=".db or .jsonl.xz")
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    labelled = LabelledGraphs.of(read_labels(args.labels, keep_stale=True))
    sample = np.random.default_rng(0).choice(len(labelled), args.networks, replace=False)
    subset = labelled.subset(sample)
    tokens = [Tokenizer().encode(graph) for graph in subset.graphs]
    labels = torch.from_numpy(subset.latency_s * 1e3).float().to(args.device)
    network = NarFormerV2(NarFormerV2Config()).eval()  # without dropout, so that losses agree
    network.set_output_level(float(labels.median()))
    network.to(args.device)
    best: dict[str, float] = {}
    losses: dict[str, list[float]] = {}
    with fast_matmul():
        for _ in range(args.rounds):
            for way in WAYS:
                seconds, losses[way] = steps(way, network, tokens, labels)
                best[way] = min(seconds, best.get(way, seconds))
    for way, values in losses.items():
        if not np.allclose(values, losses["loop"], rtol=1e-4):
            print(f"padded_training: {way} gives losses {values}, loop {losses['loop']}")
            return 1
    rows = [
        [way, 1e3 * seconds / args.networks, best["loop"] / seconds]
        for way, seconds in best.items()
    ]
    table = tabulate(rows, ["way", "ms per network", "times the loop's speed"], "github", ".2f")
    print(table)
    operators = [len(graph) for graph in tokens]
    results_file.write(
        "Training steps of NAR-Former V2",
        f"{args.networks} measured networks of {min(operators)} to {max(operators)} operators, "
        f"mean {np.mean(operators):.0f}, in steps of {BATCH}: tokens to gradients of all "
        f"{sum(p.numel() for p in network.parameters()):,} weights, {args.threads} thread(s), "
        "fastest of "
        f"{args.rounds} rounds. The losses of all ways agree to 1e-4.",
        table,
        also=f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        if args.device == "cuda"
        else "",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
