"""Files that would run code, fill the memory or crash a parser: one line, and nothing has run."""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import os
import shutil
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.profiling.labels import DEVICE, PIPELINE, measurement
from tests.security.mutations import BOARD, network, onnx_model, run_command
from tvm_costmodel.bounded_reading import parse_json, unpack_xz, unpack_zlib
from tvm_costmodel.errors import (
    CheckpointError,
    ConfigError,
    CostModelError,
    GraphError,
    ModelFileError,
)
from tvm_costmodel.frontends.pt2_archive import clean_archive, is_expression
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.isolation import ChildFailure, Limits, in_fork
from tvm_costmodel.models import ZOO
from tvm_costmodel.predictors.loading import load_predictor
from tvm_costmodel.predictors.tree_files import read_booster
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.sources import FileSource, WorkloadSource, stored_sources

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("TVM_COSTMODEL_DATA", ROOT.parent / "shared" / "data")).parent
FAULTS = SHARED / "faults"
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


# --- Relax modules ------------------------------------------------------------------------------


def relax_calling(function: str, name: str) -> str:
    """JSON of a module that calls a packed function or, from TIR, a C function."""
    tvm = pytest.importorskip("tvm")
    from tvm import relax

    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 2), "float32"))
    with builder.function("main", [x]):
        callee = relax.ExternFunc(name)
        if function == "call_packed":
            y = relax.Call(callee, [x], ty_args=[x.ty])
        else:
            y = getattr(relax.op, function)(callee, x, **_keywords(function, x))
        builder.emit_func_output(builder.emit(y))
    return str(tvm.ir.save_json(builder.get()))


def _keywords(function: str, x: Any) -> dict[str, Any]:
    if function == "call_dps_packed":
        return {"out_ty": x.ty}
    return {"ty_args": x.ty} | ({"inplace_indices": 0} if "inplace" in function else {})


@pytest.mark.parametrize("name", ["packed", "extern"])
def test_modules_that_call_out_are_refused_by_every_command(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    path = FAULTS / "relax" / f"{name}.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    for argv in (
        ["predict", str(path), "--checkpoint", f"{BOARD}/flops", "--device", BOARD],
        ["export", str(path), "-o", str(tmp_path / "o.json")],
    ):
        what, text = run_command(argv)
        assert (what, "calls" in text) == ("refused", True), text
    with pytest.raises(ModelFileError, match="is no function of TVM's own"):
        FileSource(str(path)).load()  # what `profile` asks its worker for


@pytest.mark.parametrize("name", ["ffi.ModuleLoadFromFile", "vm.builtin.call_py_func", "my.own"])
def test_foreign_packed_functions_are_refused(name: str, tmp_path: Path) -> None:
    from tvm_costmodel.frontends.model_files import load_model

    (tmp_path / "m.json").write_text(relax_calling("call_packed", name))
    with pytest.raises(ModelFileError, match=f"calls {name}"):
        load_model(tmp_path / "m.json")


def test_functions_of_tvm_are_not_foreign(tmp_path: Path) -> None:
    from tvm_costmodel.frontends.model_files import load_model

    (tmp_path / "m.json").write_text(relax_calling("call_packed", "relax.run.unique"))
    assert len(load_model(tmp_path / "m.json").graph) == 2


def test_functions_that_derive_types_are_checked(tmp_path: Path) -> None:
    from tvm_costmodel.frontends.model_files import load_model

    text = relax_calling("call_packed", "relax.run.unique")
    assert "tvm.relax.type.infer_by_ty_args" in text
    changed = text.replace("tvm.relax.type.infer_by_ty_args", "ffi.ModuleLoadFromFile")
    (tmp_path / "m.json").write_text(changed)
    with pytest.raises(ModelFileError, match="calls ffi.ModuleLoadFromFile"):
        load_model(tmp_path / "m.json")


# --- .pt2 archives ------------------------------------------------------------------------------


