"""Small files that unfold to gigabytes, graphs of no network, and limits of child processes."""

from __future__ import annotations

import json
import lzma
import os
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.networks import onnx_network_path
from tests.profiling.labels import DEVICE, PIPELINE, measurement
from tests.security.mutations import BOARD, network, onnx_model
from tvm_costmodel.bounded_reading import parse_json, unpack_xz, unpack_zlib
from tvm_costmodel.errors import (
    ConfigError,
    CostModelError,
    GraphError,
    ModelFileError,
)
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.isolation import ChildFailure, Limits, in_fork
from tvm_costmodel.predictors.loading import load_predictor


def test_unpacking_is_bounded(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(100 << 20), 6)
    with pytest.raises(ValueError, match="the most that is read"):
        unpack_zlib(bomb)
    assert unpack_zlib(zlib.compress(b"graph" * 1000)) == b"graph" * 1000
    packed = tmp_path / "l.xz"
    packed.write_bytes(lzma.compress(bytes(40 << 20), preset=0))
    with unpack_xz(packed) as stream, pytest.raises(ValueError, match="the most that is read"):
        list(iter(lambda: stream.read(1 << 20), ""))


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


def relus(nodes: list[Any], functions: list[Any], constants: list[Any]) -> Any:
    """A model of one input ``x`` and one output ``y``."""
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    graph = helper.make_graph(nodes, "net", [x], [y], constants)
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=8)


def doubling_functions() -> Any:
    from onnx import helper

    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    functions = []
    for i in range(40):
        inner, domain = (f"f{i + 1}", "f") if i < 39 else ("Relu", "")
        nodes = [helper.make_node(inner, [a], [b], domain=domain) for a, b in ("ab", "bc")]
        functions.append(helper.make_function("f", f"f{i}", ["a"], ["c"], nodes, opsets))
    return relus([helper.make_node("f0", ["x"], ["y"], domain="f")], functions, [])


def doubling_constants() -> Any:
    from onnx import helper, numpy_helper

    nodes = [helper.make_node("Concat", [f"k{i}"] * 2, [f"k{i + 1}"], axis=0) for i in range(50)]
    nodes.append(helper.make_node("Add", ["x", "k50"], ["y"]))
    return relus(nodes, [], [numpy_helper.from_array(np.ones(4, np.float32), "k0")])


def many_axes() -> Any:
    from onnx import helper, numpy_helper

    axes = numpy_helper.from_array(np.arange(2, 3000), "axes")
    return relus([helper.make_node("Unsqueeze", ["x", "axes"], ["y"])], [], [axes])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (doubling_functions, "unfold to 1000000000000 nodes"),
        (doubling_constants, "makes a constant of"),
        (many_axes, "has 3000 axes"),
    ],
)
def test_models_that_double_at_every_node_are_refused(
    make: Callable[[], Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tvm_costmodel.frontends.onnx import folding_limits
    from tvm_costmodel.frontends.onnx.reader import load_onnx

    monkeypatch.setattr(folding_limits, "MAX_FOLDED_BYTES", 1 << 24)
    with pytest.raises(ModelFileError, match=message):
        load_onnx(make())


def test_inference_with_limits_gives_the_types_that_onnx_gives() -> None:
    from onnx import shape_inference

    from tvm_costmodel.frontends.onnx.folding_limits import infer_types

    model = onnx.load(onnx_network_path("squeezenet"))
    expected = shape_inference.infer_shapes(model, data_prop=True).graph.value_info
    assert len(expected) > 60
    assert list(infer_types(model).graph.value_info) == list(expected)


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


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON graphs BEGIN DELETE FROM measurements; END",
        "CREATE VIEW v AS WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n FROM c) SELECT * "
        "FROM c",
    ],
)
def test_a_store_with_a_program_of_its_own_is_refused(statement: str, tmp_path: Path) -> None:
    from tvm_costmodel.profiling.store.store import Store

    with Store(tmp_path / "s.db") as store:
        store.put_measurement(measurement(4))
    with sqlite3.connect(tmp_path / "s.db") as database:
        database.execute(statement)
    with pytest.raises(CostModelError, match="no version of this package wrote"):
        Store(tmp_path / "s.db")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.replace("[1,3,16,16]", "[0,3,16,16]"), "cannot make|no elements"),
        (lambda t: t.replace("float32", "float33"), "unknown element type"),
        (lambda t: t.replace("[1,8,8,8]", "[1,8,9999,9999]"), "cannot make"),
        (lambda t: t.replace('"in_channels":3', '"in_channels":99999999'), "cannot make"),
        (lambda t: t.replace('"groups":1', '"groups":0'), "has groups 0"),
        (lambda t: t.replace('"groups":1', '"groups":7'), "cannot make"),
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
