"""ONNX front end: missing weights, dynamic shapes and bad files."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.frontends.test_onnx import X, small_network
from tests.networks import (
    model_of,
    onnx_inputs,
    onnx_network,
    onnx_network_path,
    run_onnxruntime,
    run_relax,
    without_softmax,
)
from tvm_costmodel.errors import CostModelError, ModelFileError, UnsupportedOperatorError
from tvm_costmodel.frontends.onnx.reader import (
    from_onnx,
    load_onnx,
    onnx_to_relax,
    randomise_weights,
)

node = helper.make_node

# Weights


def stripped(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in names:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    return copy


def test_stripped_weights_get_random_values_and_a_warning(caplog):
    whole = small_network()
    with caplog.at_level(logging.WARNING):
        graph = from_onnx(stripped(whole, ["w", "gamma", "var"]))
    assert graph.hash == from_onnx(whole).hash
    [record] = [r for r in caplog.records if "no values in the file" in r.message]
    assert "3 weights" in record.message


def test_stripped_weights_in_constant_nodes_are_filled_too():
    empty = TensorProto(name="w2", data_type=TensorProto.FLOAT, dims=[4, 8, 3, 3])
    nodes = [
        node("Constant", [], ["w2"], value=empty),
        node("Conv", ["x", "w2"], ["y"], kernel_shape=[3, 3]),
    ]
    graph = from_onnx(model_of(nodes, {"x": [1, 8, 9, 9]}, {"y": None}, opset=9))
    assert [op.op for op in graph.operators] == ["input", "conv2d"]
    assert graph.operators[1].weights[0].shape == (4, 8, 3, 3)


def test_an_input_that_serves_as_a_filter_stays_an_input():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Conv", ["search", "template"], ["y"])],
        "tracker",
        [
            value("search", TensorProto.FLOAT, [1, 32, 22, 22]),
            value("template", TensorProto.FLOAT, [4, 32, 6, 6]),
            value("unused", TensorProto.FLOAT, [7]),
        ],
        [value("y", TensorProto.FLOAT, [1, 4, 17, 17])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    read = from_onnx(model)
    assert [op.op for op in read.operators] == ["input", "input", "input", "conv2d"]
    assert [op.outputs[0].shape for op in read.operators[:3]] == [
        (1, 32, 22, 22),
        (4, 32, 6, 6),
        (7,),
    ]
    inputs = onnx_inputs(model)
    [actual] = run_relax(onnx_to_relax(model), list(inputs.values()), fast=True)
    [expected] = run_onnxruntime(model, inputs)
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_weights_without_a_shape_are_refused():
    model = small_network()
    model.graph.initializer.remove(next(t for t in model.graph.initializer if t.name == "w"))
    with pytest.raises(ModelFileError, match=r"weights w are missing .* with their shapes"):
        load_onnx(model)


def test_stripped_integers_are_refused():
    with pytest.raises(ModelFileError, match="values of rest are missing"):
        load_onnx(stripped(small_network(), ["rest"]))


def test_partial_weights_are_refused():
    model = small_network()
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.raw_data = tensor.raw_data[:-4]
    with pytest.raises(ModelFileError, match="weight w has fewer values than its shape"):
        load_onnx(model)


def test_random_weights_keep_activations_in_range():
    model = without_softmax(randomise_weights(onnx_network("squeezenet"), seed=3))
    first = run_onnxruntime(model, onnx_inputs(model, seed=0))[0]
    second = run_onnxruntime(model, onnx_inputs(model, seed=1))[0]
    assert 0.1 < first.std() < 100
    assert np.abs(first - second).max() > 1e-3 * first.std()  # it depends on its input
    repeated = without_softmax(randomise_weights(onnx_network("squeezenet"), seed=3))
    assert repeated.SerializeToString() == model.SerializeToString()


# Shapes


def dynamic_network() -> onnx.ModelProto:
    return model_of(
        [node("Relu", ["image"], ["y"])], {"image": ["batch", 3, "h", "w"]}, {"y": None}
    )


def test_dynamic_input_names_what_is_open_and_how_to_fix_it():
    with pytest.raises(ModelFileError) as error:
        from_onnx(dynamic_network())
    assert "image [batch, 3, h, w]" in str(error.value)
    assert "--shape image=1,3,224,224" in str(error.value)
    assert "\n" not in str(error.value)


def test_shape_makes_a_dynamic_input_static():
    graph = from_onnx(dynamic_network(), {"image": (2, 3, 32, 48)})
    assert graph.operators[1].outputs[0].shape == (2, 3, 32, 48)


def test_dynamic_export_equals_static_export():
    dynamic = small_network()
    dynamic.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    dynamic.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert from_onnx(dynamic, {"x": (1, 3, 16, 16)}).hash == from_onnx(small_network()).hash


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"photo": (1, 3, 8, 8)}, "no input is called photo; its inputs are image"),
        ({"image": (1, 4, 8, 8)}, "does not fit the file's .batch, 3, h, w."),
        ({"image": (1, 3, 8)}, "does not fit"),
        ({"image": (0, 3, 8, 8)}, "positive integers"),
    ],
)
def test_wrong_shapes(shapes: dict[str, tuple[int, ...]], message: str):
    with pytest.raises(ModelFileError, match=message):
        from_onnx(dynamic_network(), shapes)


# Bad files


def test_truncated_file(tmp_path):
    content = small_network().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in (len(content) - 2, len(content) // 2, 40):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match="truncated") as error:
            load_onnx(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "not an ONNX model"),
        (b"hello, this is text\n" * 20, "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "holds no graph"),
    ],
)
def test_file_of_something_else(tmp_path, content: bytes, message: str):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        load_onnx(path)


def test_damaged_bytes_raise_only_the_packages_errors(tmp_path):
    content = small_network().SerializeToString()
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    refusals = []
    for _ in range(60):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            from_onnx(path)
        except CostModelError as error:
            refusals.append(str(error))
    assert 20 < len(refusals) < 60  # the rest hit the values of weights
    assert "\n" not in "".join(refusals)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such file"):
        load_onnx(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="cannot be read"):
        load_onnx(tmp_path)


def test_unsupported_operators_are_listed_at_once():
    weights = {
        "w": np.zeros((1, 16, 8), dtype=np.float32),
        "r": np.zeros((1, 16, 4), dtype=np.float32),
    }
    nodes = [
        node("LSTM", ["x", "w", "r"], ["h"], hidden_size=4),
        node("Relu", ["h"], ["k"], domain="my.ops"),
        node("Det", ["k"], ["y"]),
    ]
    model = model_of(nodes, {"x": [5, 1, 8]}, {"y": None}, weights)
    model.opset_import.append(helper.make_opsetid("my.ops", 1))
    with pytest.raises(UnsupportedOperatorError, match=r"Det, LSTM, my.ops::Relu"):
        from_onnx(model)


def test_operator_set_of_the_future():
    with pytest.raises(ModelFileError, match="operator set 999 is newer than"):
        load_onnx(model_of([node("Relu", ["x"], ["y"])], X, {"y": None}, opset=999))


def test_external_data(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(small_network(), path, save_as_external_data=True, location="m.bin", size_threshold=0)
    assert from_onnx(path).hash == from_onnx(small_network()).hash
    data = tmp_path / "m.bin"
    data.write_bytes(data.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match=r"m.bin holds .* bytes where"):
        load_onnx(path)
    data.unlink()
    with pytest.raises(ModelFileError, match=r"its weights are in m.bin, which is not in"):
        load_onnx(path)


def test_external_data_is_not_needed_with_random_weights(tmp_path):
    path = tmp_path / "m.onnx"
    model = small_network()
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim > 1:
            onnx.external_data_helper.set_external_data(tensor, "gone.bin")
            tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    assert from_onnx(path, weights="random").hash == from_onnx(small_network()).hash


def test_import_failure_is_one_line():
    nodes = [node("Gelu", ["x"], ["y"], approximate="cubic")]
    with pytest.raises(ModelFileError, match=r"cannot import this model: .*cubic") as error:
        onnx_to_relax(model_of(nodes, X, {"y": None}, opset=20))
    assert "\n" not in str(error.value)


def test_dangling_name_is_named():
    nodes = [node("Relu", ["nowhere"], ["y"])]
    with pytest.raises(ModelFileError, match="cannot import this model: 'nowhere'"):
        onnx_to_relax(model_of(nodes, X, {"y": None}))


def test_graph_does_not_depend_on_onnxruntime_being_installed():
    code = (
        "import sys; sys.modules['onnxruntime'] = None; "
        "from tvm_costmodel.tvm_version import import_tvm_without_torch; "
        "import_tvm_without_torch(); "
        "from tests.networks import onnx_network_path; "
        "from tvm_costmodel.frontends.onnx.reader import from_onnx; "
        "print(from_onnx(onnx_network_path('shufflenet')).hash)"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert result.stdout.strip() == from_onnx(onnx_network_path("shufflenet")).hash


@pytest.mark.parametrize(
    ("location", "extra"),
    [
        ("../w.bin", {}),
        ("link.bin", {}),
        ("/w.bin", {}),
        ("w.bin", {"offset": "ten"}),
        ("w.bin", {"offset": "256"}),
        ("w\0.bin", {}),
    ],
)
def test_external_data_is_read_from_the_models_folder_alone(tmp_path, location, extra):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in (tmp_path / "w.bin", folder / "w.bin"):
        path.write_bytes(np.ones(64, np.float32).tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[64], data_location=1)
    for key, value in {
        "location": f"{tmp_path}/w.bin" if location == "/w.bin" else location,
        **extra,
    }.items():
        weight.external_data.add(key=key, value=value)
    model = model_of([node("Add", ["x", "w"], ["y"])], {"x": [64]}, {"y": [64]})
    model.graph.initializer.append(weight)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelFileError, match=r"outside of|kept at no (number|place)|so it is truncated"
    ) as error:
        load_onnx(folder / "m.onnx")
    assert "\n" not in str(error.value)