def program() -> dict[str, Any]:
    """The JSON of a small exported program, as torch.export.save writes it."""
    node = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}],
        "outputs": [{"as_tensor": {"name": "relu"}}],
        "metadata": {"stack_trace": "here"},
        "name": "relu",
    }
    size = {"as_expr": {"expr_str": "s0", "hint": {"as_int": 4}}}
    graph = {
        "inputs": [{"as_tensor": {"name": "x"}}],
        "outputs": [{"as_tensor": {"name": "relu"}}],
        "nodes": [node],
        "tensor_values": {"x": {"sizes": [size]}},
    }
    return {
        "graph_module": {"graph": graph, "signature": {"input_specs": []}},
        "range_constraints": {"s0": {"min_val": 2, "max_val": 9}},
        "guards_code": ["__import__('os').system('touch marker')"],
    }


def archive(path: Path, change: Callable[[dict[str, Any]], None], **extra: bytes) -> Path:
    record = program()
    change(record)
    config = json.dumps({"config": {}})
    members = {
        "archive_format": b"pt2",
        "models/model.json": json.dumps(record).encode(),
        "data/weights/model_weights_config.json": config.encode(),
        "data/constants/model_constants_config.json": config.encode(),
        "data/sample_inputs/model.pt": b"",
    }
    members |= {name.replace("__", "/").replace("_DOT_", "."): c for name, c in extra.items()}
    with zipfile.ZipFile(path, "w") as writing:
        for name, content in members.items():
            writing.writestr(f"net/{name}", content)
    return path


def node_of(record: dict[str, Any]) -> dict[str, Any]:
    return record["graph_module"]["graph"]["nodes"][0]


def test_a_clean_archive_holds_no_code_and_no_pickle(tmp_path: Path) -> None:
    content = clean_archive(archive(tmp_path / "m.pt2", lambda record: None))
    with zipfile.ZipFile(io.BytesIO(content)) as reading:
        cleaned = json.loads(reading.read("model/models/model.json"))
        assert reading.read("model/data/sample_inputs/model.pt") == b""
    assert cleaned["guards_code"] == []
    assert node_of(cleaned)["metadata"] == {}
    assert node_of(cleaned)["target"] == "torch.ops.aten.relu.default"


def _expression(record: dict[str, Any]) -> None:
    sizes = record["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    sizes[0]["as_expr"]["expr_str"] = "__import__('os').system('touch marker')"


@pytest.mark.parametrize(
    "change",
    [
        _expression,
        lambda r: node_of(r).update(target="torch.hub.load"),
        lambda r: node_of(r).update(target="torch.ops.aten.from_file.default"),
        lambda r: node_of(r).update(target="_operator.attrgetter"),
        lambda r: node_of(r).update(name="x): import os\n"),
        lambda r: node_of(r)["inputs"][0].update(name="self=open('marker', 'w')"),
        lambda r: node_of(r)["inputs"][0]["arg"].update(as_operator="torch.load"),
        lambda r: r["range_constraints"].update({"open('marker','w')": {}}),
        lambda r: r.update(in_spec='[1, {"type": "collections.defaultdict"}]'),
    ],
)
def test_programs_that_would_run_code_are_refused(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    with pytest.raises(ModelFileError, match=r"torch\.export\.save"):
        clean_archive(archive(tmp_path / "m.pt2", change))


@pytest.mark.parametrize(
    "name",
    [
        "serialized_state_dict_DOT_json",
        "models__a__b_DOT_json",
        "data__aotinductor__model__net_DOT_so",
        "data__constants__custom_obj_0",
        "data__constants__opaque_obj_0",
        "data__weights__model_DOT_pt",
        "data__weights__lib_DOT_so",
        "models__second_DOT_json",
    ],
)
def test_members_that_no_network_needs_are_refused(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "m.pt2", lambda record: None, **{name: b"x"})
    with pytest.raises(ModelFileError, match="and nothing else"):
        clean_archive(path)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    entry = {"path_name": "weight_0", "use_pickle": True, "tensor_meta": {}}
    config = json.dumps({"config": {"w": entry}}).encode()
    extra = {"data__weights__model_weights_config_DOT_json": config, "data__weights__weight_0": b""}
    path = archive(tmp_path / "m.pt2", lambda record: None, **extra)
    with pytest.raises(ModelFileError, match="holds pickled Python objects"):
        clean_archive(path)


@pytest.mark.parametrize(
    "text",
    ["s0", "2*s0 + 1", "Mod(s77, 16)", "((s0 - 1)//2) + 1", "Max(1, u0)", "s0**2", "Eq(s0, 4)"],
)
def test_sizes_that_torch_writes_are_expressions(text: str) -> None:
    assert is_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "s0.__class__", "open(1)", "s0(1)", "eval", "lambda: 0", "[1]", "'a'",
        "9**9**9", "2**999", "(lambda)(1)", "s0; s1", "a" * 5000, "", None, 7, "print(s0)", "1(2)",
    ],
)  # fmt: skip
def test_anything_else_is_no_expression(text: object) -> None:
    assert not is_expression(text)


