"""Several pipelines of one network, measured interleaved, with real workers and builds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.profiling.conftest import QUICK
from tvm_costmodel.errors import MeasurementError
from tvm_costmodel.profiling.label_files.variants import export_variants, read_variants
from tvm_costmodel.profiling.paired_profiler import PairedProfiler
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.variants import VariantRun

Make = Callable[..., PairedProfiler]


@pytest.fixture
def trials(plain_compiler: str, tmp_path: Path) -> Iterator[Make]:
    profilers: list[PairedProfiler] = []

    def make(**settings: Any) -> PairedProfiler:
        chosen: dict[str, Any] = {"measurement": QUICK, "compiler": plain_compiler} | settings
        profilers.append(PairedProfiler("cpu", tmp_path / "store.db", progress=False, **chosen))
        return profilers[-1]

    yield make
    for profiler in profilers:
        profiler.close()


def tiny(channels: int = 4, size: int = 8, fault: str = "") -> Any:
    from plain_compiler import TinySource  # type: ignore[import-not-found]

    return TinySource(channels, size, fault)


def choices(*names: str) -> list[VariantRun]:
    return [VariantRun({"choice": name}, {"network": {"choice": name}}) for name in names]


def test_variants_are_interleaved_with_the_baseline(trials: Make, tmp_path: Path) -> None:
    profiler = trials()
    graph = profiler.open(tiny())
    results = profiler.measure(choices("a", "b"), rounds=3)
    assert [r.status for r in results] == ["ok", "ok"]
    for result in results:
        timing = result.timing
        assert timing is not None and timing.ratio is not None
        assert len(timing.blocks) == len(timing.baseline_blocks) == 3
        assert 0.2 < timing.ratio < 5.0  # the same code
        assert timing.max_abs_err == 0.0 and timing.max_rel_err == 0.0
    baseline = profiler.baseline
    assert baseline is not None and baseline.graph_hash == graph.hash
    assert "decisions" not in baseline.pipeline
    again = profiler.measure(choices("b", "c"))
    assert [r.reused for r in again] == [True, False]

    header = export_variants([tmp_path / "store.db"], tmp_path / "v.jsonl.xz")
    assert header["statuses"] == {"ok": 3} and header["networks"] == 1
    first = (tmp_path / "v.jsonl.xz").read_bytes()
    export_variants([tmp_path / "store.db"], tmp_path / "v.jsonl.xz")
    assert (tmp_path / "v.jsonl.xz").read_bytes() == first
    from_file = read_variants(tmp_path / "v.jsonl.xz")
    assert from_file.hash == read_variants(tmp_path / "store.db").hash
    (group,) = from_file.records
    assert group.graph.hash == graph.hash and len(group.good_variants) == 3
    assert group.variants[0].decisions == {"network": {"choice": "a"}}
    assert group.variants[0].ratio == pytest.approx(results[0].timing.ratio, rel=1e-5)  # type: ignore[union-attr]


def test_a_build_that_ends_the_worker_costs_its_row_alone(trials: Make) -> None:
    profiler = trials(measurement=dataclasses.replace(QUICK, build_timeout_s=20.0))
    profiler.open(tiny())
    results = profiler.measure(choices("a", "crash", "raise", "b"))
    assert [r.status for r in results] == ["ok", "build_failed", "build_failed", "ok"]
    assert "SIGABRT" in results[1].row.error and "about to crash" in results[1].row.error
    assert "no such thing" in results[2].row.error
    with Store(profiler.store.path, write=False) as store:
        statuses = sorted(row.status for row in store.measurements(status=None))
    assert statuses == ["build_failed", "build_failed", "ok", "ok", "ok"]


def test_outputs_beyond_tolerance_are_discarded(trials: Make) -> None:
    profiler = trials()
    profiler.open(tiny())
    (result,) = profiler.measure(choices("a"), tolerance=-1.0)  # nothing is that equal
    assert result.status == "wrong_output" and result.timing is None
    assert "over the tolerance" in result.row.error


def test_a_network_whose_default_build_fails_is_refused(trials: Make) -> None:
    profiler = trials()
    profiler.open(tiny(fault="raise"))
    with pytest.raises(MeasurementError, match=r"even in its default build: .*no such thing"):
        profiler.measure(choices("a"))
    assert profiler.baseline is not None and profiler.baseline.status == "build_failed"
    profiler.open(tiny())
    assert profiler.measure(choices("a"))[0].status == "ok"
    assert math.isfinite(profiler.measure(choices("a"))[0].row.latency_s or math.nan)
