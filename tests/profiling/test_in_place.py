"""Kernels timed in place, and the limits of the processor."""

from __future__ import annotations

import sys
from collections import Counter

import pytest
import tvm

from tests.compilers.networks_small import staged
from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.compilers.relax.verification import input_specs
from tvm_costmodel.profiling.measuring import in_place
from tvm_costmodel.profiling.measuring.peaks import PeakProbe, Peaks
from tvm_costmodel.profiling.runners.arguments import random_array
from tvm_costmodel.profiling.worker.output_check import NoReference, onnxruntime_run


def test_every_call_of_every_kernel_has_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_place, "_SECONDS", 0.1)
    mod = staged()
    built = build(mod, cpu_target())
    arrays = [random_array(spec) for spec in input_specs(mod)]
    calls = in_place.time_calls(built.executable, arrays)
    kernels = {kernel.name: kernel.calls for kernel in built.kernels}
    counted = Counter(name for name, _ in calls if name in kernels)
    assert counted == Counter(kernels)
    assert all(0 < seconds < 1 for name, seconds in calls if name in kernels)
    alone = in_place.fastest_interleaved(
        {"network": in_place.network_run(built.executable, arrays)}
    )
    assert sum(seconds for _, seconds in calls) < 20 * alone["network"]


def test_rounds_are_interleaved_and_the_fastest_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    now, order = [0.0], []
    monkeypatch.setattr(in_place.time, "perf_counter", lambda: now[0])

    def run(name: str, seconds: list[float]) -> None:
        order.append(name)
        now[0] += seconds[order.count(name) % len(seconds)]

    runs = {"a": lambda: run("a", [1.0, 9.0, 5.0]), "b": lambda: run("b", [7.0, 3.0])}
    assert in_place.fastest_interleaved(runs) == {"a": 1.0, "b": 7.0}
    assert order[:6] == ["a", "a", "b", "b", "a", "a"] and len(order) == 20


@pytest.mark.parametrize(
    ("path", "words"), [("net.pt2", "no ONNX file"), ("net.onnx", "not installed")]
)
def test_a_network_without_onnxruntime_says_why(
    monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NoReference, match=words):
        onnxruntime_run({"kind": "file", "path": path}, [])


def test_the_least_time_is_that_of_arithmetic_or_of_bytes() -> None:
    peaks = Peaks(100e9, ((1 << 16, 80e9), (1 << 20, 40e9), (1 << 26, 10e9)))
    assert peaks.bandwidth(1000) == 80e9 and peaks.bandwidth(1 << 20) == 40e9
    assert peaks.bandwidth(1 << 25) == peaks.bandwidth(1 << 30) == 10e9
    assert peaks.least_s(2e9, 1000) == pytest.approx(0.02)
    assert peaks.least_s(1, 1 << 30) == pytest.approx((1 << 30) / 10e9)


def test_limits_are_the_best_of_the_samples() -> None:
    probe = PeakProbe(cpu_target())
    first, second = probe.sample(), probe.sample()
    assert 1e9 < first.flops <= second.flops < 1e12
    pairs = zip(first.bandwidths, second.bandwidths, strict=True)
    assert all(size == again and 1e8 < one <= two for (size, one), (again, two) in pairs)


def test_limits_grow_with_threads() -> None:
    two = PeakProbe(tvm.target.Target({**_fields(cpu_target()), "num-cores": 2})).sample()
    assert two.flops > 1e9 and two.bandwidths[0][1] > 1e8


def _fields(target: tvm.target.Target) -> dict[str, object]:
    return {"kind": "llvm", "mcpu": str(target.attrs["mcpu"])}
