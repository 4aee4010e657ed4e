"""NNLQP's family nasbench201: latency of 2,000 networks from their cells, official split.

    python benchmarks/nas/nnlqp_cells.py --data FOLDER [--predictors nnlp,...] [--seeds 3]

``FOLDER`` holds ``nnlqp/nasbench201_family.csv``. The 1,800 networks of the stage ``train`` are
learned from, the 200 of the stage ``test`` reported on; whatever is chosen (kernels, ridge, number
of trees, epoch) is chosen within the training stage. Prints the table, how far the labels of
networks differ that do the same work, and the learning curve of the best method, and writes them
to ``results/nnlqp_cells.<machine>.md``. ``--predictors`` adds predictors of whole networks by their
registered names; they read the network's graph, 32 x 32, batch 1.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import xgboost
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.datasets.nnlqp import NnlqpCell, read_nnlqp_cells
from tvm_costmodel.gaussian_process import Factored
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cell_features import live_operations, operation_counts
from tvm_costmodel.nas.cells import live_nodes
from tvm_costmodel.nas.latency_gp import EdgeGP
from tvm_costmodel.nas.macro_networks import nasbench201_network
from tvm_costmodel.predictors.registry import NETWORKS, build_regressor
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.splits import Split

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
RIDGES = (0.01, 0.1, 1.0, 3.0, 10.0, 30.0)
CURVE = (100, 200, 450, 900, 1800)


@dataclass(frozen=True, eq=False)
class Family:
    """The networks as arrays, and which are learned from."""

    cells: list[NnlqpCell]
    latency_s: np.ndarray  # [G]
    raw: np.ndarray  # [G, 6] operations as written
    live: np.ndarray  # [G, 6], what leads nowhere as none
    learn: np.ndarray  # indices
    test: np.ndarray

    @classmethod
    def read(cls, path: Path) -> Family:
        """Reads the table and checks that no cell is on both sides."""
        cells = read_nnlqp_cells(path)
        graphs = [cell.graph for cell in cells]
        stage = np.array([cell.stage for cell in cells])
        learn, test = np.flatnonzero(stage == "train"), np.flatnonzero(stage == "test")
        Split("official", learn[1:], learn[:1], test).check([graph.hash for graph in graphs])
        raw = [[OPERATIONS.index(node.op) for node in g.operators[1:-1]] for g in graphs]
        latency = np.array([cell.latency_s for cell in cells])
        return cls(cells, latency, np.array(raw), live_operations(graphs, OPERATIONS), learn, test)

    def networks(self) -> list[OpGraph]:
        """Whole networks."""
        return [nasbench201_network(cell.graph) for cell in self.cells]


def one_hot(places: np.ndarray) -> np.ndarray:
    """float64 [G, 30]."""
    return np.eye(len(OPERATIONS))[places].reshape(len(places), -1)


def with_pairs(columns: np.ndarray) -> np.ndarray:
    """The columns and all pairwise interactions of them that are not zero throughout."""
    pairs = [columns[:, a] * columns[:, b] for a, b in combinations(range(columns.shape[1]), 2)]
    return np.concatenate([columns, np.stack([p for p in pairs if p.any()], axis=1)], axis=1)


def linear(columns: np.ndarray, latency_s: np.ndarray, learn: np.ndarray) -> np.ndarray:
    """Ridge on relative errors, its strength by leave-one-out within the training networks."""
    rows = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
    mean = latency_s[learn].mean()
    weight = mean / latency_s[learn]
    scaled, target = rows[learn] * weight[:, None], weight * (latency_s[learn] / mean)
    best, predicted_s = np.inf, np.zeros(len(rows))
    for ridge in RIDGES:
        gram = Factored(scaled.T @ scaled + ridge * np.eye(rows.shape[1]))
        weights = gram.solve(scaled.T @ target)
        leverage = np.square(gram.whiten(scaled.T)).sum(axis=0)
        error = np.abs((target - scaled @ weights) / (1 - leverage)).mean()
        if error < best:
            best, predicted_s = error, rows @ weights * mean
    return predicted_s


def trees(columns: np.ndarray, latency_s: np.ndarray, learn: np.ndarray, seed: int) -> np.ndarray:
    """XGBoost on log latency; a tenth of the training networks decides when to stop."""
    order = np.random.default_rng(seed).permutation(learn)
    validation, rest = order[: len(order) // 10], order[len(order) // 10 :]
    log = np.log(latency_s)
    data = [xgboost.DMatrix(columns[at], label=log[at]) for at in (rest, validation)]
    settings = {"eta": 0.05, "max_depth": 4, "subsample": 0.8, "colsample_bytree": 0.8}
    settings |= {"eval_metric": "mae", "seed": seed, "nthread": 1, "base_score": log[rest].mean()}
    booster = xgboost.train(
        settings,
        data[0],
        1500,
        evals=[(data[1], "validation")],
        early_stopping_rounds=60,
        verbose_eval=False,
    )
    best = booster[: booster.best_iteration + 1]
    return np.exp(best.predict(xgboost.DMatrix(columns)))


def network_predictor(
    name: str,
    family: Family,
    graphs: Sequence[OpGraph],
    seed: int,
    epochs: int | None = None,
) -> np.ndarray:
    """A registered predictor of whole networks; a tenth of the training networks validates."""
    order = np.random.default_rng(seed).permutation(family.learn)
    validated, rest = order[: len(order) // 10], order[len(order) // 10 :]

    def part(at: np.ndarray) -> tuple[list[OpGraph], np.ndarray]:
        return [graphs[i] for i in at], family.latency_s[at]

    changes = {"epochs": epochs} if epochs and name in NETWORKS else {}
    regressor = build_regressor(name, seed, changes).fit(*part(rest), validation=part(validated))
    predicted_s = np.zeros(len(graphs))
    predicted_s[family.test] = regressor.predict([graphs[i] for i in family.test])
    return predicted_s


def methods(
    family: Family, predictors: Sequence[str], epochs: int | None
) -> dict[str, Callable[[int], np.ndarray]]:
    """Row of the table -> seconds of all networks (test ones at least) for a seed."""
    raw, live = one_hot(family.raw), one_hot(family.live)
    counts = operation_counts([cell.graph for cell in family.cells], OPERATIONS[1:])
    latency, learn = family.latency_s, family.learn
    features = np.concatenate([live, counts], axis=1)
    graphs = family.networks() if predictors else []
    middle = np.full(len(latency), np.median(latency[learn]))

    def edge_gp(seed: int) -> np.ndarray:
        return EdgeGP().fit(family.live[learn], latency[learn]).predict(family.live)

    rows: dict[str, Callable[[int], np.ndarray]] = {
        "constant": lambda seed: middle,
        "linear, edges as written": lambda seed: linear(raw, latency, learn),
        "linear, live edges": lambda seed: linear(live, latency, learn),
        "ridge, live edges and pairs": lambda seed: linear(with_pairs(live), latency, learn),
        "EdgeGP: singles, pairs, triples": edge_gp,
        "XGBoost, live edges and counts": lambda seed: trees(features, latency, learn, seed),
        "XGBoost, live edges, counts and pairs": lambda seed: trees(
            with_pairs(features), latency, learn, seed
        ),
    }
    for name in predictors:
        rows[f"{name} (network)"] = lambda seed, name=name: network_predictor(
            name, family, graphs, seed, epochs
        )
    return rows


FIXED = ("constant", "linear", "ridge", "EdgeGP", "flops")  # the same whatever the seed


def table(family: Family, predictors: Sequence[str], seeds: int, epochs: int | None) -> str:
    """One row per method: test MAPE and the rest, mean and spread over seeds."""
    rows = []
    for name, method in methods(family, predictors, epochs).items():
        runs: list[Metrics] = []
        for seed in range(1 if name.startswith(FIXED) else seeds):
            predicted = method(seed)[family.test]
            runs.append(evaluate(predicted, family.latency_s[family.test]))
        cells = []
        for field in ("mape", "within_5", "within_10", "kendall_tau"):
            values = [getattr(run, field) for run in runs]
            spread = f" ± {np.std(values):.2f}" if len(runs) > 1 else ""
            cells.append(f"{np.mean(values):.3f}{spread}")
        rows.append([name, *cells])
        print(" | ".join(rows[-1]), flush=True)
    head = ("method", "MAPE %", "within 5 %", "within 10 %", "Kendall tau")
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)


def curve(family: Family) -> str:
    """Test MAPE of `EdgeGP` by number of training networks, three draws each."""
    rows = []
    for count in CURVE:
        errors = []
        for seed in range(1 if count == len(family.learn) else 3):
            at = np.random.default_rng(seed).permutation(family.learn)[:count]
            gp = EdgeGP().fit(family.live[at], family.latency_s[at])
            predicted = gp.predict(family.live[family.test])
            errors.append(evaluate(predicted, family.latency_s[family.test]).mape)
        rows.append([count, f"{np.mean(errors):.3f} ± {np.std(errors):.3f}"])
    return tabulate(rows, ("training networks", "MAPE %"), tablefmt="github")


def work(cell: OpGraph) -> tuple[str, ...]:
    """What a cell computes, whatever the order of sums and the place of skips, and how often.

    The first part is the value at the output as sums and operations of the input; the others are
    the live operations and additions, which differ where one cell shares what another repeats.
    """
    live, values = live_nodes(cell), [[] for _ in cell.operators]
    for i, node in enumerate(cell.operators):
        terms = sorted(term for s, _ in node.inputs if live[s] for term in values[s])
        if node.op in ("input", "output", "skip_connect"):
            values[i] = terms or ["x"] * (node.op == "input")
        elif live[i]:
            values[i] = [f"{node.op}({' + '.join(terms)})"]
    live_names = [node.op for node, alive in zip(cell.operators, live, strict=True) if alive]
    read = {node.inputs for node, alive in zip(cell.operators, live, strict=True) if alive}
    sums = [sum(live[source] for source, _ in inputs) - 1 for inputs in read if inputs]
    operations = sorted(name for name in live_names if name != "skip_connect")
    return (" + ".join(sorted(values[-1])), *operations, f"{sum(sums)} additions")


def order_of_sums(family: Family) -> str:
    """How far the labels of cells differ that do the same work."""
    same = defaultdict(list)
    for cell in family.cells:
        same[work(cell.graph)].append(cell.latency_s)
    groups = [values for values in same.values() if len(values) > 1]
    deviations = [abs(v - np.mean(g)) / np.mean(g) for g in groups for v in g]
    return (
        f"{sum(map(len, groups))} networks in {len(groups)} groups do the same work: the same "
        "operations on the same values, and as many additions; they differ in the order of sums "
        "and the place of skips. On average their labels are "
        f"{100 * np.mean(deviations):.2f} % off the mean of their group. `EdgeGP`, which reads the "
        "places, explains most of it, so this is no noise: the order in which a sum is written "
        "decides what a compiler fuses. A predictor that does not see the order cannot do much "
        "better than this. No network was measured twice, so the labels' own noise is not known; "
        "it is below the error of `EdgeGP`."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path, help="folder of the published data")
    parser.add_argument(
        "--predictors", default="flops,xgboost", help="such as a,b,c; of whole networks"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="epochs, instead of the recipe's")
    args = parser.parse_args()
    family = Family.read(args.data / "nnlqp" / "nasbench201_family.csv")
    predictors = [name for name in args.predictors.split(",") if name]
    gp = EdgeGP().fit(family.live[family.learn], family.latency_s[family.learn])
    chosen = (
        f"`EdgeGP` chose {gp.kernel} by leave-one-out error on the training stage "
        f"({gp.leave_one_out_mape:.3f} %)."
    )
    body = "\n\n".join(
        [
            table(family, predictors, args.seeds, args.epochs),
            chosen,
            "## Order of sums\n\n" + order_of_sums(family),
            "## Learning curve of `EdgeGP`\n\n" + curve(family),
        ]
    )
    print(body)
    results_file.write(
        "NNLQP, family nasbench201",
        f"{len(family.learn)} networks of the official stage train, {len(family.test)} of the "
        "stage test, labels of platform 1. Everything that is chosen is chosen within the "
        f"training stage; XGBoost and networks: {args.seeds} seeds, mean ± standard deviation.",
        body,
    )


if __name__ == "__main__":
    main()
