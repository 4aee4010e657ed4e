"""A shipped predictor, calibrated to a synthetic device with few networks new to it.

    python benchmarks/new_device/slower_board.py [--predictors xgboost,roofline_former] [--seeds 3]

The device takes three times as long as the device of the shipped labels, plus the time to move each
network's bytes at 4 GB/s: 4 to 28 times as long in all, which is not of the form of the
calibration's correction. Candidates are networks that neither trained the predictor nor chose its
epoch; those that are not measured are test networks. Prints the MAPE per number of measurements,
also by leave-one-out, with the interval's coverage, and writes it to
``results/slower_board.<machine>.md``.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.profiling.label_files.networks import SHIPPED, read_labels
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import mape
from tvm_costmodel.transfer.active_learning import STRATEGIES
from tvm_costmodel.transfer.calibration import calibrate, choose_networks, leave_one_out
from tvm_costmodel.transfer.workflow import learned_networks

DEVICE, BOARD = "cpu-amd-zen5", "board"
TIMES, BYTES_PER_S = 3.0, 4e9
COUNTS = (5, 10, 20, 50)
HEAD = ("predictor", "measured", "strategy", "one factor", "calibrated", "leave-one-out", "covered")


def run(
    regressor: Regressor, labels: LabelledGraphs, count: int, strategy: str, seed: int
) -> list[float]:
    """MAPE of one factor, of the calibration and by leave-one-out; coverage; all in percent."""
    at = choose_networks(regressor, labels.graphs, count, strategy, seed)
    test = labels.subset(np.setdiff1d(np.arange(len(labels)), at))
    measured = labels.subset(at)
    board = calibrate(regressor, measured.graphs, measured.latency_s, BOARD)
    factor = np.median(measured.latency_s / regressor.predict(measured.graphs))
    alone, answers = regressor.predict(test.graphs), board.predict(test.graphs)
    low, high = board.bounds(answers)
    return [
        mape(factor * alone, test.latency_s),
        mape(answers, test.latency_s),
        mape(leave_one_out(regressor, measured.graphs, measured.latency_s), measured.latency_s),
        float(100.0 * ((low <= test.latency_s) & (test.latency_s <= high)).mean()),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--predictors", default="xgboost,roofline_former", metavar="A,B")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    labels = LabelledGraphs.of(read_labels(SHIPPED / f"{DEVICE}.jsonl.xz", keep_stale=True))
    rows = []
    for name in args.predictors.split(","):
        regressor = load_predictor(f"{DEVICE}/{name}").regressor
        learned = learned_networks(regressor.card)
        assert learned is not None, "the shipped labels are not those of the shipped checkpoints"
        new = labels.subset([i for i, key in enumerate(labels.hashes) if key not in learned])
        added_s = np.array([graph.bytes for graph in new.graphs]) / BYTES_PER_S
        new.latency_s[:] = TIMES * new.latency_s + added_s
        for count, strategy in product(COUNTS, STRATEGIES):
            runs = [run(regressor, new, count, strategy, seed) for seed in range(args.seeds)]
            figures = zip(np.mean(runs, axis=0), np.std(runs, axis=0), strict=True)
            cells = [f"{mean:.1f} ± {spread:.1f}" for mean, spread in figures]
            rows.append([name, count, strategy, *cells])
            print(*rows[-1], flush=True)
    body = tabulate(rows, HEAD, tablefmt="github")
    print(body)
    results_file.write(
        "A shipped predictor on a synthetic device",
        f"The device takes {TIMES:g} times as long as {DEVICE} and {BYTES_PER_S / 1e9:g} GB/s for "
        f"each network's bytes on top. {len(new)} networks that the predictors did not learn from: "
        "`measured` of them to calibrate, the others to test. MAPE in %; `covered` is the share of "
        "test networks within the interval, in %. The widths of the calibration's prior were set "
        f"on nn-Meter's bench. Mean ± standard deviation over {args.seeds} seeds.",
        body,
    )


if __name__ == "__main__":
    main()
