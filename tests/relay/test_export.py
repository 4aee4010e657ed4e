"""Relay -> OpGraph: every form of program, and the pass."""

from __future__ import annotations

import pytest
import tvm
from tvm import relay
from tvm.relay import testing

from tests.relay.modules import BUILDERS, const, small_network, typed, var
from tvm_costmodel.errors import GraphError
from tvm_costmodel.frontends.relay.export import ExportGraph, from_relay
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import TensorType
from tvm_costmodel.ops import CATALOGUE, canonical_name

NOT_FOR_INFERENCE = (
    "annotation. contrib.ethosu memory. nn.avg_pool2d_grad nn.max_pool2d_grad nn.conv2d_backward "
    "parser. qnn.csi. random. relay.op. vm. debug call_lowered"
).split()
"""Operators, by prefix, that are runtime plumbing, training or one vendor's."""

UNKNOWN = (
    "all any cache_conv1d cache_matmul celu dft dyn.sparse_to_dense hardmax image.crop_and_resize "
    "image.dilation2d image.resize1d invert_permutation matrix_set_diag nn.batch_to_space_nd "
    "nn.bitpack nn.bitserial_conv2d nn.bitserial_dense "
    "nn.contrib_conv2d_gemm_weight_transform nn.contrib_conv2d_winograd_nnpack_weight_transform "
    "nn.contrib_conv2d_winograd_weight_transform nn.contrib_conv3d_winograd_weight_transform "
    "nn.correlation nn.deformable_conv2d nn.dilate nn.fifo_buffer nn.fsmn "
    "nn.internal.sparse_dense_padded nn.max_pool2d_with_argmax nn.space_to_batch_nd nn.sparse_add "
    "nn.sparse_conv2d nn.sparse_dense nn.sparse_transpose segment_max segment_mean segment_min "
    "segment_prod segment_sum sequence_mask sliding_window sparse_fill_empty_rows sparse_reshape "
    "sparse_to_dense stft unravel_index vision.categorical vision.extract_image_patches "
    "vision.invert_permutation vision.max_pool2d_location vision.multibox_prior vision.proposal "
    "vision.psroipooling vision.regular_non_max_suppression vision.standard_normal "
    "vision.unpooling vision.yolo_reorg where_softmax"
).split()
"""Operators that the catalogue has no name for; a graph lists them in ``unknown_ops``."""


def f32(*shape: int) -> TensorType:
    return TensorType(shape, "float32")


def export(name: str) -> OpGraph:
    return from_relay(BUILDERS[name]())


def ops(graph: OpGraph) -> list[str]:
    return [o.op for o in graph.operators]


def test_operators_without_a_canonical_name_are_known() -> None:
    others = ("tir.", "relax.", *NOT_FOR_INFERENCE)
    names = [n for n in tvm.ir.Op.list_op_names() if not n.startswith(others)]
    assert len(names) > 220
    assert sorted(n for n in names if canonical_name("relay", n) is None) == sorted(UNKNOWN)


def test_every_relay_name_in_the_table_is_registered() -> None:
    from tvm_costmodel.ops.aliases import _RELAY

    registered = set(tvm.ir.Op.list_op_names())
    assert [n for n in _RELAY if n not in registered] == []


def test_convolutions() -> None:
    graph = export("convolutions")
    first, depthwise, transposed, movement, channels_last = graph.operators[1:]
    assert first.attrs == {
        "kernel": (3, 5),
        "strides": (2, 2),
        "padding": (1, 2, 1, 2),
        "dilation": (1, 1),
        "groups": 1,
        "data_layout": "NCHW",
        "kernel_layout": "OIHW",
        "in_channels": 8,
        "out_channels": 32,
        "out_dtype": "float32",
    }
    assert (first.outputs, first.weights) == ((f32(1, 32, 8, 6),), (f32(32, 8, 3, 5),))
    assert (depthwise.attrs["groups"], depthwise.attrs["in_channels"]) == (32, 32)
    assert (transposed.op, transposed.attrs["out_channels"]) == ("conv2d_transpose", 4)
    assert (movement.op, movement.attrs) == ("transpose", {"axes": (0, 2, 3, 1)})
    assert channels_last.attrs["in_channels"] == 4
    assert channels_last.attrs["out_channels"] == 6
    assert [cost.macs for cost in graph.costs] == [
        0,
        32 * 8 * 6 * 8 * 3 * 5,
        32 * 8 * 6 * 9,
        32 * 8 * 6 * 4 * 2 * 2,
        0,
        14 * 10 * 6 * 9 * 4,
    ]


