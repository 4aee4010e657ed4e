"""Runs of the profiler with real workers: resuming, failures, staleness, interrupts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.profiling.conftest import QUICK
from tvm_costmodel.errors import MissingDependencyError, StoreError
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.sources import WorkloadSource
from tvm_costmodel.profiling.store import Store

Make = Callable[..., Profiler]


def tiny(*channels: int, size: int = 8) -> list[Any]:
    from plain_compiler import TinySource  # type: ignore[import-not-found]

    return [TinySource(n, size) for n in channels]


def test_measures_once_then_reuses(profiler: Make) -> None:
    sources = tiny(4, 8, 4)
    first = profiler().run(sources)
    assert (first.measured, first.reused, first.failed) == (2, 1, 0)
    again = profiler().run(sources)
    assert (again.measured, again.reused, again.failed) == (0, 3, 0)
    assert [r.latency_s for r in again.results] == [r.latency_s for r in first.results]


def test_row_holds_what_a_label_needs(profiler: Make) -> None:
    made = profiler()
    made.run(tiny(4))
    (row,) = made.store.measurements()
    assert row.timing is not None and 1e-7 < row.timing.latency_s < 1e-2
    assert row.timing.latency_s == min(row.timing.repeats)
    assert row.timing.cpu_s is not None and row.timing.cpu_s > 0
    assert 1e-4 < row.timing.reference_s < 1.0
    names = {kernel.name for kernel in row.kernels}
    assert len(row.kernels) >= 1 and all(kernel.latency_s > 0 for kernel in row.kernels), names
    assert row.kernels[0].parameters[-1] == ((1, 4, 8, 8), "float32")
    facts = made.store.environments()[row.environment_id]
    assert facts["packages"]["apache-tvm"] and facts["llvm"] and facts["cpu"]
    assert row.seconds.keys() >= {"source", "build", "network", "kernels"}


def test_known_kernels_are_not_timed_again(profiler: Make) -> None:
    made = profiler()
    made.run(tiny(4))
    (before,) = [k.latency_s for k in made.store.kernels()]
    made.run(tiny(4), remeasure=True)
    assert [k.latency_s for k in made.store.kernels()] == [before]


def test_count_is_of_networks(profiler: Make) -> None:
    summary = profiler().run(tiny(2, 3, 4), count=2)
    assert (summary.measured, summary.stopped) == (2, "count")


def test_minutes_end_a_run(profiler: Make) -> None:
    summary = profiler().run(tiny(2, 3), minutes=1e-9)
    assert (summary.measured, summary.stopped) == (0, "minutes")


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("crash", "build_failed", ("SIGABRT", "about to crash")),
        ("raise", "build_failed", ("ValueError", "no such thing")),
        ("hang", "build_timeout", ("build", "2 s")),
        ("memory", "build_failed", ("MiB of memory", "1500 MiB")),
    ],
)
def test_a_fault_is_a_row_and_the_run_goes_on(
    profiler: Make, fault: str, status: str, words: tuple[str, ...]
) -> None:
    limits = dataclasses.replace(QUICK, build_timeout_s=2.0, memory_limit_mib=1500)
    if fault == "memory":
        limits = dataclasses.replace(limits, build_timeout_s=60.0)
    made = profiler(fault, measurement=limits)
    summary = made.run(tiny(2, 3))
    assert (summary.measured, summary.failed) == (0, 2)
    rows = list(made.store.measurements(status=None))
    assert [row.status for row in rows] == [status, status]
    assert all(word in rows[0].error for word in words), rows[0].error
    assert rows[0].graph_hash and rows[0].latency_s is None


def test_failures_are_remembered_and_retried_on_demand(profiler: Make) -> None:
    assert profiler("raise").run(tiny(2)).failed == 1
    again = profiler("raise").run(tiny(2))
    assert again.failed == 1 and again.results[0].reused
    retried = profiler("raise", retry_failed=True).run(tiny(2))
    assert retried.failed == 1 and not retried.results[0].reused


def test_source_that_gives_no_graph_is_a_row(profiler: Make) -> None:
    made = profiler()
    summary = made.run([*tiny(0), WorkloadSource("no_such_family", {}), *tiny(2)])
    assert (summary.measured, summary.failed) == (1, 2)
    errors = [row.error for row in made.store.measurements(status="source_failed")]
    assert "a network needs channels" in errors[0] and "no_such_family" in errors[1]
    assert profiler().run(tiny(0)).results[0].reused


def test_outputs_with_infinity_are_no_label(profiler: Make) -> None:
    made = profiler()
    summary = made.run(tiny(2, size=9))
    assert summary.failed == 1
    assert made.store.count(status="wrong_output") == 1


def test_stale_labels_are_measured_again_and_replaced(
    profiler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = profiler()
    old.run(tiny(2, 3))
    monkeypatch.setenv("PLAIN_COMPILER_VERSION", "2")
    new = profiler()
    new.run(tiny(2))
    with pytest.raises(StoreError, match=r"mixes labels of 2 pipelines.*--remeasure-stale"):
        new.store.require_one_pipeline(new.device.name)
    summary = new.remeasure_stale()
    assert (summary.measured, summary.reused) == (1, 0)
    key, _ = new.store.require_one_pipeline(new.device.name)
    assert key == summary.pipeline_key and new.store.count() == 2
    assert new.remeasure_stale().measured == 0


def test_other_settings_are_not_stale(profiler: Make) -> None:
    profiler("raise").run(tiny(2))
    made = profiler()
    assert made.remeasure_stale().results == ()
    assert made.store.count(status=None) == 1


def test_interrupt_keeps_what_was_measured(profiler: Make) -> None:
    def sources() -> Iterator[Any]:
        yield from tiny(2)
        raise KeyboardInterrupt

    made = profiler()
    summary = made.run(sources())
    assert summary.interrupted and summary.measured == 1
    assert made.store.count() == 1


def test_labels_of_two_processors_do_not_mix(profiler: Make) -> None:
    made = profiler()
    made.run(tiny(2))
    facts = next(iter(made.store.environments().values()))
    (row,) = made.store.measurements()
    made.store.put_environment("other", facts | {"cpu": {"model name": "Another 9000"}})
    made.store.put_measurement(dataclasses.replace(row, environment_id="other"))
    with pytest.raises(StoreError, match=r"made on Another 9000.*another --store"):
        profiler().run(tiny(3))


def test_worker_without_a_compiler_says_what_to_install(profiler: Make) -> None:
    with pytest.raises(MissingDependencyError, match="pip install"):
        profiler(compiler="no_such_compiler").run(tiny(2))


def test_full_disk_is_told_and_nothing_is_half_written(profiler: Make, tmp_path: Path) -> None:
    store = Store(tmp_path / "small.db")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    big = dataclasses.replace(QUICK)
    with pytest.raises(StoreError, match=r"full.*free space"):
        profiler(store=store, measurement=big).run(tiny(*range(2, 12)))
    assert store.count(status=None) == len(list(store.measurements(status=None)))
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
