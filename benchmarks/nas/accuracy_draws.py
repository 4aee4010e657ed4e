"""Cells with accuracies, and the draws of them that `accuracy.py` trains on.

Not a benchmark itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.datasets.darts import read_darts
from tvm_costmodel.datasets.nasbench101 import read_nasbench101
from tvm_costmodel.datasets.nasbench201 import read_nasbench201
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cell_paths import CellStructure, cell_structure
from tvm_costmodel.nas.cell_tokens import DARTS_PAIR, NASBENCH101, NASBENCH201, side_by_side
from tvm_costmodel.training.metrics import kendall_tau

BENCHMARKS = ("nasbench201", "nasbench101", "darts")
SIZES_201, SIZES_101, FOLDS = (156, 469, 781, 1563), (100, 172), 5
DEVELOPMENT_SEED, DEVELOPMENT_CELLS = 1000, 1563


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Cells with labels and their structures."""

    name: str
    operations: tuple[str, ...]
    cells: list[OpGraph]
    accuracy: np.ndarray
    structures: list[CellStructure]

    @cached_property
    def networks(self) -> np.ndarray:
        """[G]: equal for cells that are the same network."""
        return np.array([structure.identity for structure in self.structures])


@dataclass(frozen=True, eq=False)
class Draw:
    """One training set and what it is scored on."""

    size: str
    seed: int
    train: np.ndarray
    test: np.ndarray


def read(name: str, folder: Path) -> Benchmark:
    """Reads one benchmark; equal graphs become one cell with their mean label."""
    if name == "nasbench201":
        listed_201 = read_nasbench201(folder / "nasbench201" / "nasbench201.csv.gz")
        cells, labels = [c.graph for c in listed_201], [c.accuracy["cifar10"] for c in listed_201]
        operations: tuple[str, ...] = NASBENCH201
    elif name == "nasbench101":
        listed = read_nasbench101(folder / "nasbench101" / "nasbench101_500.json")
        cells, labels = [c.graph for c in listed], [c.accuracy for c in listed]
        operations = NASBENCH101
    else:
        pairs = read_darts(folder / "darts" / "darts_725.json")
        cells = [side_by_side(p.normal, p.reduction) for p in pairs]
        labels, operations = [p.accuracy for p in pairs], DARTS_PAIR
    labels_of: dict[str, list[float]] = {}
    first: dict[str, OpGraph] = {}
    for cell, label in zip(cells, labels, strict=True):
        first.setdefault(cell.hash, cell)
        labels_of.setdefault(cell.hash, []).append(label)
    distinct = list(first.values())
    means = np.array([np.mean(labels_of[cell.hash]) for cell in distinct])
    structures = [cell_structure(cell, operations) for cell in distinct]
    return Benchmark(name, operations, distinct, means, structures)


def development(benchmark: Benchmark) -> np.ndarray:
    """NAS-Bench-201's cells that no reported draw touches; none of the others."""
    if benchmark.name != "nasbench201":
        return np.zeros(0, dtype=int)
    order = np.random.default_rng(DEVELOPMENT_SEED).permutation(len(benchmark.cells))
    return order[:DEVELOPMENT_CELLS]


def draws(benchmark: Benchmark, seeds: int, sizes: Sequence[int]) -> list[Draw]:
    """All draws of a benchmark."""
    drawn = []
    rest = np.setdiff1d(np.arange(len(benchmark.cells)), development(benchmark))
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(rest)
        if benchmark.name == "darts":
            for fold in range(FOLDS):
                test = order[fold::FOLDS]
                drawn.append(Draw(f"{FOLDS} folds", seed, np.setdiff1d(order, test), test))
            continue
        known = SIZES_201 if benchmark.name == "nasbench201" else SIZES_101
        for size in known:
            if not sizes or size in sizes:
                drawn.append(Draw(str(size), seed, order[:size], order[size:]))
    return drawn


def stored_draws(benchmark: Benchmark, every: Sequence[Draw]) -> list[dict[str, Any]]:
    """Draws as hashes: the largest training set (smaller ones are its beginnings), or the fold."""
    most = max(len(draw.train) for draw in every)
    if benchmark.name == "darts":
        return [{"seed": d.seed, "test": [benchmark.cells[i].hash for i in d.test]} for d in every]
    return [
        {"seed": d.seed, "train": [benchmark.cells[i].hash for i in d.train]}
        for d in every
        if len(d.train) == most
    ]


def noise_ceiling(benchmark: Benchmark) -> tuple[float, int]:
    """Tau between cells' labels and the mean label of other cells that are the same network.

    The limit for a predictor that knows every other training of a network: labels of equal networks
    differ by the noise of their trainings.

    Returns:
        Tau, and the number of cells that have such others; (NaN, 0) where none has.
    """
    _, network, cells = np.unique(benchmark.networks, return_inverse=True, return_counts=True)
    sums, cells_with = np.bincount(network, benchmark.accuracy)[network], cells[network]
    at = np.flatnonzero(cells_with > 1)
    others = (sums[at] - benchmark.accuracy[at]) / (cells_with[at] - 1)
    return kendall_tau(others, benchmark.accuracy[at]), len(at)


def retrained_ceiling(benchmark: Benchmark, seed: int = 0) -> float:
    """Tau that knowing every network's accuracy would reach, were every cell trained once more.

    Networks' mean labels stand for their accuracies, and a training deviates from them as cells
    that are one network do at about that accuracy (of 40 groups in order of it). Means of few
    cells vary a little too much, which flatters: no predictor can be expected to be above this.

    Args:
        benchmark: Its cells; some must be the same network.
        seed: Seed of the deviations.
    """
    labels = benchmark.accuracy
    _, network, count = np.unique(benchmark.networks, return_inverse=True, return_counts=True)
    mean = np.bincount(network, labels) / count
    variance = np.bincount(network, np.square(labels - mean[network])) / np.maximum(count - 1, 1)
    several = np.flatnonzero(count > 1)
    groups = np.array_split(several[np.argsort(mean[several])], min(40, len(several)))
    level = [np.average(mean[part], weights=count[part] - 1) for part in groups]
    noise = [np.average(variance[part], weights=count[part] - 1) for part in groups]
    deviation = np.sqrt(np.interp(mean, level, noise))[network]
    retrained = mean[network] + deviation * np.random.default_rng(seed).standard_normal(len(labels))
    return kendall_tau(mean[network], retrained)
