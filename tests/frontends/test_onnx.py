"""ONNX front end: what cleaning does, outputs against onnxruntime, and bad files."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.networks import (
    ONNX_NETWORKS,
    model_of,
    onnx_inputs,
    onnx_network,
    onnx_network_path,
    randomised,
    run_onnxruntime,
    run_relax,
    without_softmax,
)
from tvm_costmodel.frontends.onnx.reader import from_onnx, load_onnx, onnx_to_relax

node = helper.make_node


def op_counts(model: onnx.ModelProto) -> dict[str, int]:
    return dict(collections.Counter(n.op_type for n in model.graph.node))


def assert_equals_onnxruntime(model: onnx.ModelProto, rtol: float = 1e-4, fast=False) -> None:
    inputs = onnx_inputs(model)
    expected = run_onnxruntime(model, inputs)
    actual = run_relax(onnx_to_relax(model), list(inputs.values()), fast=fast)
    assert len(actual) == len(expected)
    for got, want in zip(actual, expected, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=rtol * np.abs(want).max())


def small_network(prefix: str = "") -> onnx.ModelProto:
    """Conv, BN, residual Sum of three, Dropout, pooling, Gemm: all forms that cleaning rewrites."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((8, 3, 3, 3), dtype=np.float32),
        "gamma": np.linspace(0.5, 1.5, 8, dtype=np.float32),
        "beta": np.linspace(-1, 1, 8, dtype=np.float32),
        "mean": np.linspace(-0.2, 0.2, 8, dtype=np.float32),
        "var": np.linspace(0.5, 2, 8, dtype=np.float32),
        "fc": rng.standard_normal((10, 8), dtype=np.float32),
        "fcb": rng.standard_normal(10, dtype=np.float32),
        "one": np.array(1, dtype=np.int64),
        "batch_axis": np.array([0], dtype=np.int64),
        "rest": np.array([-1], dtype=np.int64),
    }
    names = {name: prefix + name for name in [*weights, "x", "y"]}

    def n(op: str, inputs: str, outputs: str, **attributes) -> onnx.NodeProto:
        rename = [prefix + name for name in inputs.split()]
        return node(op, rename, [prefix + o for o in outputs.split()], prefix + op, **attributes)

    nodes = [
        n("Conv", "x w", "c", pads=[1, 1, 1, 1]),
        n("BatchNormalization", "c gamma beta mean var", "b"),
        n("Relu", "b", "r"),
        n("Sum", "c b r", "s"),
        n("Identity", "s", "i"),
        n("Dropout", "i", "d mask"),
        n("GlobalAveragePool", "d", "g"),
        n("Shape", "g", "shape"),
        n("Gather", "shape batch_axis", "batch", axis=0),
        n("Concat", "batch rest", "target", axis=0),
        n("Reshape", "g target", "f"),
        n("Gemm", "f fc fcb", "y", transB=1, alpha=0.5, beta=2.0),
    ]
    return model_of(
        nodes,
        {names["x"]: [1, 3, 16, 16]},
        {names["y"]: [1, 10]},
        {names[name]: value for name, value in weights.items()},
    )


def test_cleaning_leaves_only_operators_that_compute():
    cleaned = load_onnx(small_network())
    assert op_counts(cleaned) == {
        "Conv": 1,
        "BatchNormalization": 1,
        "Relu": 1,
        "Add": 2,
        "GlobalAveragePool": 1,
        "Reshape": 1,
        "Gemm": 1,
    }
    read = {name for n in cleaned.graph.node for name in n.input}
    assert {t.name for t in cleaned.graph.initializer} <= read


def test_cleaned_model_computes_the_same():
    model = small_network()
    inputs = onnx_inputs(model)
    before = run_onnxruntime(model, inputs)[0]
    np.testing.assert_allclose(run_onnxruntime(load_onnx(model), inputs)[0], before, atol=1e-5)
    assert_equals_onnxruntime(model)


def test_loading_leaves_the_given_model_unchanged():
    model = small_network()
    before = model.SerializeToString()
    load_onnx(model, weights="random")
    assert model.SerializeToString() == before


def test_graph_hash_does_not_depend_on_names():
    first, second = from_onnx(small_network()), from_onnx(small_network("layer/1."))
    assert first.hash == second.hash
    assert " ".join(op.op for op in first.operators) == (
        "input conv2d batch_norm relu add add mean reshape dense add"
    )


