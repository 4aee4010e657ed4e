"""The store: one committed row for each measurement, and plain words about bad files."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
from pathlib import Path

import pytest

from tests.profiling.labels import DEVICE, PIPELINE, failure, measurement, timing
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.profiling.measuring.record import Measurement
from tvm_costmodel.profiling.store.schema import APPLICATION_ID, SCHEMA_VERSION
from tvm_costmodel.profiling.store.serialization import timing_from_dict
from tvm_costmodel.profiling.store.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def test_a_row_comes_back_as_it_went_in(path: Path) -> None:
    row = measurement(4)
    with Store(path) as store:
        store.put_measurement(row)
    with Store(path, write=False) as store:
        assert store.get(row.key) == row
        assert store.find(row.graph_hash, DEVICE) == row
        assert store.find(row.graph_hash, "another") is None
        assert list(store.measurements()) == [row]


def test_stored_names_of_timings_stay(path: Path) -> None:
    label = timing(4e-3, baseline_blocks=((3e-3, 0.0015),))
    with Store(path) as store:
        store.put_measurement(measurement(4, timing=label))
    with sqlite3.connect(path) as database:
        ((text,),) = database.execute("SELECT timing FROM measurements").fetchall()
    stored = json.loads(text)
    assert stored["visits"] == [[4e-3, 0.0015]] and stored["beside"] == [[3e-3, 0.0015]]
    assert not {"blocks", "baseline_blocks"} & stored.keys()
    assert timing_from_dict(stored) == label


def test_failures_are_rows(path: Path) -> None:
    store = Store(path)
    store.put_measurement(failure(5))
    assert store.count() == 0 and store.count(status=None) == 1
    (row,) = store.measurements(status="build_failed")
    assert (row.error, row.latency_s) == ("no", None)


def test_the_same_key_is_replaced_not_doubled(path: Path) -> None:
    store = Store(path)
    store.put_measurement(failure(4))
    store.put_measurement(measurement(4))
    store.put_measurement(measurement(4, timing=timing(0.5)))
    (row,) = store.measurements(status=None)
    assert (row.status, row.latency_s) == ("ok", 0.5)


def test_a_source_that_works_at_last_loses_its_failure(path: Path) -> None:
    store = Store(path)
    good = measurement(4)
    store.put_measurement(failure(4, key="by-source", graph_hash="", graph=""))
    store.put_measurement(good)
    assert [row.key for row in store.measurements(status=None)] == [good.key]


def test_reading_demands_one_pipeline(path: Path) -> None:
    store = Store(path)
    store.put_measurement(measurement(4))
    assert store.require_one_pipeline(DEVICE) == (PIPELINE, 1)
    store.put_measurement(measurement(4, config_key="pipeline-2"))
    store.put_measurement(measurement(5, config_key="pipeline-2"))
    with pytest.raises(StoreError) as caught:
        store.require_one_pipeline(DEVICE)
    assert "pipeline-2 (protocol 1): 2 labels, pipeline-1 (protocol 1): 1 labels" in str(
        caught.value
    )
    with pytest.raises(StoreError, match=f"no labels for device 'none'; it has: {DEVICE}"):
        store.require_one_pipeline("none")


def test_stale_rows_are_those_of_older_versions_of_the_same_settings(path: Path) -> None:
    store = Store(path)
    now = {"config": {"layout": "NHWC", "new": 1}, "rule_version": 2}
    other = {"config": {"layout": "NCHW"}, "rule_version": 2}
    store.put_measurement(measurement(4))
    store.put_measurement(measurement(5))
    store.put_measurement(measurement(6, config_key="other", pipeline=other))
    store.put_measurement(measurement(4, config_key="now", pipeline=now))
    stale = store.stale(DEVICE, "now", now)
    assert [source["params"]["size"] for _, source in stale] == [5]
    assert store.delete_superseded(DEVICE, "now", now) == 1
    assert sorted(row.config_key for row in store.measurements()) == ["now", "other", "pipeline-1"]


def test_known_kernels_are_found_by_hash_device_and_pipeline(path: Path) -> None:
    store = Store(path)
    store.put_measurement(measurement(4))
    assert store.kernel("kernel5", DEVICE, PIPELINE) is None
    assert store.kernel("kernel4", "another", PIPELINE) is None
    kernel = store.kernel("kernel4", DEVICE, PIPELINE)
    assert kernel is not None and (kernel.calls, kernel.latency_s) == (1, 16e-4)
    assert store.kernel("kernel4", DEVICE, PIPELINE, {"template/elementwise": 1}) == kernel
    assert store.kernel("kernel4", DEVICE, PIPELINE, {"template/elementwise": 2}) is None


def test_kernels_are_known_by_what_made_them(path: Path) -> None:
    made = {"template/elementwise": 2, "emit/exp": 1}
    row = measurement(4)
    kernel = dataclasses.replace(row.kernels[0], template="elementwise", components=made)
    with Store(path) as store:
        store.put_measurement(dataclasses.replace(row, kernels=(kernel,)))
        assert store.kernel("kernel4", DEVICE, PIPELINE) == dataclasses.replace(kernel, calls=1)
        assert store.kernel("kernel4", DEVICE, PIPELINE, made) is not None
        for other in ({"template/elementwise": 2}, made | {"emit/exp": 2}, made | {"emit/pow": 1}):
            assert store.kernel("kernel4", DEVICE, PIPELINE, other) is None


def test_reading_what_is_not_there_creates_nothing(path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist; make one with"):
        Store(path, write=False)
    assert not path.exists()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", "newer than this version's.*pip install"),
        ("PRAGMA user_version = 0", "schema 0, which no version of this package wrote"),
        ("PRAGMA application_id = 7", "SQLite file of another program"),
    ],
)
def test_foreign_and_other_schemas_are_refused(path: Path, statement: str, words: str) -> None:
    Store(path).close()
    raw = sqlite3.connect(path)
    raw.execute(statement)
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=words):
        Store(path)
    assert path.read_bytes() == before


def test_files_that_are_no_database(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"not a database, whatever its name says" * 50)
    with pytest.raises(StoreError, match="not a measurement store"):
        Store(path)
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="folder must exist and be writable"):
        Store(tmp_path / "no" / "such" / "folder.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="writable"):
        Store(tmp_path / "store.db")


def test_read_only_store_refuses_rows(path: Path) -> None:
    Store(path).close()
    with pytest.raises(StoreError, match=r"readonly.*choose another path"):
        Store(path, write=False).put_measurement(measurement(4))


def test_full_disk_keeps_what_was_committed(path: Path) -> None:
    store = Store(path)
    store.put_measurement(measurement(4))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    huge = {"kind": "workload", "noise": "".join(chr(65 + i % 26) for i in range(200_000))}
    with pytest.raises(StoreError, match=r"full.*every row committed so far is kept") as caught:
        store.put_measurement(measurement(5, source=huge))
    assert caught.value.exit_code == 2
    store.close()
    assert [row.key for row in Store(path).measurements()] == [measurement(4).key]


def test_two_writers_wait_for_each_other(path: Path) -> None:
    one, two = Store(path), Store(path)
    one.put_measurement(measurement(4))
    two.put_measurement(measurement(5))
    assert one.count() == two.count() == 2


def test_summary_counts_by_pipeline(path: Path) -> None:
    store = Store(path)
    for row in (measurement(4), measurement(6), failure(5)):
        store.put_measurement(row)
    (summary,) = store.summary()
    assert dataclasses.astuple(summary) == (DEVICE, PIPELINE, 1, 2, 1)


def test_schema_identity_is_written(path: Path) -> None:
    Store(path).close()
    raw = sqlite3.connect(path)
    assert raw.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert raw.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID


def variant(size: int = 4, key: str = "variant", **changes: object) -> Measurement:
    """A row of a network under decisions: its settings contain the default ones."""
    pipeline = {
        "config": {"layout": "NHWC", "kernels": {"1": {"vectors_per_tile": 2}}},
        "rule_version": 1,
        "decisions": {"operators": {"1": {"vectors": 2}}},
    }
    late = {"created_at": "2026-01-01T00:00:00+00:00", "timing": timing(1e-6)}
    return measurement(size, config_key=key, pipeline=pipeline, **late, **changes)


def test_variants_are_no_labels_of_default_builds(path: Path) -> None:
    store = Store(path)
    plain, other = measurement(4), variant(4)
    for row in (plain, other, variant(5, "variant-2")):
        store.put_measurement(row)
    assert store.find(plain.graph_hash, DEVICE) == plain
    assert store.find(plain.graph_hash, DEVICE, "variant") == other
    assert store.find(variant(5).graph_hash, DEVICE) is None
    assert store.require_one_pipeline(DEVICE) == (PIPELINE, 1)
    assert [s.pipeline_key for s in store.summary()] == [PIPELINE]
    assert len(store.summary(variants=True)) == 3
    assert [row.config_key for row in store.measurements(variants=False)] == [PIPELINE]
    assert [row.config_key for row in store.measurements(variants=True)] == ["variant", "variant-2"]
    assert len(list(store.measurements())) == 3


def test_variants_are_not_stale_and_not_superseded(path: Path) -> None:
    store = Store(path)
    store.put_measurement(variant(4))
    now = {"config": {"layout": "NHWC"}, "rule_version": 2}
    store.put_measurement(measurement(4, config_key="now", pipeline=now))
    assert store.stale(DEVICE, "now", now) == []
    assert store.delete_superseded(DEVICE, "now", now) == 0
    assert store.count() == 2


def test_a_label_set_leaves_variants_out_unless_one_is_named(path: Path) -> None:
    with Store(path) as store:
        store.put_measurement(measurement(4))
        store.put_measurement(variant(4))
    plain = read_labels(path)
    assert (plain.pipeline_key, [r.measured_s for r in plain.records]) == (PIPELINE, [4e-3])
    assert [r.measured_s for r in read_labels(path, DEVICE, "variant").records] == [1e-6]


def test_results_of_tuning_are_stored_with_the_rows(path: Path) -> None:
    with Store(path) as store:
        store.put_measurement(measurement(4))
        assert store.tuned("a") is None
        store.put_tuned("a", {"candidate": {}, "speedup": 1.0})
        store.put_tuned("a", {"candidate": {"network": {"layout": "NCHW"}}, "speedup": 1.5})
    with Store(path, write=False) as store:
        assert store.tuned("a") == {
            "candidate": {"network": {"layout": "NCHW"}},
            "speedup": 1.5,
        }
        assert store.tuned("b") is None and store.count() == 1


def test_a_store_from_before_tuning_is_read_without_change(path: Path) -> None:
    with Store(path) as store:
        store.put_measurement(measurement(4))
    before = path.read_bytes()
    with Store(path, write=False) as store:
        assert store.tuned("a") is None
    assert path.read_bytes() == before
