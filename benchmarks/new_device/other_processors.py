"""How far a shipped predictor is off on processors that nothing was measured on.

    python benchmarks/new_device/other_processors.py LABELS [LABELS ...] [--predictors A,B]

LABELS are label files or stores of other processors, such as the Intel Emerald Rapids'
``intel-emeraldrapids.jsonl.xz`` of the shared data. Prints, per processor and predictor: the error
as it is and after one factor (the median of measured over predicted), that factor, the quantiles
of measured over predicted, and the share of networks inside the interval as it is at home and as
it is widened for other processors (`tvm_costmodel.predictors.conformal.OTHER_PROCESSOR`). Writes
``results/other_processors.<machine>.md``.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.predictors.conformal import OTHER_PROCESSOR
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.training.metrics import kendall_tau, mape

HOME = "cpu-amd-zen5"
HEAD = ("processor", "networks", "predictor", "error %", "factor", "error after it %", "tau",
        "5 % quantile", "95 % quantile", "inside %", "inside widened %")  # fmt: skip


def row(path: str, name: str) -> list[str]:
    """The figures of one predictor on one processor's labels."""
    labels = read_labels(path, keep_stale=True)
    measured = np.array([record.latency_s for record in labels.records])
    regressor = load_predictor(f"{HOME}/{name}").regressor
    predicted = regressor.predict([record.graph for record in labels.records])
    low, high = regressor.bounds(predicted)
    ratio = measured / predicted
    factor, lowest, highest = (float(np.quantile(ratio, share)) for share in (0.5, 0.05, 0.95))
    wide = (low * OTHER_PROCESSOR[0], high * OTHER_PROCESSOR[1])
    inside = [
        float(100 * ((a <= measured) & (measured <= b)).mean())
        if not math.isnan(a[0])
        else math.nan
        for a, b in ((low, high), wide)
    ]
    errors = [mape(predicted, measured), factor, mape(factor * predicted, measured)]
    figures = [*errors, kendall_tau(predicted, measured), lowest, highest, *inside]
    return [labels.device, str(len(labels)), name, *(f"{value:.3g}" for value in figures)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="+")
    parser.add_argument("--predictors", default="roofline_former,xgboost,flops")
    args = parser.parse_args()
    rows = [row(path, name) for path in args.labels for name in args.predictors.split(",")]
    body = tabulate(rows, HEAD, tablefmt="github", disable_numparse=True)
    print(body)
    results_file.write(
        "Shipped predictors on processors that nothing was measured on",
        f"The predictors learned on {HOME}. Labels as measured, stale ones too, since only the "
        "predictor is under test.",
        body,
    )


if __name__ == "__main__":
    main()
