"""A row is stale where something that its build used has changed, and then it answers nothing."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import pytest

from tests.profiling.labels import DEVICE, PIPELINE, failure, measurement, timing
from tvm_costmodel.compilers import components
from tvm_costmodel.compilers.components import COMPONENTS, full_record
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.label_files.networks import (
    export_dataset,
    import_dataset,
    read_labels,
)
from tvm_costmodel.profiling.label_files.variants import export_variants, read_variants
from tvm_costmodel.profiling.measuring.record import Measurement, measurement_key
from tvm_costmodel.profiling.sources import WorkloadSource
from tvm_costmodel.profiling.store.staleness import record_of_failure, stale_components
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.workloads import sample_suite

CONV = {"template/conv": 1, "template/pooling": 1, "pass/layout": 1}
DEPTHWISE = CONV | {"template/depthwise": 1}


def bump(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    table = tuple(
        dataclasses.replace(c, version=c.version + 1) if c.name in names else c
        for c in components.COMPONENTS["relax"]
    )
    monkeypatch.setitem(components.COMPONENTS, "relax", table)


@pytest.fixture(autouse=True)
def first_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates as they were when rows got records."""
    table = tuple(
        dataclasses.replace(c, version=1) if c.name.startswith("template/") else c
        for c in COMPONENTS["relax"]
    )
    monkeypatch.setitem(components.COMPONENTS, "relax", table)


@pytest.fixture(scope="module")
def networks() -> dict[str, Measurement]:
    """A row without a record of a ResNet and one of a MobileNet."""
    rows = {}
    for family in ("resnet", "mobilenet_v2"):
        ((_, params),) = list(sample_suite(family, 1, 0, ()))
        source = WorkloadSource(family, params)
        graph = source.load()[1]
        rows[family] = measurement(
            key=measurement_key(graph.hash, DEVICE, PIPELINE),
            graph_hash=graph.hash,
            graph=graph.to_json(),
            family=family,
            source=source.to_dict(),
            source_key=source.key,
            kernels=(),
        )
    return rows


def recorded(row: Measurement, used: dict[str, int]) -> Measurement:
    return dataclasses.replace(row, components=full_record("relax", used))


