"""Stores of the first schema: read as they are, brought up to date in place, a copy kept."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.profiling.labels import DEVICE, PIPELINE, failure, measurement
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.label_files.networks import FORMAT, export_dataset, read_labels
from tvm_costmodel.profiling.measuring.record import Measurement
from tvm_costmodel.profiling.store import schema
from tvm_costmodel.profiling.store.schema import SCHEMA, SCHEMA_VERSION
from tvm_costmodel.profiling.store.store import Store

COLUMNS = {
    "graphs": "hash, json",
    "pipelines": "key, config",
    "environments": "id, facts",
    "sources": "key, graph_hash, family, source",
    "kernels": "hash, device, pipeline_key, protocol, name, latency_s, noise, flops, parameters",
    "measurements": "id, key, graph_hash, device, pipeline_key, protocol, family, source_key, "
    "status, error, latency_s, timing, kernels, unscheduled, environment_id, created_at, seconds",
}
ROWS = [measurement(4), failure(5), measurement(6)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A store as the first schema has it, with three rows."""
    with Store(tmp_path / "new.db") as store:
        store.put_environment("env", {"cpu": {"model name": "A"}})
        for row in ROWS:
            store.put_measurement(row)
    path = tmp_path / "old.db"
    text = SCHEMA.replace(", template TEXT, components TEXT", "")
    text = text.replace("seconds TEXT NOT NULL,\n    components TEXT", "seconds TEXT NOT NULL")
    assert "components" not in text
    with closing(sqlite3.connect(path)) as database:
        database.executescript(text)
        database.execute(f"ATTACH '{tmp_path / 'new.db'}' AS new")
        for table, names in COLUMNS.items():
            database.execute(f"INSERT INTO {table} SELECT {names} FROM new.{table}")
        database.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        database.execute("PRAGMA user_version = 1")
        database.commit()
    (tmp_path / "new.db").unlink()
    return path


def rows_of(path: Path) -> list[Measurement]:
    with Store(path, write=False) as store:
        return list(store.measurements(status=None))


def version_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as database:
        return int(database.execute("PRAGMA user_version").fetchone()[0])


def test_reading_changes_nothing(old: Path) -> None:
    before = old.read_bytes()
    assert rows_of(old) == ROWS
    assert {r.measured_s for r in read_labels(old).records} == {4e-3, 6e-3}
    with Store(old, write=False) as store:
        assert store.kernel("kernel4", DEVICE, PIPELINE, {"template/elementwise": 1})
        assert store.stale(DEVICE, PIPELINE, ROWS[0].pipeline) == []
    assert old.read_bytes() == before
    assert [path.name for path in old.parent.iterdir()] == ["old.db"]


@pytest.mark.parametrize("write", [False, True])
def test_devices_named_by_instruction_set_become_processors(old: Path, write: bool) -> None:
    """Two processors that shared a name are apart afterwards, each with the kernels it needs."""
    zen, xeon = (
        {"vendor_id": vendor, "cpu family": family, "model": model}
        for vendor, family, model in (("AuthenticAMD", "26", "2"), ("GenuineIntel", "6", "207"))
    )
    with closing(sqlite3.connect(old)) as database:
        for name, cpu in (("env", zen), ("other", xeon)):
            facts = (name, json.dumps({"cpu": cpu}))
            database.execute("INSERT OR REPLACE INTO environments VALUES (?, ?)", facts)
        for table in ("measurements", "kernels"):
            database.execute(f"UPDATE {table} SET device = 'cpu-x86-avx512-2t'")
        database.execute(
            "UPDATE measurements SET environment_id = 'other' WHERE graph_hash = ?",
            (ROWS[2].graph_hash,),
        )
        database.commit()
    names = {row.graph_hash: "cpu-amd-zen5-2t" for row in ROWS}
    names[ROWS[2].graph_hash] = "cpu-intel-emeraldrapids-2t"
    if write:
        Store(old).close()
    with Store(old, write=False) as store:
        rows = list(store.measurements(status=None))
        assert {row.graph_hash: row.device for row in rows} == names
        assert all(store.find(row.graph_hash, row.device) == row for row in rows if row.timing)
        assert [row.kernels for row in rows] == [row.kernels for row in ROWS]
        assert store.find(ROWS[0].graph_hash, "cpu-x86-avx512-2t") is None


def test_writing_migrates_once_and_keeps_a_copy(old: Path) -> None:
    Store(old).close()
    copy = old.with_name("old.db.schema1")
    assert version_of(old) == SCHEMA_VERSION == 2 and version_of(copy) == 1
    assert rows_of(old) == ROWS == rows_of(copy)
    kept = copy.read_bytes()
    with Store(old) as store:
        store.put_measurement(measurement(8, components={"template/elementwise": 1}))
    assert len(rows_of(old)) == 4 and copy.read_bytes() == kept
    assert sorted(path.name for path in old.parent.iterdir()) == ["old.db", "old.db.schema1"]
    with closing(sqlite3.connect(old)) as database:
        ((text,),) = database.execute(
            "SELECT components FROM measurements WHERE components IS NOT NULL"
        ).fetchall()
    assert json.loads(text) == {"template/elementwise": 1}


def test_a_migrated_store_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Store(old).close()
    Store(tmp_path / "fresh.db").close()

    def tables(path: Path) -> dict[str, list[tuple[str, str, int]]]:
        with closing(sqlite3.connect(path)) as database:
            return {
                table: [tuple(c[1:4]) for c in database.execute(f"PRAGMA table_info({table})")]
                for table in COLUMNS
            }

    assert tables(old) == tables(tmp_path / "fresh.db")


def test_a_migration_that_is_cut_off_is_done_by_the_next_one(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = old.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_FROM_1", (*schema._FROM_1, "ALTER TABLE none ADD COLUMN x TEXT"))
        with pytest.raises(Exception, match="no such table"):
            Store(old)
    assert old.read_bytes() == before and rows_of(old) == ROWS
    Store(old).close()
    assert version_of(old) == 2 and rows_of(old) == ROWS


def test_label_files_named_by_instruction_set_are_read_by_processor(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl.xz"
    with Store(tmp_path / "s.db") as store:
        for row in ROWS:
            store.put_measurement(row)
        export_dataset(store, path)
    header, *lines = FORMAT.read(path)
    zen = {"vendor_id": "AuthenticAMD", "cpu family": "26", "model": "2"}
    xeon = {"vendor_id": "GenuineIntel", "cpu family": "6", "model": "207"}
    header |= {"device": "cpu-x86-avx512", "environments": {"a": {"cpu": zen}}}
    FORMAT.write(path, (header, *lines))
    labels = read_labels(path, "cpu-amd-zen5")
    assert labels.device == "cpu-amd-zen5" and labels.machine["cpu"] == zen
    FORMAT.write(path, (header | {"environments": {"b": {"cpu": xeon}}}, *lines))
    assert read_labels(path).device == "cpu-intel-emeraldrapids"
    mixed = {"a": {"cpu": zen}, "b": {"cpu": xeon}}
    FORMAT.write(path, (header | {"environments": mixed}, *lines))
    with pytest.raises(StoreError, match="several processors under one name"):
        read_labels(path)