def test_sum_stays_four_dimensional():
    graph = from_onnx(small_network())
    assert max(len(t.shape) for op in graph.operators for t in op.outputs) == 4
    assert graph.unknown_ops == ()


def test_resnet50_operator_counts():
    graph = from_onnx(onnx_network_path("resnet50"))
    counts = collections.Counter(op.op for op in graph.operators)
    assert counts["conv2d"] == 53
    assert counts["batch_norm"] == 53
    assert counts["relu"] == 49
    assert counts["add"] == 17  # 16 residual sums and the classifier's bias
    assert counts["dense"] == 1
    assert graph.unknown_ops == ()
    assert 7.6e9 < graph.flops < 8.4e9  # 4.1 GMAC, He et al. 2015 count 3.8 without the shortcuts


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [("squeezenet", 26), ("inception_v1", 57), ("shufflenet", 49), ("densenet121", 121)],
)
def test_equal_weights_do_not_merge_branches(name: str, convolutions: int):
    cleaned = load_onnx(onnx_network_path(name))
    counts = op_counts(cleaned)
    assert counts["Conv"] == convolutions
    assert {"ConstantOfShape", "Dropout", "Sum", "Unsqueeze", "Identity"}.isdisjoint(counts)
    assert len(cleaned.graph.input) == 1


@pytest.mark.parametrize("name", ["squeezenet"])
def test_network_outputs_equal_onnxruntime(name: str):
    assert_equals_onnxruntime(without_softmax(randomised(onnx_network(name), seed=1)), fast=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ONNX_NETWORKS if name != "squeezenet"])
def test_every_network_equals_onnxruntime(name: str):
    assert_equals_onnxruntime(without_softmax(randomised(onnx_network(name), seed=1)), fast=True)


