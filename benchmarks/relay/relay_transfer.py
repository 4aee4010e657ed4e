"""What labels of Relax are worth to a predictor of Relay.

    python benchmarks/relay/relay_transfer.py --relay RELAY.jsonl.xz [--relax DIR,DIR,DIR]

Predictors are trained on 50 labels of Relay and on all, from scratch and initialised from a
`KernelFormer` that was trained on labels of Relax (the shipped one, or a checkpoint for each seed).
A label is a network or a variant of it. Prints the table, and writes it with its environment to
``results/relay_transfer.<machine>.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from benchmarks.graph_tuning.decision_errors import COLUMNS, Errors, errors, line
from benchmarks.graph_tuning.tuned_networks import labelled_hashes
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.kernel_former import KernelFormerRegressor
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.predictors.relay_kernel_former import RelayKernelFormerRegressor
from tvm_costmodel.profiling.label_files.variants import read_variants
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.ensemble_trainer import EnsembleConfig
from tvm_costmodel.tuning.learning.variant_dataset import labels_of_variants

FEW = 50
EACH = 2
"""Labels of a network among the few: its baseline, and one random variant."""
_TEST, _VALIDATION = 0.25, 0.2
PROTOCOL = """\
{labels} labels of Relay on {device}: {networks} networks and their variants, set {hash};
{shared} of the networks are, as graphs, also among the labelled ones of Relax. Each seed tests on a
quarter of the networks, with all of their variants, which nothing else saw of Relay. Few labels are
{few}: the baseline and one random variant of each network. A fifth of the networks to learn from
chooses the epoch. `Relax first` is initialised from the `KernelFormer` that was trained on Relax
({start}) and goes on at a learning rate of {rate}; `Relax scaled` is that one times one factor.
Mean ± standard deviation over seeds."""


def few_of(
    labels: LabelledGraphs, at: np.ndarray, count: int, rng: np.random.Generator
) -> list[int]:
    """About ``count`` of the labels ``at`` these indices: networks, each with some variants."""
    chosen: list[int] = []
    networks = np.array(labels.networks)[at]
    for network in rng.permutation(np.unique(networks)):
        inside = at[networks == network]  # the baseline first
        more = rng.permutation(inside[1:])[: EACH - 1]
        chosen += [int(inside[0]), *map(int, more)]
        if len(chosen) >= count:
            break
    return chosen[:count]


def sides_of(labels: LabelledGraphs, at: Sequence[int], seed: int) -> tuple[list[int], list[int]]:
    """Labels to learn from and to choose the epoch by; no network is on both sides."""
    networks = np.unique(np.array(labels.networks)[list(at)])
    drawn = np.random.default_rng(seed).permutation(networks)
    held_out = set(drawn[: max(1, round(_VALIDATION * len(drawn)))].tolist())
    inside = [i for i in at if labels.networks[i] in held_out]
    return [i for i in at if labels.networks[i] not in held_out], inside


def fitted(regressor: Any, labels: LabelledGraphs, at: Sequence[int], seed: int) -> Any:
    """A regressor that learned from the labels at these indices."""
    learn, held = (labels.subset(side) for side in sides_of(labels, at, seed))
    return regressor.fit_labels(learn, held)


@dataclass(frozen=True)
class Recipes:
    """How networks are trained from scratch, and after Relax."""

    alone: EnsembleConfig
    continued: EnsembleConfig

    @classmethod
    def of(cls, rate: float, epochs: int | None) -> Recipes:
        """The predictor's recipe, except for the learning rate after Relax and the epochs."""
        usual = RelayKernelFormerRegressor.recipe
        alone = usual if epochs is None else replace(usual, epochs=epochs)
        return cls(alone, replace(alone, learning_rate=rate))


def arms(
    labels: LabelledGraphs, at: list[int], seed: int, start: KernelFormerRegressor, recipes: Recipes
) -> Iterator[tuple[str, Any]]:
    """(name, what predicts) of every way to learn from the same labels."""
    for name in ("flops_kernel", "relay_xgboost"):
        yield name, fitted(build_regressor(name, seed), labels, at, seed)
    alone = RelayKernelFormerRegressor(replace(recipes.alone, seed=seed))
    yield "relay_kernel_former", fitted(alone, labels, at, seed)
    continued = RelayKernelFormerRegressor(replace(recipes.continued, seed=seed)).init_from(start)
    yield "relay_kernel_former, Relax first", fitted(continued, labels, at, seed)


def of_seed(
    labels: LabelledGraphs, seed: int, start: KernelFormerRegressor, recipes: Recipes
) -> Iterator[tuple[str, str, Errors]]:
    """(labels, predictor, errors) of one split."""
    split = labels.split(seed, 0.05, _TEST)
    known = np.sort(np.concatenate([split.train, split.validation]))
    test = labels.subset(split.test)
    drawn = few_of(labels, known, FEW, np.random.default_rng(seed))
    learnt = labels.subset(drawn)
    factor = np.exp(np.median(np.log(learnt.latency_s / start.predict(learnt.graphs))))
    yield f"{len(drawn)}", "Relax scaled", errors(start.predict(test.graphs) * factor, test)
    for at in (drawn, [int(i) for i in known]):
        count = f"{len(drawn)}" if at is drawn else "all"
        for name, regressor in arms(labels, at, seed, start, recipes):
            yield count, name, errors(regressor.predict(test.graphs), test)


def starts(text: str, seeds: int) -> list[KernelFormerRegressor]:
    """`KernelFormer` predictors of Relax, one for each seed.

    Raises:
        ConfigError: A checkpoint is of another predictor.
    """
    regressors = []
    for place in text.split(","):
        regressor = load_predictor(place).regressor
        if not isinstance(regressor, KernelFormerRegressor):
            raise ConfigError(f"{place} is a {regressor.name}; give checkpoints of kernel_former")
        regressors.append(regressor)
    return [regressors[seed % len(regressors)] for seed in range(seeds)]


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--relay", required=True, help="variants of Relay (.db or .jsonl.xz)")
    parser.add_argument("--relax", default="cpu-amd-zen5/kernel_former", metavar="DIR[,DIR...]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate after Relax")
    parser.add_argument("--epochs", type=int, help="fewer, to try it out")
    args = parser.parse_args()
    recipes = Recipes.of(args.rate, args.epochs)
    variants = read_variants(args.relay, keep_stale=True)
    labels = labels_of_variants(variants)
    results: dict[tuple[str, str], list[Errors]] = {}
    for seed, start in enumerate(starts(args.relax, args.seeds)):
        for count, name, one in of_seed(labels, seed, start, recipes):
            results.setdefault((count, name), []).append(one)
            print(f"seed {seed}, {count} labels: {name}: MAPE {one.mape:.1f} %", flush=True)
    rows = [[count, *line(name, by_seed)] for (count, name), by_seed in results.items()]
    body = tabulate(rows, ["labels of Relay", *COLUMNS], tablefmt="github")
    print(body)
    protocol = PROTOCOL.format(
        labels=len(labels), device=variants.device, networks=len(variants),
        hash=variants.hash[:16], few=f"{FEW} ({FEW // EACH} networks)", start=args.relax,
        rate=args.rate,
        shared=len(labelled_hashes() & {record.graph_hash for record in variants.records}),
    )  # fmt: skip
    results_file.write("Labels of Relax for Relay", protocol, body, stem="relay_transfer")


if __name__ == "__main__":
    main()
