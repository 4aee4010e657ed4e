"""Rows that no measurement gives are refused in one line, wherever they come from."""

from __future__ import annotations

import dataclasses
import json
import lzma
import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.profiling.labels import DEVICE, measurement, relu_graph, timing
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.label_files.networks import (
    export_dataset,
    import_dataset,
    read_labels,
)
from tvm_costmodel.profiling.label_files.variants import FORMAT, read_variants
from tvm_costmodel.profiling.store.store import Store

NAN = math.nan
BAD_TIMINGS: dict[str, tuple[dict[str, Any], str]] = {
    "negative": ({"latency_s": -1.0}, "latency_s is -1.0, not 1e-09 to 10000 seconds"),
    "zero": ({"latency_s": 0.0}, "latency_s is 0.0"),
    "nan": ({"latency_s": NAN}, "latency_s is nan"),
    "infinite": ({"latency_s": math.inf}, "latency_s is inf"),
    "absurdly long": ({"latency_s": 1e200}, "latency_s is 1e[+]200"),
    "absurdly short": ({"latency_s": 1e-12}, "latency_s is 1e-12"),
    "text": ({"latency_s": "fast"}, "latency_s is fast|damaged"),
    "yes": ({"latency_s": True}, "latency_s is True"),
    "inverted": ({"quantiles": {"p10": 3e-3, "p50": 2e-3, "p90": 1e-3}}, "do not rise"),
    "minimum above all": ({"quantiles": {"p10": 1e-3, "p50": 1e-3, "p90": 1e-3}}, "do not rise"),
    "nan quantile": ({"quantiles": {"p10": 4e-3, "p50": NAN, "p90": 5e-3}}, "p50 of its quant"),
    "nan repeat": ({"repeats": (4e-3, NAN)}, "repeat 1 is nan"),
    "negative block": ({"blocks": ((-4e-3, 0.0015),)}, "latency of block 0 is -0.004"),
    "no reference": ({"blocks": ((4e-3, 0.0),)}, "reference of block 0 is 0.0"),
    "zero reference": ({"reference_s": 0.0}, "reference_s is 0.0"),
    "relative": ({"relative": -2.0}, "relative is -2.0, not a positive number"),
    "noise": ({"noise": NAN}, "noise is nan, not 0 or more"),
}


def stored(path: Path, changes: dict[str, Any]) -> None:
    """A store with one row, whose timing is changed behind the store's back."""
    with Store(path) as store:
        store.put_measurement(measurement(4))
    names = {"blocks": "visits"}
    with closing(sqlite3.connect(path)) as database:
        ((text,),) = database.execute("SELECT timing FROM measurements").fetchall()
        record = json.loads(text) | {names.get(k, k): v for k, v in changes.items()}
        database.execute("UPDATE measurements SET timing = ?", (json.dumps(record),))
        database.commit()


@pytest.mark.parametrize("name", BAD_TIMINGS)
def test_timings(name: str, tmp_path: Path) -> None:
    changes, words = BAD_TIMINGS[name]
    row, path = (
        measurement(4, timing=dataclasses.replace(timing(4e-3), **changes)),
        tmp_path / "store.db",
    )
    with Store(tmp_path / "other.db") as store:
        with pytest.raises(StoreError, match=words) as caught:
            store.put_measurement(row)
        assert store.count(status=None) == 0 and "\n" not in str(caught.value)
    stored(path, changes)
    for read in (
        lambda: Store(path, write=False).find(row.graph_hash, DEVICE),
        lambda: read_labels(path),
        lambda: export_dataset(Store(path, write=False), tmp_path / "labels.jsonl.xz"),
    ):
        with pytest.raises(StoreError, match=words) as caught:
            read()
        message = str(caught.value)
        assert row.key in message and "DELETE FROM measurements WHERE key" in message
        assert "\n" not in message