def test_a_changed_depthwise_template_concerns_mobilenets_alone(
    networks: dict[str, Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    resnet, mobilenet = networks["resnet"], networks["mobilenet_v2"]
    both = [
        (resnet, mobilenet),
        (recorded(resnet, CONV), recorded(mobilenet, DEPTHWISE)),
    ]
    assert [stale_components(row) for pair in both for row in pair] == [()] * 4
    bump(monkeypatch, "template/depthwise")
    for fresh, stale in both:
        assert stale_components(fresh) == ()
        assert stale_components(stale) == ("template/depthwise",)


def test_rows_without_a_record_are_judged_by_what_they_say(
    networks: dict[str, Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    resnet = networks["resnet"]
    bump(
        monkeypatch,
        "importer/onnx",
        "template/fallback",
        "template/winograd",
        "pass/mixed_precision",
        "pass/merge_matmuls",
    )
    assert stale_components(resnet) == ()
    onnx = dataclasses.replace(resnet, source={"kind": "file", "path": "a.onnx", "shapes": {}})
    assert stale_components(onnx) == ("importer/onnx",)
    saved = dataclasses.replace(resnet, source={"kind": "file", "path": "a.json", "shapes": {}})
    assert stale_components(saved) == ()
    plain = dataclasses.replace(resnet, unscheduled=("fused: no template",))
    assert stale_components(plain) == ("template/fallback",)
    half = dataclasses.replace(resnet, pipeline={"config": {"precision": "float16"}})
    assert stale_components(half) == ("pass/mixed_precision",)
    relay = dataclasses.replace(onnx, source={"kind": "workload", "compiler": "relay"})
    assert stale_components(relay) == ()


def test_a_failure_is_stale_where_it_may_have_met_the_change(
    networks: dict[str, Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    resnet, mobilenet = (
        dataclasses.replace(row, status="build_failed") for row in networks.values()
    )
    failed = [
        dataclasses.replace(row, components=record_of_failure(row)) for row in (resnet, mobilenet)
    ]
    bump(monkeypatch, "template/depthwise")
    assert [stale_components(row) for row in failed] == [(), ("template/depthwise",)]
    again = [dataclasses.replace(r, components=record_of_failure(r)) for r in failed]
    assert [stale_components(row) for row in again] == [(), ()]


@pytest.fixture
def store(tmp_path: Path, networks: dict[str, Measurement]) -> Path:
    """A store of both networks and a failure, with records."""
    path = tmp_path / "store.db"
    with Store(path) as opened:
        opened.put_measurement(recorded(networks["resnet"], CONV))
        opened.put_measurement(recorded(networks["mobilenet_v2"], DEPTHWISE))
        opened.put_measurement(dataclasses.replace(failure(5), components=full_record("relax", {})))
    return path


def test_records_survive_store_and_label_file(
    store: Path, tmp_path: Path, networks: dict[str, Measurement]
) -> None:
    mobilenet = recorded(networks["mobilenet_v2"], DEPTHWISE)
    with Store(store) as opened:
        assert opened.get(mobilenet.key) == mobilenet
        export_dataset(opened, tmp_path / "labels.jsonl.xz")
    with Store(tmp_path / "other.db") as other:
        assert import_dataset(other, tmp_path / "labels.jsonl.xz") == 3
        assert other.get(mobilenet.key) == mobilenet
    stored, filed = read_labels(store), read_labels(tmp_path / "labels.jsonl.xz")
    assert stored.hash == filed.hash and len(filed) == 2


def test_a_stale_label_answers_nothing(
    store: Path,
    tmp_path: Path,
    networks: dict[str, Measurement],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    exported = tmp_path / "labels.jsonl.xz"
    with Store(store, write=False) as opened:
        export_dataset(opened, exported)
    bump(monkeypatch, "template/depthwise")
    caplog.set_level(logging.INFO, logger="tvm_costmodel")
    resnet, mobilenet = networks.values()
    with Store(store, write=False) as opened:
        assert opened.find(resnet.graph_hash, DEVICE) is not None
        assert opened.find(mobilenet.graph_hash, DEVICE) is None
        assert "is stale (template/depthwise changed)" in caplog.text
        stale = opened.stale(DEVICE, PIPELINE, mobilenet.pipeline)
        assert stale == [(mobilenet.source_key, dict(mobilenet.source))]
        caplog.clear()
        export_dataset(opened, tmp_path / "fresh.jsonl.xz")
    for path in (store, exported):
        assert [r.family for r in read_labels(path).records] == ["resnet"]
        assert len(read_labels(path, keep_stale=True)) == 2
    assert [r.family for r in read_labels(tmp_path / "fresh.jsonl.xz").records] == ["resnet"]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert all("left out 1 label (template/depthwise 1)" in text for text in warnings)
    bump(monkeypatch, "template/depthwise", "template/conv")
    with pytest.raises(StoreError, match=r"all its labels are stale: 2 labels.*--remeasure-stale"):
        read_labels(store)


def test_stale_variants_are_left_out(
    tmp_path: Path, networks: dict[str, Measurement], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "variants.db"
    with Store(path) as store:
        for base in networks.values():
            used = DEPTHWISE if base.family == "mobilenet_v2" else CONV
            store.put_measurement(recorded(base, used))
            for number, algorithm in enumerate(("template/winograd", "template/im2col")):
                key = f"variant {number}"
                row = dataclasses.replace(
                    recorded(base, used | {algorithm: 1}),
                    key=measurement_key(base.graph_hash, DEVICE, key),
                    config_key=key,
                    pipeline={"config": {}, "decisions": {"operators": {"1": {"n": number}}}},
                    timing=timing(4e-3, baseline_blocks=((4e-3, 0.0015),)),
                )
                store.put_measurement(row)
    file = tmp_path / "variants.jsonl.xz"
    export_variants([path], file)
    bump(monkeypatch, "template/winograd")
    for place in (path, file):
        assert [len(record.good_variants) for record in read_variants(place).records] == [1, 1]
    bump(monkeypatch, "template/depthwise")
    for place in (path, file):
        assert [record.family for record in read_variants(place).records] == ["resnet"]
        kept = read_variants(place, keep_stale=True).records
        assert [len(group.good_variants) for group in kept] == [2, 2]


def test_old_label_files_have_no_record(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.xz"
    with Store(tmp_path / "store.db") as store:
        store.put_measurement(measurement(4))
        header = export_dataset(store, path)
    import lzma

    lines = [json.loads(line) for line in lzma.decompress(path.read_bytes()).splitlines()]
    assert not [line for line in lines if {"components", "template"} & line.keys()]
    assert header == lines[0]
    with Store(tmp_path / "other.db") as other:
        import_dataset(other, path)
        (row,) = other.measurements()
        assert row.components is None and row.kernels[0].components is None