# --- trees, cards, devices, sources -------------------------------------------------------------


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
    ["threads = '2'", "threads = 1000000", "target = 3", "match = []", "name = ''", "tracker = 1",
     "session_timeout_s = -1", "target.mcpu = {a = 1}", "match.features = 'avx2'"],
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


# --- bombs --------------------------------------------------------------------------------------


def test_unpacking_is_bounded(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(100 << 20), 6)
    with pytest.raises(ValueError, match="the most that is read"):
        unpack_zlib(bomb)
    assert unpack_zlib(zlib.compress(b"graph" * 1000)) == b"graph" * 1000
    packed = tmp_path / "l.xz"
    packed.write_bytes(lzma.compress(bytes(40 << 20), preset=0))
    with pytest.raises(ValueError, match="the most that is read"), unpack_xz(packed) as stream:
        while stream.read(1 << 20):
            pass


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 99 + "1" + "}" * 99, "[" * 65 + "]" * 65])
def test_nesting_is_bounded(text: str) -> None:
    with pytest.raises(ValueError, match="at most 64 is read"):
        parse_json(text)


def test_brackets_in_texts_are_no_nesting() -> None:
    text = json.dumps(["[" * 500, '"]\\' * 50, {"{": "\\"}] * 50)
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Range", "Weight"])
def test_small_models_that_unfold_to_gigabytes_are_refused(operator: str, tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    from tvm_costmodel.frontends.onnx.reader import load_onnx

    huge = np.array([1 << 15, 1 << 15], dtype=np.int64)
    constants = {
        "ConstantOfShape": [huge],
        "Expand": [np.ones((1, 1), np.float32), huge],
        "Tile": [np.ones((1, 1), np.float32), huge],
        "Range": [np.int64(0), np.int64(1 << 30), np.int64(1)],
    }.get(operator, [])
    weights = [numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(constants)]
    if operator == "Weight":
        weights = [TensorProto(name="c0", data_type=1, dims=[1 << 15, 1 << 15])]
    nodes = [helper.make_node("Add", ["x", "k"], ["y"])]
    if operator == "Weight":
        nodes = [helper.make_node("MatMul", ["x", "c0"], ["y"])]
    else:
        inputs = [weight.name for weight in weights]
        nodes.insert(0, helper.make_node(operator, inputs, ["k0"]))
        nodes.insert(1, helper.make_node("Cast", ["k0"], ["k"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1 << 15])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    with pytest.raises(ModelFileError, match="MiB"):
        load_onnx(model)


def test_a_store_whose_blobs_unfold_is_refused(tmp_path: Path) -> None:
    from tvm_costmodel.profiling.label_files.networks import read_labels
    from tvm_costmodel.profiling.store.store import Store

    with Store(tmp_path / "s.db") as store:
        store.put_measurement(measurement(4))
    with sqlite3.connect(tmp_path / "s.db") as database:
        bomb = zlib.compress(b" " * (100 << 20), 6)
        database.execute("UPDATE graphs SET json = ?", (bomb,))
    with pytest.raises(CostModelError, match=r"damaged|larger|MiB"):
        read_labels(tmp_path / "s.db", DEVICE, PIPELINE)


# --- graphs and child processes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("[1,3,16,16]", "[0,3,16,16]"), "cannot make|no elements"),
        (lambda t: t.replace("float32", "float33"), "unknown element type"),
        (lambda t: t.replace("[1,8,8,8]", "[1,8,9999,9999]"), "cannot make"),
        (lambda t: t.replace('"in_channels":3', '"in_channels":99999999'), "cannot make"),
        (lambda t: t.replace('"groups":1', '"groups":0'), "has groups 0"),
        (lambda t: t.replace('"kernel":[3,3]', '"kernel":["3",3]'), "no integer"),
        (lambda t: t.replace("16", str(2**30)), r"2\*\*|cannot make"),
    ],
)
def test_impossible_graphs_are_refused_wherever_they_come_from(
    change: Callable[[str], str], message: str
) -> None:
    graph = OpGraph.from_json(change(network().to_json()))
    predictor = load_predictor(f"{BOARD}/flops")
    with pytest.raises(GraphError, match=message):
        predictor.predict(graph)
    with pytest.raises(GraphError, match=message):
        type(predictor.regressor)().fit([graph], np.array([1e-3]))