def label_file(path: Path, **changes: Any) -> Path:
    """A label file of two networks, the second with other fields."""
    with Store(path.with_suffix(".db")) as store:
        for size in (4, 6):
            store.put_measurement(measurement(size))
        export_dataset(store, path)
    with lzma.open(path, "rt") as stream:
        lines = [json.loads(line) for line in stream]
    lines[-1] = lines[-1] | changes
    with lzma.open(path, "wt") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timing": {"latency_s": 1e200}}, "latency_s is 1e[+]200"),
        ({"timing": {"quantiles": {"p10": 2.0, "p50": 1.0, "p90": 0.5}}}, "do not rise"),
        ({"status": "great"}, "status 'great' is none of ok"),
        ({"graph_hash": "0" * 32}, f"has the hash [0-9a-f]{{32}}, not {'0' * 32}"),
        ({"graph": json.loads(relu_graph(9).to_json())}, "its graph has the hash"),
    ],
)
def test_label_files(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.xz"
    if "timing" in changes:
        record = json.loads(json.dumps(dataclasses.asdict(measurement(6).timing)))  # type: ignore[arg-type]
        record["visits"] = record.pop("blocks")
        record["beside"] = record.pop("baseline_blocks")
        changes = {"timing": record | changes["timing"]}
    label_file(path, **changes)
    with pytest.raises(StoreError, match=words) as caught:
        read_labels(path)
    assert "row " in str(caught.value) and "\n" not in str(caught.value)
    with Store(tmp_path / "other.db") as other:
        with pytest.raises(StoreError, match=words):
            import_dataset(other, path)
        assert other.count(status=None) == 0


def test_kernels_and_graphs_of_a_store(tmp_path: Path) -> None:
    path, row = tmp_path / "store.db", measurement(4)
    with Store(path) as store:
        bad = dataclasses.replace(row.kernels[0], latency_s=-1.0)
        with pytest.raises(StoreError, match=r"kernel relu takes -1.0 s"):
            store.put_measurement(dataclasses.replace(row, kernels=(bad,)))
        with pytest.raises(StoreError, match=r"its graph has the hash .*nothing was stored"):
            store.put_measurement(dataclasses.replace(row, graph=relu_graph(5).to_json()))
        store.put_measurement(row)
        store.put_measurement(measurement(5))
    with closing(sqlite3.connect(path)) as database:
        database.execute(
            "UPDATE graphs SET json = (SELECT json FROM graphs WHERE hash = ?) WHERE hash = ?",
            (measurement(5).graph_hash, row.graph_hash),
        )
        database.commit()
    with pytest.raises(StoreError, match=f"row {row.key}.*its graph has the hash"):
        read_labels(path)
    with Store(path) as store:
        with pytest.raises(StoreError, match="its graph has the hash"):
            store.find(row.graph_hash, DEVICE)
        store.put_measurement(row)  # measured again
        assert store.find(row.graph_hash, DEVICE) == row
    with closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE graphs SET json = x'00' WHERE hash = ?", (row.graph_hash,))
        database.commit()
    with pytest.raises(StoreError, match=f"row {row.key} is damaged.*its graph"):
        read_labels(path)


def test_variants(tmp_path: Path) -> None:
    graph = relu_graph(4)
    good = {
        "graph_hash": graph.hash,
        "graph": json.loads(graph.to_json()),
        "family": "relu",
        "source": {},
        "latency_s": 1e-3,
        "variants": [{"decisions": {"network": {"layout": "NCHW"}}, "status": "ok", "ratio": 1.1}],
    }
    header = {
        "format": FORMAT.name,
        "version": FORMAT.version,
        "device": DEVICE,
        "pipeline_key": "p",
        "reference_s": 1e-3,
    }
    path = tmp_path / "variants.jsonl.xz"
    FORMAT.write(path, [header, good])
    assert [v.ratio for v in read_variants(path).records[0].good_variants] == [1.1]
    variant = good["variants"][0]
    for changes, words in (
        ({"latency_s": -1.0}, "latency_s is -1.0"),
        ({"latency_s": 1e200}, r"latency_s is 1e\+200"),
        ({"variants": [variant | {"ratio": 0.0}]}, "a variant takes 0.0 of the baseline's time"),
        ({"variants": [{**variant, "ratio": NAN}]}, "a variant takes nan"),
        ({"graph_hash": "0" * 32}, "its graph has the hash"),
        ({"variants": 3}, "is damaged"),
    ):
        FORMAT.write(path, [header, good | changes])
        with pytest.raises(StoreError, match=words):
            read_variants(path)
    FORMAT.write(path, [{k: v for k, v in header.items() if k != "reference_s"}, good])
    with pytest.raises(StoreError, match="its header lacks reference_s; export it again"):
        read_variants(path)
