"""A shipped predictor, calibrated to a made-up board by few networks it did not learn from.

    python benchmarks/slower_board.py [--predictors xgboost,roofline_former] [--seeds 3]

The board takes three times as long as the shipped labels' device, and moves each network's bytes
at 4 GB/s on top: 4 to 28 times as long, which is no correction that the calibration has in its
form. Candidates are the networks that the predictor neither learned from nor was chosen by; those
that are not measured test. Prints the MAPE per number of measurements, of the leave-one-out errors
too, with the interval's coverage, and writes it to ``results/slower_board.<machine>.md``.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
from tabulate import tabulate

import results_file
from tvm_costmodel.predictor import load_predictor
from tvm_costmodel.profiling.dataset import SHIPPED
from tvm_costmodel.training.adaptation import RULES
from tvm_costmodel.training.calibration import calibrate, choose_networks, leave_one_out
from tvm_costmodel.training.labels import LabelledGraphs
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.training.new_device import learned_networks
from tvm_costmodel.training.regressor import Regressor

DEVICE, BOARD = "cpu-x86-avx512", "board"
TIMES, BYTES_PER_S = 3.0, 4e9
COUNTS = (5, 10, 20, 50)
HEAD = ("predictor", "measured", "rule", "one factor", "calibrated", "leave-one-out", "covered")


def run(known: Regressor, labels: LabelledGraphs, count: int, rule: str, seed: int) -> list[float]:
    """MAPE of one factor, of the calibration and by leave-one-out; coverage; all in percent."""
    at = choose_networks(known, labels.graphs, count, rule, seed)
    test = labels.subset(np.setdiff1d(np.arange(len(labels)), at))
    chosen = labels.subset(at)
    board = calibrate(known, chosen.graphs, chosen.latency_s, BOARD)
    factor = np.median(chosen.latency_s / known.predict(chosen.graphs))
    alone, answers = known.predict(test.graphs), board.predict(test.graphs)
    low, high = board.bounds(answers)
    return [
        mape(factor * alone, test.latency_s),
        mape(answers, test.latency_s),
        mape(leave_one_out(known, chosen.graphs, chosen.latency_s), chosen.latency_s),
        float(100.0 * ((low <= test.latency_s) & (test.latency_s <= high)).mean()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictors", default="xgboost,roofline_former", metavar="A,B")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    labels = LabelledGraphs.from_file(SHIPPED / f"{DEVICE}.jsonl.xz")
    rows = []
    for name in args.predictors.split(","):
        known = load_predictor(f"{DEVICE}/{name}").regressor
        learned = learned_networks(known.card)
        assert learned is not None, "the shipped labels are not those of the shipped checkpoints"
        new = labels.subset([i for i, key in enumerate(labels.hashes) if key not in learned])
        added_s = np.array([graph.bytes for graph in new.graphs]) / BYTES_PER_S
        new.latency_s[:] = TIMES * new.latency_s + added_s
        for count, rule in product(COUNTS, RULES):
            runs = [run(known, new, count, rule, seed) for seed in range(args.seeds)]
            figures = zip(np.mean(runs, axis=0), np.std(runs, axis=0), strict=True)
            shown = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in figures]
            rows.append([name, count, rule, *shown])
            print(*rows[-1], flush=True)
    body = tabulate(rows, HEAD, tablefmt="github")
    print(body)
    results_file.write(
        "A shipped predictor on a made-up board",
        f"The board takes {TIMES:g} times as long as {DEVICE} and {BYTES_PER_S / 1e9:g} GB/s for "
        f"each network's bytes on top. {len(new)} networks that the predictors did not learn from: "
        "so many of them measured, the others to test. MAPE in %; `covered` is the share of test "
        "networks within the interval, in %. The widths of the calibration's prior were set on "
        f"nn-Meter's bench. Mean ± standard deviation over {args.seeds} seeds.",
        body,
    )


if __name__ == "__main__":
    main()
