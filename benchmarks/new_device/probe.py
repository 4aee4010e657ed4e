"""A predictor corrected for another processor by a probe of three minutes.

    python benchmarks/new_device/probe.py LABELS [LABELS ...] [--seconds 180] [--predictors A,B]
    python benchmarks/new_device/probe.py --order

LABELS are label files of other processors, whose rows say how long each network took to build and
measure. The probe takes networks in the order of what they say of the correction per second that
they are expected to cost, which nothing of the other processor enters into, until the seconds that
they really took there are spent; the networks that are left are the test. Rows of the table: one
factor, the same correction from random networks for the same time, and from those of the probe.
``--order`` prints the order of `tvm_costmodel.transfer.probe.ORDER`. Writes
``results/probe.<machine>.md``.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from benchmarks import results_file
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.profiling.label_files.networks import import_dataset, read_labels
from tvm_costmodel.profiling.sources import suite
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.training.metrics import kendall_tau, mape
from tvm_costmodel.transfer.calibration import calibrate, choose_by_cost
from tvm_costmodel.transfer.probe import CANDIDATES, SEED

HOME = "cpu-amd-zen5"
HEAD = ("processor", "predictor", "probe", "networks", "MAPE %", "over 1 ms %", "quiet rows %",
        "tau", "covered %")  # fmt: skip


@dataclass(frozen=True)
class Processor:
    """Labels of one processor, and what each network took to build and measure."""

    name: str
    graphs: Sequence[OpGraph]
    measured_s: np.ndarray
    cost_s: np.ndarray
    quiet: np.ndarray

    @classmethod
    def read(cls, path: str, scratch: Path) -> Processor:
        """Reads a label file."""
        labels = read_labels(path, keep_stale=True)
        with Store(scratch / "labels.db") as store:
            import_dataset(store, path)
            rows = store.measurements(labels.device, status="ok")
            cost = {row.graph_hash: _without_kernels(row.seconds) for row in rows}
        return cls(
            labels.device,
            [record.graph for record in labels.records],
            np.array([record.latency_s for record in labels.records]),
            np.array([cost[record.graph_hash] for record in labels.records]),
            np.array([record.quiet for record in labels.records]),
        )

    def within(self, order: np.ndarray, seconds: float) -> np.ndarray:
        """The first networks of an order that fit into a time."""
        return order[np.cumsum(self.cost_s[order]) <= seconds]


def _without_kernels(seconds: Mapping[str, float]) -> float:
    """What a label took but for its kernels, which the probe does not time."""
    return sum(seconds.values()) - seconds.get("kernels", 0.0)


def scores(machine: Processor, regressor: Regressor, at: np.ndarray) -> list[float]:
    """Errors on the networks outside of the probe: all, over 1 ms, quiet; tau; coverage."""
    rest = np.setdiff1d(np.arange(len(machine.graphs)), at)
    corrected = calibrate(
        regressor, [machine.graphs[i] for i in at], machine.measured_s[at], machine.name
    )
    predicted, measured = (
        corrected.predict([machine.graphs[i] for i in rest]),
        machine.measured_s[rest],
    )
    low, high = corrected.bounds(predicted)
    large, quiet = measured > 1e-3, machine.quiet[rest]
    return [
        mape(predicted, measured),
        mape(predicted[large], measured[large]),
        mape(predicted[quiet], measured[quiet]),
        kendall_tau(predicted, measured),
        float(100 * ((low <= measured) & (measured <= high)).mean()),
    ]


def table(machine: Processor, name: str, seconds: float, seeds: int) -> list[list[str]]:
    """The rows of one predictor on one processor."""
    regressor = load_predictor(f"{HOME}/{name}").regressor
    alone, measured = regressor.predict(machine.graphs), machine.measured_s
    scaled = alone * np.median(measured / alone)
    large, quiet = measured > 1e-3, machine.quiet
    factor = [mape(scaled[m], measured[m]) for m in (np.full(len(measured), True), large, quiet)]
    rows: list[tuple[str, float, list[float]]] = [
        ("one factor, all known", len(measured), [*factor, kendall_tau(scaled, measured), np.nan])
    ]
    orders = [np.random.default_rng(s).permutation(len(measured)) for s in range(seeds)]
    at = [machine.within(order, seconds) for order in orders]
    mean = np.mean([scores(machine, regressor, a) for a in at], axis=0).tolist()
    rows.append((f"random, mean of {seeds}", float(np.mean([len(a) for a in at])), mean))
    order = choose_by_cost(regressor, machine.graphs, expected_cost(machine.graphs, alone))
    probe = machine.within(order, seconds)
    rows.append(("probe", len(probe), scores(machine, regressor, probe)))
    return [
        [machine.name, name, what, f"{n:.0f}", *(f"{value:.3g}" for value in figures)]
        for what, n, figures in rows
    ]


def expected_cost(graphs: Sequence[OpGraph], predicted_s: np.ndarray) -> np.ndarray:
    """Seconds that building and measuring networks takes on an AMD Zen 5, float64 [G].

    Linear in the number of different operators and the latency, fitted on the labels that ship.

    Args:
        graphs: The networks.
        predicted_s: Their predicted seconds.
    """
    different = [len(set(map(repr, _operators(graph)))) for graph in graphs]
    return np.asarray(0.72 + 0.028 * np.array(different) + 21.0 * np.asarray(predicted_s))


def _operators(graph: OpGraph) -> Iterator[tuple[object, ...]]:
    """What code is generated for: each operator with what it reads and writes."""
    for op in graph.operators:
        read = [graph.operators[producer].outputs[at] for producer, at in op.inputs]
        yield op.op, sorted(op.attrs.items()), read, op.outputs, op.weights


def probe_order() -> list[int]:
    """Numbers of the suite's networks, those first that say most per second."""
    regressor = load_predictor(HOME).regressor
    graphs = [source.load()[1] for source in suite("default", CANDIDATES, SEED)]
    cost = expected_cost(graphs, regressor.predict(graphs))
    return [int(i) for i in choose_by_cost(regressor, graphs, cost)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("labels", nargs="*")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--predictors", default="roofline_former,xgboost,flops")
    parser.add_argument("--seeds", type=int, default=5, help="random probes that are averaged")
    parser.add_argument("--order", action="store_true")
    args = parser.parse_args()
    if args.order:
        print(probe_order())
        return
    rows: list[list[str]] = []
    for path in args.labels:
        with tempfile.TemporaryDirectory() as scratch:
            machine = Processor.read(path, Path(scratch))
        for name in args.predictors.split(","):
            rows += table(machine, name, args.seconds, args.seeds)
            print(*rows[-1], flush=True)
    body = tabulate(rows, HEAD, tablefmt="github", disable_numparse=True)
    print(body)
    results_file.write(
        "Predictors corrected for another processor by a probe",
        f"The predictors learned on {HOME}; {args.seconds:g} s of building and measuring on the "
        "other processor, then all its other networks are predicted. All predictors get the same "
        "correction from the same time.",
        body,
    )


if __name__ == "__main__":
    main()