def test_tuples_dissolve() -> None:
    graph = export("tuples")
    assert sorted(ops(graph)) == ["concat", "input", "input", "split", "split"]
    assert graph.operators[0].outputs == (f32(4, 6), f32(4, 2))
    by_sections = {o.attrs["sections"]: i for i, o in enumerate(graph.operators) if o.op == "split"}
    parts, columns = by_sections[1, 3], by_sections[2]
    (concat,) = (o for o in graph.operators if o.op == "concat")
    assert graph.operators[columns].inputs == ((0, 0),)
    assert concat.inputs == ((columns, 1), (parts, 2), (parts, 0), (0, 1))
    assert graph.outputs[1:] == ((columns, 0), (columns, 1), (1, 0))


def test_attributes_are_those_of_relax() -> None:
    by_name = {o.op: o.attrs for o in export("attributes").operators}
    assert by_name["clip"] == {"min": 0.0, "max": 6.0}
    assert by_name["strided_slice"] == {"axes": (1,), "begin": (2,), "end": (6,), "strides": (1,)}
    assert by_name["resize2d"]["method"] == "linear"
    assert by_name["pad"] == {
        "pad_width": (0, 0, 0, 0, 1, 1, 2, 2),
        "pad_value": 1.5,
        "mode": "constant",
    }
    assert by_name["triu"] == {"k": 1}
    assert by_name["reshape"] == {}
    assert by_name["leaky_relu"] == {"alpha": 0.1}
    assert by_name["expand_dims"] == {"axes": (2,)}
    assert by_name["mean"] == {"axes": (1,), "keepdims": True}
    assert by_name["sum"] == {"axes": (1, 2), "keepdims": False}
    assert by_name["cast"] == {"dtype": "float16"}


def test_matmuls_have_the_weights_of_relax() -> None:
    graph = export("matmuls")
    weights = [(o.op, [t.shape for t in o.weights]) for o in graph.operators[2:]]
    assert weights == [
        ("take", [(1000, 8)]),
        ("dense", [(8, 16)]),
        ("dense", [(16, 8)]),
        ("matmul", []),
        ("dense", [(8, 4)]),
        ("expand_dims", []),
        ("matmul", [(1, 4, 5)]),
        ("transpose", []),
        ("matmul", [(1, 6, 7)]),
        ("add", [(1, 5, 1)]),
    ]
    macs = [6 * 16 * 8, 6 * 8 * 16, 6 * 8 * 8, 6 * 4 * 8, 6 * 5 * 4, 5 * 7 * 6]
    assert [c.macs for c in graph.costs if c.macs] == macs


def test_any_is_dynamic() -> None:
    graph = export("dynamic")
    assert graph.is_dynamic
    assert graph.operators[0].outputs == (f32(-1, 8),)
    assert graph.operators[2].outputs == (f32(-1, 4),)


def test_quantised_operators_have_plain_names() -> None:
    graph = export("quantised")
    assert ops(graph) == ["input", "conv2d", "quantize", "add", "dequantize"]
    assert graph.operators[1].attrs["out_dtype"] == "int32"
    assert graph.operators[1].weights[0] == TensorType((4, 3, 3, 3), "int8")
    assert graph.operators[2].attrs["dtype"] == "int8"
    assert graph.unknown_ops == ()


def test_control_flow_is_opaque_and_listed() -> None:
    graph = export("branches")
    assert ops(graph) == ["input", "input", "tanh", "exp", "if", "sigmoid"]
    assert graph.operators[4].inputs == ((1, 0), (2, 0), (3, 0))
    assert graph.unknown_ops == ("if",)
    loop = export("closures")
    assert ops(loop) == ["input", "relu", "call"]
    assert loop.operators[2].attrs["callee"] == "loop"
    assert loop.operators[2].inputs == ((0, 0), (1, 0))
    assert export("references").unknown_ops == ("ref_create", "ref_read", "ref_write")


def test_match_and_calls_of_other_functions_are_opaque() -> None:
    mod = relay.fromtext('#[version = "0.0.5"]\ntype Option[A] { Some(A), None, }')
    x = var("x", 4)
    _, some, none = mod.get_type("Option")
    held = relay.var("held")
    option = some(relay.nn.relu(x))
    clauses = [
        relay.Clause(relay.PatternConstructor(some, [relay.PatternVar(held)]), relay.tanh(held)),
        relay.Clause(relay.PatternConstructor(none), relay.exp(x)),
    ]
    mod["main"] = relay.Function([x], relay.Match(option, clauses))
    graph = from_relay(relay.transform.InferType()(mod))
    assert ops(graph) == ["input", "relu", "call", "match"]
    assert graph.operators[2].attrs == {"callee": "Some"}

    other = relay.GlobalVar("other")
    y = var("y", 4)
    mod = tvm.IRModule({other: relay.Function([y], relay.tanh(y), relay.TensorType((4,)))})
    mod["main"] = relay.Function([x], other(relay.exp(x)))
    graph = from_relay(relay.transform.InferType()(mod))
    assert ops(graph) == ["input", "exp", "call"]
    assert graph.operators[2].attrs == {"callee": "other"}


