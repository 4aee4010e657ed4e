"""ONNX's own operator tests through front end, build and inference: right, or refused by name."""

from __future__ import annotations

import collections

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from benchmarks.compiler.onnx_operator_cases import (
    forked_outcomes,
    named_by_importer,
    operator_tests,
    outcome_of,
)
from tests.networks import model_of, onnx_inputs, run_onnxruntime, run_relax
from tvm_costmodel.frontends.onnx.reader import onnx_to_relax

RIGHT = {
    "attention": ["attention_3d_gqa", "attention_4d", "attention_4d_attn_mask"],
    "bitshift": ["bitshift_left_int8_shift_ge_width", "bitshift_right_int8_negative_shift"],
    "bitwiseor": ["bitwise_or_i32_2d"],
    "convtranspose": ["convtranspose_output_shape"],
    "cumsum": ["cumsum_2d_negative_axis"],
    "dropout": ["dropout_default_mask"],
    "einsum": ["einsum_batch_matmul"],
    "eyelike": ["eyelike_with_dtype"],
    "isinf": ["isinf_positive"],
    "layernormalization": ["layer_normalization_4d_axis1"],
    "onehot": ["onehot_with_negative_axis"],
    "pad": ["reflect_pad", "constant_pad_negative_axes"],
    "pow": ["pow_types_float32_int64"],
    "resize": [
        "resize_downsample_scales_cubic_A_n0p5_exclude_outside",
        "resize_downsample_sizes_linear_antialias",
        "resize_upsample_sizes_nearest_not_larger",
        "resize_upsample_scales_nearest",
    ],
    "rmsnormalization": ["rms_normalization_2d_axis0"],
    "rotaryembedding": ["rotary_embedding_3d_input"],
    "shape": ["shape_end_1"],
    "sinh": ["sinh"],
    "spacetodepth": ["spacetodepth_crd_mode_example"],
    "squeeze": ["squeeze_negative_axes"],
    "upsample": ["upsample_nearest"],
}
REFUSED = {
    "batch_normalization": ["batchnorm_example_training_mode"],
    "cast": ["cast_FLOAT_to_FLOAT8E4M3FN", "cast_UINT4_to_FLOAT16", "cast_FLOAT4E2M1_to_FLOAT"],
    "dropout": ["training_dropout_default"],
    "quantizelinear": ["quantizelinear_int2", "quantizelinear_blocked_symmetric"],
    "reducel2": ["reduce_l2_empty_set"],
    "roialign": ["roialign_mode_max"],
}


def _same_as_onnxruntime(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> None:
    outputs = run_relax(onnx_to_relax(model), list(inputs.values()), fast=True)
    for got, expected in zip(outputs, run_onnxruntime(model, inputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def _named(modules: dict[str, list[str]]) -> list:
    names = {f"test_{name}" for some in modules.values() for name in some}
    cases = [case for case in operator_tests(list(modules)) if case.name in names]
    assert {case.name for case in cases} == names
    return cases


def test_forms_that_the_compilers_importer_misreads_are_right() -> None:
    faults = [o for o in map(outcome_of, _named(RIGHT)) if o.status != "right"]
    assert not faults


def test_other_forms_are_refused_by_operator_and_node() -> None:
    outcomes = [outcome_of(case) for case in _named(REFUSED)]
    assert [o for o in outcomes if o.status != "refused"] == []
    texts = {o.name: o.text for o in outcomes}
    assert 'has no RoiAlign as node "Y" has it (mode max)' in texts["test_roialign_mode_max"]
    assert "float8e4m3fn" in texts["test_cast_FLOAT_to_FLOAT8E4M3FN"]


def test_pooling_pads_as_the_standard_says() -> None:
    for mode, size in (("SAME_LOWER", 7), ("SAME_LOWER", 8), ("SAME_UPPER", 7)):
        pool = helper.make_node(
            "MaxPool", ["x"], ["y"], auto_pad=mode, kernel_shape=[3, 2], strides=[2, 2]
        )
        model = model_of([pool], {"x": [1, 2, size, 9]}, {"y": None})
        inputs = onnx_inputs(model)
        _same_as_onnxruntime(model, inputs)


def test_branches_are_rewritten_as_the_graph_around_them() -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 1.7, 1.7], np.float32), "s")
    branches = {}
    for name, mode in (("then_branch", "nearest"), ("else_branch", "linear")):
        nodes = [
            helper.make_node("Constant", [], ["s"], value=scales),
            helper.make_node("Resize", ["x", "", "s"], ["o"], mode=mode),
        ]
        output = helper.make_tensor_value_info("o", onnx.TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(nodes, name, [], [output])
    node = helper.make_node("If", ["c"], ["y"], **branches)
    model = model_of([node], {"c": [], "x": [1, 2, 5, 5]}, {"y": None})
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.BOOL
    for choice in (True, False):
        image = np.random.default_rng(0).random((1, 2, 5, 5), np.float32)
        _same_as_onnxruntime(model, {"c": np.array(choice), "x": image})


def test_a_normalisation_over_channels_behind_a_convolution() -> None:
    rng = np.random.default_rng(0)
    weights = {"w": rng.random((6, 3, 1, 1), np.float32), "g": rng.random((6, 5, 4), np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("LayerNormalization", ["c", "g"], ["y"], axis=-3),
    ]
    model = model_of(nodes, {"x": [1, 3, 5, 4]}, {"y": None}, weights)
    inputs = {"x": rng.random((1, 3, 5, 4), np.float32)}
    _same_as_onnxruntime(model, inputs)


@pytest.mark.slow
def test_all_of_them() -> None:
    cases = named_by_importer(operator_tests())
    assert len(cases) > 1150
    outcomes = list(forked_outcomes(cases))
    counts = collections.Counter(o.status for o in outcomes)
    assert [o for o in outcomes if o.status in ("wrong", "unclear")] == []
    assert counts["right"] >= 0.85 * len(cases)
