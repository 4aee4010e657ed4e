"""Forms of ONNX operators beside those of its own tests: right by a reference, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.networks import model_of, run_onnxruntime, run_relax
from tvm_costmodel.errors import CostModelError
from tvm_costmodel.frontends.onnx.reader import load_onnx, onnx_to_relax

RNG = np.random.default_rng(0)
node = helper.make_node


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def typed_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, np.ndarray],
    outputs: dict[str, int],
    weights: dict[str, Any] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with outputs of given types."""
    shapes = {name: list(value.shape) for name, value in inputs.items()}
    arrays = {name: np.asarray(value) for name, value in (weights or {}).items()}
    model = model_of(list(nodes), shapes, dict.fromkeys(outputs), arrays, opset)
    for value in (*model.graph.input, *model.graph.output):
        kind = outputs.get(value.name)
        if value.name in inputs:
            kind = helper.np_dtype_to_tensor_dtype(inputs[value.name].dtype)
        value.type.tensor_type.elem_type = kind
    return model


def same(model: onnx.ModelProto, inputs: dict[str, np.ndarray], expected: Any = None) -> None:
    """Compares a build with onnxruntime, or with values of another reference."""
    wanted = run_onnxruntime(model, inputs) if expected is None else expected
    outputs = run_relax(onnx_to_relax(model), list(inputs.values()), fast=True)
    for got, want in zip(outputs, wanted, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


BETWEEN = {
    "3-D": (
        [
            node("Unsqueeze", ["a", "axis"], ["u"]),
            node("Conv", ["u", "v"], ["w"], pads=[0, 1, 1, 0, 1, 1]),
            node("Squeeze", ["w", "axis"], ["b"]),
        ],
        {"axis": np.array([2]), "v": floats(6, 8, 1, 3, 3)},
    ),
    "1-D": (
        [
            node("Reshape", ["a", "flat"], ["u"]),
            node("Conv", ["u", "v"], ["w"], pads=[1, 1]),
            node("Reshape", ["w", "image"], ["b"]),
        ],
        {"flat": [1, 8, 30], "image": [1, 6, 5, 6], "v": floats(6, 8, 3)},
    ),
    "transposed": (
        [node("ConvTranspose", ["a", "v"], ["w"], strides=[2, 2]), node("Relu", ["w"], ["b"])],
        {"v": floats(8, 6, 2, 2)},
    ),
    "transposed 3-D": (
        [
            node("Unsqueeze", ["a", "axis"], ["u"]),
            node("ConvTranspose", ["u", "v"], ["w"], strides=[1, 2, 1]),
            node("Squeeze", ["w", "axis"], ["b"]),
        ],
        {"axis": np.array([2]), "v": floats(8, 6, 1, 2, 2)},
    ),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_other_convolutions_between_convolutions_keep_their_layout(name: str) -> None:
    nodes, weights = BETWEEN[name]
    first = node("Conv", ["x", "f"], ["a"], pads=[1, 1, 1, 1])
    model = typed_model(
        [first, *nodes, node("Conv", ["b", "g"], ["y"])],
        inputs := {"x": floats(1, 3, 5, 6)},
        {"y": 1},
        weights | {"f": floats(8, 3, 3, 3), "g": floats(4, 6, 2, 2)},
    )
    same(model, inputs)


def test_reductions_over_no_axes_still_work_on_each_element() -> None:
    names = ("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceSum")
    nodes = [node(name, ["x"], [name], noop_with_empty_axes=1) for name in names]
    nodes.append(node("ReduceLogSum", ["ReduceL1"], ["log"], noop_with_empty_axes=1))
    x = floats(3, 4)
    model = typed_model(nodes, {"x": x}, dict.fromkeys((*names, "log"), 1), opset=18)
    same(model, {"x": x}, [np.abs(x), np.abs(x), x * x, x, np.log(np.abs(x))])


def test_integers_regions_slopes_and_windows() -> None:
    nodes = [
        node("Cast", ["x"], ["i"], to=TensorProto.INT32),
        node("ReduceMean", ["i", "axis"], ["mean"]),
        node("Cast", ["i"], ["n"], to=TensorProto.UINT8),
        node("Sign", ["n"], ["sign"]),
        node("PRelu", ["x", "slope"], ["leaky"]),
        node("LpPool", ["x"], ["pool"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        node("RoiAlign", ["x", "r", "b"], ["roi"], output_height=2, sampling_ratio=2,
             spatial_scale=0.5),
    ]  # fmt: skip
    x = np.abs(floats(1, 4, 6, 7)) * 5
    weights = {"r": np.array([[1, 2, 9, 11]], np.float32), "b": [0], "slope": floats(4)}
    outputs = {"mean": TensorProto.INT32, "sign": TensorProto.UINT8, "leaky": 1, "pool": 1}
    outputs["roi"] = 1
    model = typed_model(nodes, {"x": x}, outputs, weights | {"axis": [1]}, opset=18)
    alone = typed_model(nodes[-2:], {"x": x}, {"pool": 1, "roi": 1}, weights, opset=18)
    whole = x.astype(np.int32)
    expected = [whole.sum(1, keepdims=True, dtype=np.int32) // np.int32(4)]
    expected += [np.sign(whole).astype(np.uint8), x, *run_onnxruntime(alone, {"x": x})]
    same(model, {"x": x}, expected)


def test_operator_set_10_and_before() -> None:
    nodes = [
        node("TopK", ["x", "k"], ["y", "i"], axis=1),
        node("Resize", ["x", "s"], ["small"], mode="nearest"),
    ]
    inputs = {"x": floats(1, 4, 6, 7)}
    outputs = {"y": 1, "i": TensorProto.INT64, "small": 1}
    weights = {"k": [3], "s": np.array([1, 1, 0.6, 3], np.float32)}
    same(typed_model(nodes, inputs, outputs, weights, opset=10), inputs)
    cut = node("Slice", ["x"], ["y"], starts=[1, -3], ends=[2**31, -1], axes=[1, -1])
    same(typed_model([cut], inputs, {"y": 1}, opset=9), inputs)


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_weights_of_wide_types_are_packed_as_they_are(dtype: str) -> None:
    x, w = (RNG.integers(-9, 9, shape).astype(dtype) for shape in ((9, 40), (40, 64)))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = typed_model([node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"y": kind}, {"w": w})
    same(model, {"x": x}, [x @ w])


REFUSED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "unknown": ([node("LSTM", ["x"], ["y"], "rnn")], {}, r'has no LSTM \(node "rnn"\)'),
    "equation": (
        [node("Einsum", ["x"], ["y"], "e", equation="abcd->ez")],
        {},
        'fault in Einsum, node "e"',
    ),
    "index": (
        [node("Gather", ["x", "i"], ["y"], "g", axis=1)],
        {"i": [4]},
        'no Gather as node "g".* outside of the 4',
    ),
    "split": (
        [node("Split", ["x", "i"], ["y", "z"], "s", axis=1)],
        {"i": [1, 9]},
        'fault in Split, node "s"',
    ),
    "count": ([node("TopK", ["x", "i"], ["y", "j"], "t")], {"i": [9]}, 'in TopK, node "t"'),
    "reflection": (
        [node("Pad", ["x", "i"], ["y"], "p", mode="reflect")],
        {"i": [0, 0, 9, 0, 0, 0, 0, 0]},
        'no Pad as node "p".*reflects more',
    ),
    "dilated": (
        [node("MaxPool", ["x"], ["y"], "m", kernel_shape=[2, 2], dilations=[2, 2],
              auto_pad="SAME_UPPER")],
        {},
        'no MaxPool as node "m".*dilated window',
    ),
    "kernel": (
        [node("Conv", ["x", "w"], ["y"], "c", kernel_shape=[5, 5])],
        {"w": floats(4, 4, 3, 3)},
        r'no Conv as node "c".*kernel_shape \[5, 5\]',
    ),
    "no kernel": (
        [node("MaxPool", ["x"], ["y"], "m", kernel_shape=[0, 2])],
        {},
        'fault in MaxPool, node "m"',
    ),
    "name": (
        [node("Relu", ["x"], ["y"]), node("Exp", ["x"], ["y"], "again")],
        {},
        r'node "again" \(Exp\) makes y',
    ),
    "depth": (
        [node("OneHot", ["x", "i", "v"], ["y"], "o")],
        {"i": [2**40], "v": np.zeros(2, np.float32)},
        'no OneHot as node "o"',
    ),
    "shape at run time": (
        [node("Cast", ["x"], ["c"], to=TensorProto.INT64), node("Reshape", ["c", "flat"], ["f"]),
         node("Gather", ["f", "i"], ["s"]), node("Expand", ["x", "s"], ["y"], "e")],
        {"flat": [-1], "i": [0, 1, 2, 3]},
        'no Expand as node "e"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_by_operator_and_node(name: str) -> None:
    nodes, weights, message = REFUSED[name]
    outputs = {"y": 1}
    model = typed_model(nodes, {"x": floats(1, 4, 5, 6)}, outputs, weights)
    with pytest.raises(CostModelError, match=message) as raised:
        onnx_to_relax(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.dims.__setitem__(0, 1), "has more values than its shape"),
        (lambda w: w.dims.__setitem__(0, -2), "which no tensor has"),
    ],
)
def test_weights_of_impossible_shapes_are_refused(change: Any, message: str) -> None:
    model = typed_model([node("Add", ["x", "w"], ["y"])], {"x": floats(2, 3)}, {"y": 1},
                        {"w": floats(2, 3)})  # fmt: skip
    change(model.graph.initializer[0])
    with pytest.raises(CostModelError, match=message):
        load_onnx(model)


def test_values_larger_than_any_memory_are_refused() -> None:
    model = model_of([node("Relu", ["x"], ["y"])], {"x": [2**40, 2**40]}, {"y": None})
    with pytest.raises(CostModelError, match=r"x has 1e\+24 elements"):
        load_onnx(model)