def test_a_normal_form_is_the_same_graph() -> None:
    plain = from_relay(small_network())
    normal = relay.transform.InferType()(relay.transform.ToANormalForm()(small_network()))
    assert isinstance(normal["main"].body, relay.Let)
    assert from_relay(normal).hash == plain.hash


def test_fused_functions_dissolve_into_their_operators() -> None:
    mod = relay.transform.InferType()(relay.transform.SimplifyInference()(small_network()))
    fused = relay.transform.InferType()(relay.transform.FuseOps(2)(mod))
    assert "Primitive" in fused.astext()
    assert from_relay(fused).hash == from_relay(mod).hash


def test_named_parameters_are_weights() -> None:
    mod, params = testing.mlp.get_workload(1)
    mod = relay.transform.InferType()(mod)
    graph = from_relay(mod, params)
    assert (
        ops(graph) == "input batch_flatten dense add relu dense add relu dense add softmax".split()
    )
    bound = relay.build_module.bind_params_by_name(mod["main"], params)
    bound = relay.transform.InferType()(tvm.IRModule.from_expr(bound))
    assert from_relay(bound).hash == graph.hash
    assert from_relay(mod, [*params, "shape of a reshape"]).hash == graph.hash
    assert ops(from_relay(mod)).count("input") == 7


def test_names_stay_with_people() -> None:
    graph = export("branches")
    assert [o.name for o in graph.operators[:4]] == ["x", "flag", "y", "z"]


@pytest.mark.parametrize("form", ["calls", "let"])
def test_chains_of_twenty_thousand_operators(form: str) -> None:
    x = var("x", 4)
    if form == "calls":
        y = x
        for _ in range(20_000):
            y = relay.nn.relu(y)
        mod = typed(y, x)
    else:
        variables = [relay.var(f"v{i}") for i in range(3_000)]
        y = variables[-1]
        for i in reversed(range(3_000)):
            y = relay.Let(variables[i], relay.nn.relu(variables[i - 1] if i else x), y)
        mod = typed(y, x)
    graph = from_relay(mod)
    assert len(graph) == (20_001 if form == "calls" else 3_001)
    assert graph.outputs == ((len(graph) - 1, 0),)


def test_pass_hands_over_the_graph_and_infers_types() -> None:
    x = var("x", 4)
    untyped = tvm.IRModule.from_expr(relay.Function([x], relay.nn.relu(x)))
    graphs: list[OpGraph] = []
    result = tvm.transform.Sequential([ExportGraph(graphs.append), relay.transform.FuseOps()])(
        untyped
    )
    assert [ops(graph) for graph in graphs] == [["input", "relu"]]
    assert "Primitive" in result.astext()
    alone = ExportGraph(graphs.append)(untyped)
    assert len(graphs) == 2
    assert tvm.ir.structural_equal(alone, relay.transform.InferType()(untyped))


def test_a_module_without_types_is_refused_in_one_line() -> None:
    x = var("x", 4)
    untyped = tvm.IRModule.from_expr(relay.Function([x], relay.nn.relu(x)))
    with pytest.raises(GraphError, match=r"no types: run relay\.transform\.InferType\(\)"):
        from_relay(untyped)


def test_types_that_do_not_fit_are_refused_in_one_line() -> None:
    x = var("x", 4)
    wrong = tvm.IRModule.from_expr(relay.Function([x], relay.nn.conv2d(x, const(1, 1, 3, 3))))
    with pytest.raises(GraphError, match="types cannot be inferred") as caught:
        ExportGraph(lambda graph: None)(wrong)
    assert "\n" not in str(caught.value)


def test_wrong_arguments() -> None:
    mod, params = testing.mlp.get_workload(1)
    with pytest.raises(GraphError, match=r"got tuple: importers return \(module, params\)"):
        from_relay((mod, params))
    with pytest.raises(GraphError, match="no parameter nothing; its parameters are data, fc1"):
        from_relay(mod, ["nothing"])
    with pytest.raises(GraphError, match=r'"other" is not in the module; .* main'):
        from_relay(mod, func="other")


def test_every_builder_gives_a_graph_that_its_json_keeps() -> None:
    for name in BUILDERS:
        graph = export(name)
        assert OpGraph.from_json(graph.to_json()).hash == graph.hash, name
        known = [o.op for o in graph.operators if o.op in CATALOGUE]
        assert known, name
