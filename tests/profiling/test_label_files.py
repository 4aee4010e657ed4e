"""Labels as a file: a round trip, equal bytes, and refusal of bad files."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

import pytest

from tests.profiling.labels import DEVICE, failure, measurement, timing
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.label_files.networks import export_dataset, import_dataset, read_labels
from tvm_costmodel.profiling.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "labels.db")
    store.put_environment("env", {"cpu": {"model name": "Test 1"}})
    for row in (measurement(6), measurement(4), failure(5)):
        store.put_measurement(row)
    return store


def test_store_and_file_give_the_same_labels(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.xz"
    header = export_dataset(store, path)
    assert (header["networks"], header["kernels"], header["statuses"]) == (
        2,
        2,
        {"build_failed": 1, "ok": 2},
    )
    from_store, from_file = read_labels(store.path), read_labels(path)
    assert from_file == from_store and from_file.hash == from_store.hash
    assert from_store.device == DEVICE and len(from_store) == 2
    assert from_store.environments == {"env": {"cpu": {"model name": "Test 1"}}}
    by_size = {record.source["params"]["size"]: record for record in from_store.records}
    assert by_size[4].measured_s == by_size[4].latency_s == 4e-3
    assert by_size[4].graph.operators[1].op == "relu"
    assert by_size[4].kernels[0].calls == 2


def test_import_gives_back_the_store(store: Store, tmp_path: Path) -> None:
    path, again = tmp_path / "one.jsonl.xz", tmp_path / "two.jsonl.xz"
    export_dataset(store, path)
    copy = Store(tmp_path / "copy.db")
    assert import_dataset(copy, path) == 3
    assert import_dataset(copy, path) == 0
    key = lambda row: row.key  # noqa: E731
    assert sorted(copy.measurements(status=None), key=key) == sorted(
        store.measurements(status=None), key=key
    )
    export_dataset(copy, again)
    assert again.read_bytes() == path.read_bytes()


def test_bytes_do_not_depend_on_the_order_of_measuring(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other.db")
    other.put_environment("env", {"cpu": {"model name": "Test 1"}})
    for row in (failure(5), measurement(4), measurement(6)):
        other.put_measurement(row)
    export_dataset(store, tmp_path / "a.jsonl.xz")
    export_dataset(other, tmp_path / "b.jsonl.xz")
    assert (tmp_path / "a.jsonl.xz").read_bytes() == (tmp_path / "b.jsonl.xz").read_bytes()


def test_labels_are_put_to_the_usual_speed_of_the_machine(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db")
    for size, slow in ((4, 1.0), (5, 1.0), (6, 1.25)):
        seconds = size * 1e-3 * slow
        label = timing(seconds, reference_s=1e-3 * slow, relative=float(size))
        store.put_measurement(measurement(size, timing=label))
    labels = read_labels(store.path)
    assert labels.reference_s == 1e-3
    by_size = {record.source["params"]["size"]: record for record in labels.records}
    assert (by_size[6].measured_s, by_size[6].latency_s) == (7.5e-3, 6e-3)
    assert (by_size[4].measured_s, by_size[4].latency_s) == (4e-3, 4e-3)


def test_several_devices_or_pipelines_must_be_named(store: Store) -> None:
    store.put_measurement(measurement(4, config_key="pipeline-2"))
    with pytest.raises(StoreError, match="mixes labels of 2 pipelines"):
        read_labels(store.path)
    assert len(read_labels(store.path, pipeline_key="pipeline-2")) == 1
    store.put_measurement(measurement(4, device="another"))
    with pytest.raises(StoreError, match=f"2 devices: another, {DEVICE}; name one"):
        read_labels(store.path)
    assert len(read_labels(store.path, device="another")) == 1


def test_empty_store_has_no_labels(tmp_path: Path) -> None:
    Store(tmp_path / "empty.db").close()
    with pytest.raises(StoreError, match="no labels"):
        read_labels(tmp_path / "empty.db")


def test_bad_files_are_refused(store: Store, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl.xz", tmp_path / "bad.jsonl.xz"
    export_dataset(store, good)
    with pytest.raises(StoreError, match="does not exist"):
        read_labels(tmp_path / "none.jsonl.xz")
    bad.write_bytes(good.read_bytes()[:-200])
    with pytest.raises(StoreError, match="damaged"):
        read_labels(bad)
    bad.write_bytes(b"plain text")
    with pytest.raises(StoreError, match=r"damaged or not an .xz label file"):
        read_labels(bad)
    bad.write_bytes(lzma.compress(b'{"format": "else"}\n'))
    with pytest.raises(StoreError, match="not a label file"):
        read_labels(bad)
    lines = lzma.decompress(good.read_bytes()).decode().splitlines()
    header = json.loads(lines[0]) | {"version": 99}
    bad.write_bytes(lzma.compress("\n".join([json.dumps(header), *lines[1:]]).encode()))
    with pytest.raises(StoreError, match="label format 99, this version reads 1"):
        read_labels(bad)
    with pytest.raises(StoreError, match="not 'another'"):
        read_labels(good, device="another")