X = {"x": [1, 6, 9, 8]}
SMALL_OPERATORS = {
    "relu6": ([node("Clip", ["x", "lo", "hi"], ["y"])], {"lo": 0.0, "hi": 6.0}, ["clip"]),
    "clip below": ([node("Clip", ["x", "lo"], ["y"])], {"lo": 0.0}, ["relu"]),
    "max of three": ([node("Max", ["x", "a", "b"], ["y"])], {"a": 0.1, "b": -0.2}, ["maximum"] * 2),
    "min": ([node("Min", ["x", "a"], ["y"])], {"a": 0.1}, ["minimum"]),
    "mean of two": ([node("Mean", ["x", "a"], ["y"])], {"a": 1.0}, ["add", "multiply"]),
    "last softmax": ([node("Softmax", ["x"], ["y"], axis=-1)], {}, ["softmax"]),
    "channel softmax": ([node("Softmax", ["x"], ["y"], axis=1)], {}, ["softmax"]),
    "last column": (
        [node("Gather", ["x", "last"], ["y"], axis=3)],
        {"last": np.array(-1)},
        ["take"],
    ),
    "slice from the end": (
        [node("Slice", ["x", "start", "end", "axis"], ["y"])],
        {"start": np.array([-3]), "end": np.array([2**62]), "axis": np.array([-1])},
        ["strided_slice"],
    ),
    "pad": (
        [node("Pad", ["x", "widths", "value"], ["y"])],
        {"widths": np.array([0, 0, 1, 2, 0, 0, 3, 0]), "value": 0.5},
        ["pad"],
    ),
    "split": (
        [node("Split", ["x", "sizes"], ["a", "b"], axis=1), node("Add", ["b", "b"], ["y"])],
        {"sizes": np.array([2, 4])},
        ["split", "add"],
    ),
    "channel shuffle": (
        [
            node("Reshape", ["x", "grouped"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["b", "flat"], ["y"]),
        ],
        {"grouped": np.array([1, 2, 3, 9, 8]), "flat": np.array([0, -1, 9, 8])},
        ["reshape", "transpose", "reshape"],
    ),
    "average pool, padding not counted": (
        [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])],
        {},
        ["avg_pool2d"],
    ),
    "max pool, ceil": (
        [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)],
        {},
        ["max_pool2d"],
    ),
    "upsample": (
        [
            node(
                "Resize",
                ["x", "", "scales"],
                ["y"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"scales": np.array([1, 1, 2, 2], dtype=np.float32)},
        ["resize2d"],
    ),
    "hard swish": ([node("HardSwish", ["x"], ["y"])], {}, None),
    "lrn of odd size": (
        [node("LRN", ["x"], ["y"], size=3, alpha=0.5, beta=0.6, bias=2.0)],
        {},
        None,
    ),
}


@pytest.mark.parametrize("case", SMALL_OPERATORS)
def test_operator_equals_onnxruntime(case: str):
    nodes, constants, operators = SMALL_OPERATORS[case]
    weights = {
        name: np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
        for name, value in constants.items()
    }
    model = model_of(nodes, X, {"y": None}, weights)
    assert_equals_onnxruntime(model, rtol=1e-5)
    graph = from_onnx(model)
    assert graph.unknown_ops == ()
    if operators is not None:
        assert [op.op for op in graph.operators[1:]] == operators


def test_lrn_of_even_size():
    """onnxruntime takes odd sizes only: against the formula of ONNX's specification."""
    model = model_of([node("LRN", ["x"], ["y"], size=4, alpha=0.9)], X, {"y": None})
    x = onnx_inputs(model)["x"]
    expected = np.empty_like(x)
    for c in range(6):
        window = x[:, max(0, c - 1) : min(5, c + 2) + 1]
        expected[:, c] = x[:, c] / (1 + 0.9 / 4 * (window**2).sum(axis=1)) ** 0.75
    np.testing.assert_allclose(run_relax(onnx_to_relax(model), [x])[0], expected, rtol=1e-5)


def test_order_of_branches_is_the_files():
    branches = [
        node(op, [source], [result])
        for op, source, result in (
            ("Relu", "x", "a1"),
            ("Sigmoid", "a1", "a2"),
            ("Tanh", "a2", "a3"),
            ("Exp", "x", "b1"),
            ("Sqrt", "b1", "b2"),
        )
    ]
    model = model_of([*branches, node("Add", ["a3", "b2"], ["y"])], X, {"y": None})
    order = [op.op for op in from_onnx(model).operators[1:]]
    assert order == ["relu", "sigmoid", "tanh", "exp", "sqrt", "add"]


def test_embedding_wraps_negative_ids_without_shape_arithmetic():
    table = np.arange(12, dtype=np.float32).reshape(6, 2)
    model = model_of([node("Gather", ["table", "ids"], ["y"])], {}, {"y": None}, {"table": table})
    model.graph.input.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [3]))
    mod = onnx_to_relax(model)
    out = run_relax(mod, [np.array([0, -1, 2])])[0]
    np.testing.assert_array_equal(out, table[[0, -1, 2]])
    assert {op.op for op in from_onnx(model).operators} == {"input", "less", "add", "where", "take"}


@pytest.mark.parametrize("opset", [6, 7, 9, 11, 13, 20, 22])
def test_old_and_new_operator_sets(opset: int):
    model = model_of([node("Relu", ["x"], ["a"]), node("Add", ["a", "a"], ["y"])], X, {"y": None},
                     opset=opset)  # fmt: skip
    assert [op.op for op in from_onnx(model).operators] == ["input", "relu", "add"]


def test_training_forms_become_inference_forms():
    weights = {name: np.full(6, 0.5, dtype=np.float32) for name in ("g", "b", "m", "v")}
    nodes = [
        node("BatchNormalization", ["x", "g", "b", "m", "v"], ["n", "rm", "rv"], training_mode=1),
        node("Dropout", ["n", "ratio", "on"], ["y"]),
    ]
    constants = {**weights, "ratio": np.float32(0.3), "on": np.array(True)}
    model = model_of(nodes, X, {"y": None}, constants, opset=15)
    cleaned = load_onnx(model)
    assert op_counts(cleaned) == {"BatchNormalization": 1}
    x = onnx_inputs(model)["x"]
    expected = (x - 0.5) / np.sqrt(0.5 + 1e-5) * 0.5 + 0.5
    np.testing.assert_allclose(
        run_relax(onnx_to_relax(model), [x])[0], expected, rtol=1e-5, atol=1e-6
    )


def test_functions_of_the_model_are_inlined():
    function = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    model = model_of([node("Twice", ["x"], ["y"], domain="mine")], X, {"y": None})
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("mine", 1))
    assert [op.op for op in from_onnx(model).operators] == ["input", "add"]
