"""Runs of the profiler with real workers: resuming, failures, staleness, interrupts."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.profiling.conftest import QUICK
from tests.profiling.labels import timing
from tvm_costmodel.errors import MissingDependencyError, ModelFileError, StoreError
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.sources import FileSource, WorkloadSource
from tvm_costmodel.profiling.store.store import Store

Make = Callable[..., Profiler]


def tiny(*channels: int, size: int = 8, fault: str = "") -> list[Any]:
    from plain_compiler import TinySource  # type: ignore[import-not-found]

    return [TinySource(n, size, fault) for n in channels]


def test_measures_once_then_reuses(make_profiler: Make) -> None:
    sources = tiny(4, 8, 4)
    profiler = make_profiler()
    first = profiler.run(sources)
    assert (first.measured, first.reused, first.failed) == (2, 1, 0)
    row = next(profiler.store.measurements())
    assert row.timing is not None and 1e-7 < row.timing.latency_s < 1e-2
    assert row.timing.latency_s == min(row.timing.repeats)
    assert row.timing.cpu_s is not None and row.timing.cpu_s > 0
    assert 1e-4 < row.timing.reference_s < 1.0 and len(row.timing.blocks) == 2
    assert row.kernels[0].latency_s > 0 and row.kernels[0].calls == 1
    assert row.kernels[0].parameters[-1] == ((1, 4, 8, 8), "float32")
    facts = profiler.store.environments()[row.environment_id]
    assert facts["packages"]["apache-tvm"] and facts["llvm"] and facts["cpu"]
    assert row.seconds.keys() >= {"source", "build", "network", "kernels"}

    kernels = list(profiler.store.kernels())
    again = make_profiler().run(sources, count=2)
    assert (again.measured, again.reused, again.stopped) == (0, 2, "count")
    assert [r.latency_s for r in again.results] == [r.latency_s for r in first.results[:2]]
    assert list(profiler.store.kernels()) == kernels


def test_faults_are_rows_and_the_run_goes_on(make_profiler: Make) -> None:
    profiler = make_profiler(measurement=dataclasses.replace(QUICK, build_timeout_s=3.0))
    sources = [
        *tiny(2, fault="raise"),
        *tiny(3, fault="crash"),
        *tiny(5, fault="hang"),
        *tiny(0),
        WorkloadSource("no_such_family", {}),
        *tiny(2, size=9),
        *tiny(6),
    ]
    summary = profiler.run(sources)
    assert (summary.measured, summary.failed) == (1, 6)
    rows = list(profiler.store.measurements(status=None))
    assert [row.status for row in rows] == [
        "build_failed",
        "build_failed",
        "build_timeout",
        "source_failed",
        "source_failed",
        "wrong_output",
        "ok",
    ]
    assert "ValueError: no such thing" in rows[0].error
    assert "killed by SIGABRT" in rows[1].error and "about to crash" in rows[1].error
    assert "no end after 3 s" in rows[2].error
    assert "a network needs channels" in rows[3].error and "no_such_family" in rows[4].error
    assert "NaN or infinity" in rows[5].error
    assert rows[0].graph_hash and rows[0].latency_s is None and not rows[3].graph_hash
    assert profiler._worker.starts == 3

    remembered = make_profiler().run([sources[0], sources[3]])
    assert remembered.failed == 2 and all(r.reused for r in remembered.results)
    retried = make_profiler(retry_failed=True).run([sources[0], sources[3]])
    assert retried.failed == 2 and not any(r.reused for r in retried.results)
    assert profiler.store.count(status=None) == 7


def test_a_worker_that_takes_all_memory_is_stopped(make_profiler: Make) -> None:
    profiler = make_profiler(measurement=dataclasses.replace(QUICK, memory_limit_mib=1200))
    assert profiler.run(tiny(2, fault="memory")).failed == 1
    (row,) = profiler.store.measurements(status="build_failed")
    assert "MiB of memory, over 1200 MiB" in row.error


def test_stale_labels_are_measured_again_and_replaced(
    make_profiler: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_profiler().run(tiny(2, 3))
    make_profiler(pipeline={"choice": "another"}).run(tiny(2))
    monkeypatch.setenv("PLAIN_COMPILER_VERSION", "2")
    new = make_profiler()
    new.run(tiny(2))
    with pytest.raises(StoreError, match=r"mixes labels of 3 pipelines.*--remeasure-stale"):
        new.store.require_one_pipeline(new.device.name)
    summary = new.remeasure_stale()
    assert (summary.measured, summary.reused) == (1, 0)
    counts = {(s.pipeline_key, s.ok) for s in new.store.summary()}
    other = next(key for key, count in counts if key != summary.pipeline_key)
    assert counts == {(summary.pipeline_key, 2), (other, 1)}


def test_labels_of_changed_components_are_measured_again(make_profiler: Make) -> None:
    profiler = make_profiler(compiler="plain_compiler:RELAX")
    assert profiler.run(tiny(2, 3)).measured == 2
    old, _fresh = profiler.store.measurements()
    assert old.components is not None
    used = {name for name, version in old.components.items() if version}
    assert {"template/conv", "pass/layout"} <= used and "template/depthwise" not in used
    assert old.components["template/depthwise"] == 0
    (made,) = {tuple(k.components or ()) for k in old.kernels if k.template == "channels_last"}
    assert made == ("template/conv",)
    kernels = tuple(
        dataclasses.replace(k, latency_s=1e-9, components={"template/conv": 0}) for k in old.kernels
    )
    older = dict(old.components) | {"template/conv": 99}
    profiler.store.put_measurement(
        dataclasses.replace(old, components=older, kernels=kernels, timing=timing(1.0))
    )
    summary = make_profiler(compiler="plain_compiler:RELAX").run(tiny(2, 3))
    assert [r.reused for r in summary.results] == [False, True]
    again = profiler.store.get(old.key)
    assert again is not None and again.components == old.components
    assert again.latency_s is not None and again.latency_s < 0.1
    made = {kernel.hash: kernel.components for kernel in old.kernels}
    assert {kernel.hash: kernel.components for kernel in again.kernels} == made
    assert all(kernel.latency_s > 1e-8 for kernel in again.kernels)


def test_a_row_that_no_measurement_gives_is_measured_again(
    make_profiler: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING", logger="tvm_costmodel")
    profiler = make_profiler()
    profiler.run(tiny(2, 3))
    with sqlite3.connect(profiler.store.path) as database:
        database.execute("UPDATE measurements SET timing = json_set(timing, '$.latency_s', -1.0)")
        database.execute("UPDATE kernels SET latency_s = -1.0")
    assert profiler.run(tiny(2)).measured == 1
    assert "latency_s is -1.0, not 1e-09 to 10000 seconds" in caplog.text
    assert profiler.remeasure_stale().measured == 1
    rows = list(profiler.store.measurements())
    assert len(rows) == 2 and all(row.latency_s and row.latency_s > 0 for row in rows)
    assert all(kernel.latency_s > 0 for row in rows for kernel in row.kernels)


def test_noisy_labels_are_measured_again(make_profiler: Make) -> None:
    profiler = make_profiler()
    profiler.run(tiny(2, 3))
    quiet, noisy = profiler.store.measurements()
    for row, loud in ((quiet, False), (noisy, True)):
        slow = timing(1.0, quiet=not loud)
        slow_kernels = tuple(dataclasses.replace(k, latency_s=1.0) for k in row.kernels)
        profiler.store.put_measurement(dataclasses.replace(row, timing=slow, kernels=slow_kernels))
    summary = profiler.remeasure_noisy()
    assert (summary.measured, len(summary.results)) == (1, 1)
    unchanged, again = (profiler.store.get(row.key) for row in (quiet, noisy))
    assert unchanged is not None and again is not None
    assert unchanged.latency_s == 1.0 and again.latency_s is not None and again.latency_s < 0.1
    assert again.kernels[0].latency_s < 0.1


def test_interrupt_keeps_what_was_measured(make_profiler: Make) -> None:
    def sources() -> Iterator[Any]:
        yield from tiny(2)
        raise KeyboardInterrupt

    profiler = make_profiler()
    summary = profiler.run(sources())
    assert summary.interrupted and summary.measured == 1
    assert profiler.store.count() == 1
    late = profiler.run(tiny(3), minutes=1e-9)
    assert (late.measured, late.stopped) == (0, "minutes")

    facts = next(iter(profiler.store.environments().values()))
    (row,) = profiler.store.measurements()
    profiler.store.put_environment("other", facts | {"cpu": {"model name": "Another 9000"}})
    profiler.store.put_measurement(dataclasses.replace(row, environment_id="other"))
    with pytest.raises(StoreError, match=r"made on Another 9000.*another --store"):
        make_profiler().run(tiny(3))


def test_worker_without_a_compiler_says_what_to_install(make_profiler: Make) -> None:
    with pytest.raises(MissingDependencyError, match="pip install"):
        make_profiler(compiler="no_such_compiler:COMPILER").run(tiny(2))


def test_a_bad_model_file_is_an_error_at_once(make_profiler: Make, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not a model")
    profiler = make_profiler()
    with pytest.raises(ModelFileError, match=r"broken.onnx"):
        profiler.run([*tiny(2), FileSource(str(path))])
    assert profiler.store.count() == profiler.store.count(status=None) == 1


def test_a_full_disk_is_reported_and_nothing_is_half_written(
    make_profiler: Make, tmp_path: Path
) -> None:
    store = Store(tmp_path / "small.db")
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match=r"full.*free space"):
        make_profiler(store=store).run(tiny(*range(2, 12)))
    assert store.count(status=None) == len(list(store.measurements(status=None)))
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
