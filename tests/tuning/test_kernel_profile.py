"""Calls of kernels are matched with the operators of the graph, on networks of several kinds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.compilers.networks_small import NETWORKS, network
from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.compilers.relax.verification import input_specs
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import TensorType
from tvm_costmodel.profiling.in_place_profiler import InPlaceTimes
from tvm_costmodel.profiling.measuring import in_place
from tvm_costmodel.profiling.measuring.peaks import Peaks
from tvm_costmodel.profiling.runners.arguments import random_array
from tvm_costmodel.tuning.kernel_profile import _matched, kernel_rows

PEAKS = Peaks(100e9, ((1 << 16, 50e9), (1 << 26, 10e9)))


class OneMillisecondEach:
    """A predictor whose share of every operator is one millisecond."""

    def predict(self, graph: OpGraph) -> Any:
        self.graph = graph
        computing = [i for i, o in enumerate(graph.operators) if o.op != "input"]
        shares = [SimpleNamespace(operator=i, latency_s=1e-3) for i in computing]
        return SimpleNamespace(per_op=shares)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_call_has_its_operators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "_SECONDS", 0.0)
    mod = network(name)
    built = build(mod, cpu_target())
    kernels = {kernel.name: kernel for kernel in built.kernels}
    arrays = [random_array(spec) for spec in input_specs(mod)]
    timed = in_place.time_calls(built.executable, arrays)
    calls = tuple((called, 2e-3) for called, _ in timed if called in kernels)
    times = InPlaceTimes(from_relax(mod), kernels, calls, 1.0, None, "", PEAKS)
    predictor: Any = OneMillisecondEach()
    rows = kernel_rows(times, predictor)
    for row in rows:
        named = row.operators.partition(" -> ")[0].split(" + ")
        words = [operator.split(" ")[0] for operator in named]
        assert row.operators != row.kernel and row.ms == pytest.approx(2 * row.calls)
        assert ("conv2d" in words) == ("conv2d" in row.kernel)
        assert bool({"dense", "matmul"} & {*words}) == ("matmul" in row.kernel)
        assert row.predicted_ms == pytest.approx(len(words) * row.calls)
    work = sum(row.gflops * row.ms * 1e6 for row in rows)
    assert work == pytest.approx(predictor.graph.flops, rel=1e-3)
    assert [row.ms for row in rows] == sorted((row.ms for row in rows), reverse=True)
    assert sum(row.share for row in rows) == pytest.approx(1)


def test_calls_without_operators_keep_their_name_and_bytes() -> None:
    a, b, c = (TensorType((n,), "float32") for n in (1, 2, 3))
    assert _matched([a, b, c], [a, b, c]) == {0: 0, 1: 1, 2: 2}
    assert _matched([a, b, c], [a, c]) == {0: 0, 1: 2}
    assert _matched([a, b], [a, c, b]) == {0: 0, 2: 1}
    assert _matched([b, a, c], [a, b, c]) == {0: 1, 1: 0, 2: 2}