def test_a_possible_graph_is_checked_once_and_fast() -> None:
    graph = network()
    graph.require_plausible()
    assert graph.fault == ""
    assert "fault" in vars(graph)


def test_labels_that_are_no_latencies_are_refused() -> None:
    regressor = type(load_predictor(f"{BOARD}/flops").regressor)()
    for label in (-1.0, 0.0, float("nan"), float("inf"), 1e200):
        with pytest.raises(ConfigError, match="label 0 is"):
            regressor.fit([network()], np.array([label]))


def test_a_child_may_write_start_and_connect_to_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "marker"

    def attack() -> bytes:
        done = 0
        for action in (
            lambda: marker.write_text("x"),
            lambda: os.system(f"touch {marker}") and 1 / 0,
            lambda: os.mkdir(tmp_path / "folder"),
        ):
            try:
                action()
                done += 1
            except (OSError, ZeroDivisionError):
                pass
        return b"%d" % done

    done = in_fork(attack)
    if done != b"0":
        pytest.skip("this kernel offers no Landlock")
    assert not marker.exists() and not (tmp_path / "folder").exists()


def test_crashes_hangs_and_hunger_of_a_child_are_one_error() -> None:
    def hungry() -> bytes:
        return bytes(np.ones(1 << 34, np.uint8)[:1])

    def endless() -> bytes:
        while True:
            pass

    with pytest.raises(ChildFailure, match="SIGSEGV"):
        in_fork(lambda: os.kill(os.getpid(), 11) or b"")
    with pytest.raises(ChildFailure, match="did not end within"):
        in_fork(endless, Limits(seconds=0.3))
    with pytest.raises(ChildFailure, match="memory"):
        in_fork(hungry, Limits(memory_bytes=1 << 30))
    assert in_fork(lambda: b"answer") == b"answer"


def test_the_whole_model_is_read_through_the_child(tmp_path: Path) -> None:
    tvm = pytest.importorskip("tvm")
    from tvm_costmodel.frontends.model_files import load_model
    from tvm_costmodel.frontends.onnx.reader import onnx_to_relax
    from tvm_costmodel.frontends.relax.export import from_relax

    module = onnx_to_relax(onnx_model())
    (tmp_path / "m.json").write_text(str(tvm.ir.save_json(module)))
    loaded = load_model(tmp_path / "m.json")
    assert loaded.graph.hash == from_relax(module).hash
    assert from_relax(loaded.module).hash == loaded.graph.hash
