"""Profiling with Relay: on this machine, and on a board behind a real tracker on loopback."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.profiling.conftest import QUICK
from tests.rpc_board import board
from tvm_costmodel.cli import main
from tvm_costmodel.compilers.relay.config import RelayConfig
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.label_files.variants import read_variants
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.sources import WorkloadSource, source_from_dict
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.workloads import FAMILIES, sample_suite

COMPILER = "relay"
KEY = "loopback"
PARAMS = {"block": "basic", "classes": 4, "depths": [1], "image": 16, "stem": "small", "width": 8}


def tiny() -> WorkloadSource:
    return WorkloadSource("resnet", PARAMS, "relay")


def make(store: Path, **settings: object) -> Profiler:
    device = resolve_device("cpu").with_compiler("relay")
    chosen = {"device": device, "pipeline": {"random_constants": True}} | settings
    return Profiler(store=store, measurement=QUICK, compiler=COMPILER, progress=False, **chosen)  # type: ignore[arg-type]


def test_every_family_is_written_in_relay() -> None:
    written = {}
    for family, params in sample_suite("quick", len(FAMILIES), seed=1):
        _, graph = WorkloadSource(family, params, "relay").load()
        assert graph.unknown_ops == () and not graph.is_dynamic, family
        written[family] = graph
    assert sorted(written) == sorted(FAMILIES)
    assert {o.op for o in written["vit"].operators} >= {"dense", "matmul", "layer_norm", "softmax"}


def test_sources_keep_their_compiler() -> None:
    source = tiny()
    assert source_from_dict(source.to_dict()) == source
    usual = WorkloadSource("resnet", PARAMS)
    assert usual.key != source.key and "compiler" not in usual.to_dict()
    assert resolve_device("cpu-amd-zen4-relay").name == "cpu-amd-zen4-relay"


def test_networks_and_kernels_are_timed_here(tmp_path: Path) -> None:
    profiler = make(tmp_path / "store.db")
    summary = profiler.run([tiny()])
    (row,) = profiler.store.measurements(status=None)
    assert (summary.measured, summary.failed) == (1, 0), row.error
    assert row.device.endswith("-relay")
    assert row.config_key == RelayConfig(random_constants=True).key
    assert row.timing is not None and 1e-7 < row.timing.latency_s < 1e-1
    assert len(row.kernels) > 3 and all(kernel.latency_s > 0 for kernel in row.kernels)
    facts = profiler.store.environments()[row.environment_id]
    assert (facts["runner"], facts["executor"]) == ("local", "graph")
    assert facts["tvm"].startswith("hhb-tvm") and "x86_64" in facts["target"]
    assert make(tmp_path / "store.db").run([tiny()]).reused == 1


def test_doctor_finds_nothing_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    response = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check["found"] for check in response["checks"]}
    assert checks["TVM with Relay"] == "hhb-tvm 3.2.3" and "torch" not in checks
    assert "x86_64" in checks["LLVM target"]


def test_command_measures_and_exports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    relu = helper.make_node("Relu", ["x"], ["y"])
    graph = helper.make_graph(
        [relu],
        "small",
        [value("x", TensorProto.FLOAT, [1, "n"])],
        [value("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path, store = tmp_path / "small.onnx", tmp_path / "store.db"
    onnx.save(model, path)
    shape = ["--shape", "x=1,64"]
    common = ["--compiler", "relay", "--format", "json"]
    assert main(["export", str(path), *shape, *common, "-o", str(tmp_path / "g.json")]) == 0
    exported = json.loads(capsys.readouterr().out)
    assert (exported["nodes"], exported["unknown_ops"]) == (2, [])
    assert main(["profile", str(path), *shape, *common, "--store", str(store), "-q"]) == 0
    response = json.loads(capsys.readouterr().out)
    assert (response["measured"], response["failed"]) == (1, 0)
    assert response["networks"][0]["graph_hash"] == exported["graph_hash"]
    with Store(store, write=False) as held:
        assert next(iter(held.measurements())).source["compiler"] == "relay"


@pytest.mark.parametrize("command", ["export", "profile"])
def test_the_other_compiler_is_refused_in_one_line(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08")
    end = ["-o", "g.json"] if command == "export" else ["--store", str(tmp_path / "s.db")]
    assert main([command, str(path), *end]) == 2
    error = capsys.readouterr().err.strip()
    assert "hhb-tvm 3.2.3, which has Relay: add --compiler relay" in error
    assert "\n" not in error


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    """A tracker with one of our servers behind it; gives ``host:port``."""
    with board(KEY, any_arguments=True) as address:
        yield address


def test_networks_and_kernels_are_timed_on_a_board(tracker: str, tmp_path: Path) -> None:
    device = resolve_device("cpu").with_tracker(tracker, KEY).with_compiler("relay")
    profiler = make(tmp_path / "store.db", device=device)
    summary = profiler.run([tiny()])
    (row,) = profiler.store.measurements(status=None)
    assert (summary.measured, summary.failed) == (1, 0), row.error
    assert row.device.endswith("-rpc-relay")
    assert row.timing is not None and row.timing.cpu_s is None
    assert row.timing.reference_s > 1e-4
    assert len(row.kernels) > 3 and all(kernel.latency_s > 0 for kernel in row.kernels)
    facts = profiler.store.environments()[row.environment_id]
    assert (facts["runner"], facts["executor"], facts["key"]) == ("rpc", "graph", KEY)


def test_decided_networks_are_timed_with_drawn_constants(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, file = tmp_path / "store.db", tmp_path / "variants.jsonl.xz"
    take = ["--suite", "quick", "--families", "resnet", "--count", "1", "--variants", "1"]
    common = ["--compiler", "relay", "--store", str(store), "--format", "json", "-q"]
    assert main(["profile", *take, *common, "--export", str(file)]) == 0
    response = json.loads(capsys.readouterr().out)
    assert (response["measured"], response["failed"], response["exported"]) == (1, 0, 1)
    with Store(store, write=False) as held:
        rows = list(held.measurements())
    assert len(rows) == 2
    assert all(row.pipeline["config"]["random_constants"] for row in rows)
    (group,) = read_variants(file).records
    (variant,) = group.good_variants
    assert group.family == "resnet" and 0.05 < variant.ratio < 20
    assert math.isnan(variant.max_rel_err)  # outputs of drawn constants say nothing
