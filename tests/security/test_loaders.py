"""Files that would run code, fill the memory or crash a parser: one line, and nothing has run."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.security.mutations import BOARD, network, shared_faults
from tests.security.running import run_command
from tvm_costmodel.errors import (
    CheckpointError,
    ConfigError,
)
from tvm_costmodel.models import ZOO
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.tree_files import read_booster
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.sources import FileSource, WorkloadSource, stored_sources

FAULTS = shared_faults()
INPUTS = sorted(path.name for path in (FAULTS / "inputs").glob("*")) or ["(none)"]
GRAPHS = sorted(path.stem for path in (FAULTS / "graphs").glob("*.json")) or ["(none)"]
POSSIBLE = ("batch1", "dead", "scalar", "unknown")


@pytest.mark.parametrize("name", INPUTS)
def test_known_damaged_inputs_are_refused_in_one_line(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    source = FAULTS / "inputs" / name
    if not source.is_dir():
        pytest.skip(f"no {source}")
    folder = tmp_path / "w"
    shutil.copytree(source, folder)
    argv = [a.replace("{W}", str(folder)) for a in json.loads((source / "ARGV").read_text())]
    if argv[0] == "predict":
        argv += ["--device", BOARD]
    what, text = run_command(argv)
    assert what == "refused", text


@pytest.mark.parametrize("name", GRAPHS)
def test_odd_graphs_are_refused_unless_a_network_can_be_like_that(name: str) -> None:
    path = FAULTS / "graphs" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    what, text = run_command(
        ["predict", str(path), "--checkpoint", f"{BOARD}/flops", "--device", BOARD]
    )
    assert what == ("accepted" if name in POSSIBLE else "refused"), text


def _tree(record: dict[str, Any]) -> dict[str, Any]:
    return record["learner"]["gradient_booster"]["model"]["trees"][0]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: _tree(r)["left_children"].__setitem__(0, 10**6),
        lambda r: _tree(r)["left_children"].__setitem__(3, 0),
        lambda r: _tree(r)["split_indices"].__setitem__(0, 10**6),
        lambda r: _tree(r)["split_conditions"].pop(),
        lambda r: _tree(r)["tree_param"].update(num_nodes="999999999"),
        lambda r: r["learner"]["gradient_booster"]["model"]["tree_info"].__setitem__(0, 7),
        lambda r: r["learner"]["learner_model_param"].update(num_feature="1"),
        lambda r: r["learner"].update(gradient_booster=[]),
    ],
)
def test_trees_that_crash_xgboost_are_refused(change: Callable[[Any], Any], tmp_path: Path) -> None:
    pytest.importorskip("xgboost")
    record = json.loads((ZOO / BOARD / "xgboost" / "model.json").read_text())
    change(record)
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="holds no trees"):
        read_booster(tmp_path / "model.json")


def checkpoint(folder: Path, **changes: Any) -> Path:
    shutil.copytree(ZOO / BOARD / "flops", folder)
    card = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps(card | changes))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interval": {"low": 1.3, "high": 0.8, "coverage": 0.9, "n": 9}}, "no interval"),
        ({"interval": {"low": -1.0, "high": 2.0, "coverage": 0.9, "n": 9}}, "no interval"),
        ({"interval": {"low": "1", "high": 2, "coverage": 0.9, "n": 9}}, "low is '1'"),
        ({"interval": {"low": 0.9, "high": 1.1, "coverage": 90, "n": 9}}, "covers 90"),
        ({"device": " "}, "device is empty"),
        ({"device": 7}, "device is 7"),
        ({"families": "all"}, "families is 'all'"),
        ({"weights": {"file": "../model.json", "sha256": ""}}, "outside"),
        ({"weights": []}, "weights is"),
        ({"model": 3}, "model is 3"),
    ],
)
def test_cards_with_fields_that_lie_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_predictor(checkpoint(tmp_path / "ck", **changes))


@pytest.mark.parametrize("constant", [-700.0, 700.0])
def test_answers_that_are_no_latencies_are_refused(constant: float, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ck")
    content = json.dumps({"coefficients": [constant, 0.7, 0.2]}).encode()
    (folder / "model.json").write_bytes(content)
    card = json.loads((folder / "checkpoint.json").read_text())
    card["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "checkpoint.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="which is no latency"):
        load_predictor(folder).predict(network())


@pytest.mark.parametrize("coefficients", [[1, 2], [1, 2, "x"], [[1, 2, 3]], "[]", 1, None])
def test_weights_of_other_shapes_are_refused(coefficients: Any, tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ck")
    content = json.dumps({"coefficients": coefficients}).encode()
    (folder / "model.json").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    card = json.loads((folder / "checkpoint.json").read_text())
    card["weights"] = {"file": "model.json", "sha256": digest}
    (folder / "checkpoint.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="train it again"):
        load_predictor(folder)


@pytest.mark.parametrize(
    "line",
    ["threads = '2'", "threads = 1000000", "target = 3", "name = ''", "tracker = 1",
     "session_timeout_s = -1", "target.mcpu = {a = 1}",
     "cross_compiler = '/tmp/g++'", "cross_compiler = './clang++'", "cross_compiler = 'touch'",
     "cross_compiler = 'g++ -x c'",
     "target.cl-opt = ['-load=x.so']"],
)  # fmt: skip
def test_device_files_have_types(line: str, tmp_path: Path) -> None:
    (tmp_path / "d.toml").write_text(line + "\n")
    with pytest.raises(ConfigError, match="device"):
        resolve_device(str(tmp_path / "d.toml"))


def test_a_store_names_no_files_outside_of_named_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("here", "elsewhere", "store/networks"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    store = tmp_path / "store" / "s.db"
    paths = ["a.onnx", "../elsewhere/b.onnx", str(tmp_path / "store/networks/c.onnx")]
    records = [{"kind": "file", "path": path} for path in paths]
    records.append({"kind": "workload", "family": "resnet", "params": {}})
    sources = stored_sources(records, store)
    assert [s.path for s in sources if isinstance(s, FileSource)] == ["a.onnx", paths[2]]
    assert sum(isinstance(s, WorkloadSource) for s in sources) == 1
    assert "../elsewhere/b.onnx" in caplog.text and "--models-in" in caplog.text
    assert len(stored_sources(records, store, [tmp_path / "elsewhere"])) == 4


@pytest.mark.parametrize(
    ("predictor", "name", "value"),
    [
        ("roofline_former", "network.channels", 10**9),
        ("roofline_former", "network.blocks", 10**9),
        ("roofline_former", "network.channels", -64),
        ("roofline_former", "network.heads", 0),
        ("roofline_former", "network.slots", 10**12),
        ("roofline_former", "members", 10**9),
        ("roofline_former", "members", -1),
        ("nar_former_v2", "network.channels", 10**9),
        ("nar_former_v2", "network.token_channels", 2**62),
        ("nar_former_v2", "network.blocks", -3),
    ],
)
def test_networks_larger_than_their_weights_are_refused(
    predictor: str, name: str, value: int, tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    folder = shutil.copytree(ZOO / BOARD / predictor, tmp_path / "ck")
    card = json.loads((folder / "checkpoint.json").read_text())
    *where, field = name.split(".")
    record = card["model"][where[0]] if where else card["model"]
    assert field in record
    record[field] = value
    (folder / "checkpoint.json").write_text(json.dumps(card))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((CheckpointError, ConfigError), match=r"train it again|even number"):
        load_predictor(folder, engine="torch")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100 << 10  # KiB


def test_a_network_of_other_shapes_than_its_weights_takes_no_memory(tmp_path: Path) -> None:
    """A width that is an extent of some tensor, but not this one."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(ZOO / BOARD / "nar_former_v2", tmp_path / "ck")
    card = json.loads((folder / "checkpoint.json").read_text())
    weights = folder / card["weights"]["file"]
    save_file({**load_file(weights), "extra": torch.zeros(1 << 17)}, weights)
    card["weights"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    card["model"]["network"]["channels"] = 1 << 17  # a matrix of 64 GiB
    (folder / "checkpoint.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="and the network's"):
        load_predictor(folder, engine="torch")
