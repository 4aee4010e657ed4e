r"""Both kinds of error of predictors that read decisions: of latencies, and within a network.

    python benchmarks/graph_tuning/decision_errors.py --variants FILE \
        --predictor kernel_former=DIR,DIR,DIR ...
    python benchmarks/graph_tuning/decision_errors.py --held-out build/graph_tuning/pool.db \
        --predictor ...

With ``--variants`` each checkpoint is tested on the networks that its own training held out: the
file (and that of ``--labels``) must be what it was trained on. With ``--held-out`` every network of
the file is tested, and none of them may be labelled in the package. A directory is one seed. Prints
the table, and writes it with its environment to ``results/decision_errors.<machine>.md``
(``results/decision_errors-held-out.<machine>.md``).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from benchmarks.graph_tuning.tuned_networks import labelled_hashes
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.loading import Predictor, load_predictor
from tvm_costmodel.predictors.registry import REGISTRY
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.profiling.label_files.selection import LabelSet
from tvm_costmodel.profiling.label_files.variants import read_variants
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import evaluate
from tvm_costmodel.training.variant_metrics import decision_metrics
from tvm_costmodel.tuning.learning.variant_dataset import labels_of_variants

CHOICES = (1, 8)
COLUMNS = (
    "predictor, seeds, networks, MAPE %, error of ratios %, Kendall's tau in a network, "
    "regret of the best 1 %, regret of the best 8 %"
).split(", ")


@dataclass(frozen=True)
class Errors:
    """One checkpoint's errors.

    Attributes:
        networks: Networks with variants.
        mape: Error of the latency of networks and variants, per cent.
        ratio_error: Error of a variant's latency over its network's default, per cent.
        kendall_tau: Kendall's tau between predicted and measured order of a network's variants,
            mean.
        regret: How much slower the fastest of the predicted best 1 and 8 variants of a network is
            than its fastest, per cent, mean; NaN for a number that no network has more of.
    """

    networks: int
    mape: float
    ratio_error: float
    kendall_tau: float
    regret: tuple[float, ...]

    @property
    def numbers(self) -> tuple[float, ...]:
        """Everything but the count, in the table's order."""
        return (self.mape, self.ratio_error, self.kendall_tau, *self.regret)


def errors(predicted: np.ndarray, labels: LabelledGraphs) -> Errors:
    """Errors of predictions, seconds [G], for labelled variants."""
    within = decision_metrics(predicted, labels)
    absolute = evaluate(predicted, labels.latency_s).mape
    regret = tuple(regret_of(predicted, labels, count) for count in CHOICES)
    return Errors(within.networks, absolute, within.ratio_error, within.kendall_tau, regret)


def regret_of(predicted: np.ndarray, labels: LabelledGraphs, count: int) -> float:
    """Mean over networks of how much slower the best of ``count`` choices is, per cent."""
    networks = np.array(labels.networks)
    regrets = []
    for network in dict.fromkeys(labels.networks):
        at = np.flatnonzero(networks == network)
        if len(at) > max(2, count):
            measured = labels.latency_s[at]
            chosen = np.argsort(predicted[at], kind="stable")[:count]
            regrets.append(100 * (measured[chosen].min() / measured.min() - 1))
    return float(np.mean(regrets)) if regrets else float("nan")


def tested(predictor: Predictor, variants: LabelSet, labels: LabelledGraphs | None) -> Errors:
    """Errors on the networks that a checkpoint's own training held out.

    Raises:
        ConfigError: The checkpoint was trained on something else.
    """
    card, tuned = predictor.regressor.card, labels_of_variants(variants, labels)
    if card.get("training_set") != tuned.hash:
        raise ConfigError(
            f"{predictor.name} was trained on {card.get('training_set')}, this is {tuned.hash}; "
            "give the files of --variants and --labels that it was trained with"
        )
    test = tuned.subset(tuned.split(int(card["split_seed"])).test)
    return errors(predictor.regressor.predict(test.graphs), test)


def load(name_or_dir: str, device: str) -> Predictor:
    """A checkpoint by its directory, its name in the zoo, or its predictor's name."""
    if name_or_dir in REGISTRY and not Path(name_or_dir).is_dir():
        return load_predictor(device, name_or_dir)
    return load_predictor(name_or_dir)


def line(name: str, by_seed: Sequence[Errors]) -> list[object]:
    """A predictor's row: means and spreads over seeds."""
    cells: list[object] = [name, len(by_seed), by_seed[0].networks]
    for values in zip(*(one.numbers for one in by_seed), strict=True):
        if np.isnan(values).any():
            cells.append("-")
            continue
        spread = f" ± {stdev(values):.2f}" if len(values) > 1 else ""
        cells.append(f"{mean(values):.2f}{spread}")
    return cells


def held_out(path: str) -> LabelledGraphs:
    """Labels of networks that nothing was trained on.

    Raises:
        ConfigError: One of them is labelled in the package.
    """
    variants = read_variants(path, keep_stale=True)
    known = labelled_hashes() & {record.graph_hash for record in variants.records}
    if known:
        raise ConfigError(f"{len(known)} networks of {path} are among the package's labels")
    return labels_of_variants(variants)


def main() -> None:
    """Reads the command line and runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("--variants", help="variants that the predictors were trained on")
    files.add_argument("--held-out", help="variants of networks that nothing was trained on")
    parser.add_argument("--labels", help="further labels that they were trained on")
    parser.add_argument(
        "--predictor", action="append", required=True, metavar="NAME=DIR[,DIR...]", help="repeat"
    )
    args = parser.parse_args()
    variants = read_variants(args.variants or args.held_out, keep_stale=True)
    labels = (
        LabelledGraphs.of(read_labels(args.labels, variants.device, keep_stale=True))
        if args.labels
        else None
    )
    others = held_out(args.held_out) if args.held_out else None
    rows = []
    for text in args.predictor:
        name, _, listed = text.partition("=")
        by_seed = []
        for place in (listed or name).split(","):
            predictor = load(place, variants.device)
            if others is not None:
                by_seed.append(errors(predictor.regressor.predict(others.graphs), others))
            else:
                by_seed.append(tested(predictor, variants, labels))
        rows.append(line(name, by_seed))
        print(tabulate(rows[-1:], COLUMNS), flush=True)
    kind = "every network of it" if args.held_out else "the tenth that each training held out"
    results_file.write(
        "Errors of predicted decisions",
        f"{len(variants)} networks with variants on {variants.device}, set {variants.hash[:16]}; "
        f"tested: {kind}. Mean ± standard deviation over seeds, each a split and training of its "
        "own.",
        tabulate(rows, COLUMNS, tablefmt="github"),
        stem="decision_errors-held-out" if args.held_out else "decision_errors",
    )


if __name__ == "__main__":
    main()
