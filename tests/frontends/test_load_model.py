"""`load_model`: files of every kind, recognised by content."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
import tvm
from onnx import helper
from tvm import relax

from tests.networks import model_of
from tvm_costmodel.errors import CostModelError, GraphError, ModelFileError
from tvm_costmodel.frontends import from_json, load_model, load_module
from tvm_costmodel.frontends.onnx.reader import onnx_to_relax


def small_onnx() -> onnx.ModelProto:
    weights = {"w": np.ones((4, 3, 3, 3), dtype=np.float32)}
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    return model_of(nodes, {"x": [1, 3, 8, 8]}, {"y": None}, weights)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    onnx.save(small_onnx(), folder / "a.bin")
    module = load_module(folder / "a.bin")
    (folder / "b.bin").write_text(tvm.ir.save_json(module))
    (folder / "c.bin").write_text(load_model(folder / "a.bin").graph.to_json())
    return folder


@pytest.fixture
def files(written, tmp_path):
    """One network as ONNX, Relax JSON and OpGraph JSON, under names that do not tell the kind."""
    return shutil.copytree(written, tmp_path, dirs_exist_ok=True)


def test_kinds_are_recognised_by_content(files):
    models = [load_model(files / name) for name in ("a.bin", "b.bin", "c.bin")]
    assert len({model.graph.hash for model in models}) == 1
    assert [model.module is None for model in models] == [False, False, True]
    assert models[0].path == str(files / "a.bin")
    tvm.ir.assert_structural_equal(models[0].module["main"], models[1].module["main"])
    assert from_json((files / "c.bin").read_text()) == models[2].graph


def test_relax_json_with_a_symbolic_batch(tmp_path):
    builder = relax.BlockBuilder()
    n = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType([n, 4], "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.nn.relu(x))
        builder.emit_func_output(y)
    path = tmp_path / "m.json"
    path.write_text(tvm.ir.save_json(builder.get()))
    with pytest.raises(ModelFileError, match=r"x \[n, 4\]; fix it: --shape x=1,4"):
        load_model(path)
    graph = load_model(path, {"x": (3, 4)}).graph
    assert [op.outputs[0].shape for op in graph.operators] == [(3, 4), (3, 4)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b'{"a": 1, "b": 2}', "JSON of something else .it holds: a, b.; accepted: an .onnx file"),
        (b"[1, 2]", "JSON of something else .it holds: list."),
        (b'{"root_index": 0, "nodes": [', "damaged or truncated JSON"),
        (b'{"root_index": 0, "nodes": [{"type": "relay.Call"}]}', "of the kind 'relay.Call'"),
        (b"hello, this is text\n" * 20, "not an ONNX model.*accepted: an .onnx file"),
        (b"PK\x03\x04 and no more", "not a .pt2 archive"),
    ],
)
def test_foreign_content(tmp_path, content: bytes, message: str):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message) as error:
        load_model(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_truncated_json_of_either_kind(files):
    for name in ("b.bin", "c.bin"):
        path = files / name
        path.write_text(path.read_text()[:-20])
        with pytest.raises(ModelFileError, match="damaged or truncated JSON"):
            load_model(path)


def test_json_of_a_damaged_graph(files):
    path = files / "c.bin"
    content = json.loads(path.read_text())
    content["outputs"] = [[99, 0]]
    path.write_text(json.dumps(content))
    with pytest.raises(GraphError, match=r"c.bin: "):
        load_model(path)


def test_relax_json_of_something_else(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(tvm.ir.save_json(tvm.tirx.IntImm("int32", 3)))
    with pytest.raises(ModelFileError, match="but no module; save a Relax module"):
        load_model(path)


def test_opgraph_has_neither_module_nor_free_shapes(files):
    with pytest.raises(ModelFileError, match="cannot be compiled"):
        load_module(files / "c.bin")
    with pytest.raises(ModelFileError, match="an OpGraph's shapes are fixed"):
        load_model(files / "c.bin", {"x": (1, 3, 8, 8)})


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="a folder; accepted"):
        load_model(tmp_path)


def test_every_error_is_of_the_package(files):
    path = files / "b.bin"
    text = path.read_text()
    for cut in range(0, len(text), max(1, len(text) // 40)):
        path.write_text(text[:cut])
        with pytest.raises(CostModelError):
            load_model(path)


def test_package_imports_no_framework():
    code = (
        "import sys, tvm_costmodel.frontends; "
        "print([m for m in ('tvm', 'torch', 'onnx', 'onnxslim') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_module_returned_is_the_one_that_was_exported(files):
    loaded = load_model(files / "a.bin")
    tvm.ir.assert_structural_equal(loaded.module, onnx_to_relax(small_onnx()))
