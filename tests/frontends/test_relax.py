"""Relax -> OpGraph: what the walk understands, and the pass."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax
from tvm.relax import op

from tests.frontends.relax_modules import BUILDERS, const, function, var
from tvm_costmodel.errors import GraphError
from tvm_costmodel.frontends.relax.export import ExportGraph, from_relax
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import TensorType
from tvm_costmodel.ops import CATALOGUE, canonical_name

NOT_FOR_INFERENCE = (
    "assert_op builtin. call_ ccl. dist. grad. inspect. invoke_ make_closure memory.alloc_ "
    "memory.kill_ null_value print vm."
).split()
"""Relax operators, by prefix, that are runtime plumbing, training or multi-device."""


def f32(*shape: int) -> TensorType:
    return TensorType(shape, "float32")


def export(name: str, func: str = "main") -> OpGraph:
    return from_relax(BUILDERS[name](), func)


def rows(graph: OpGraph) -> list[tuple]:
    return [(o.op, o.inputs, [t.shape for t in o.weights]) for o in graph.operators]


def test_every_inference_operator_of_relax_has_a_canonical_name() -> None:
    names = [n for n in tvm.ir.Op.list_op_names() if n.startswith("relax.")]
    assert len(names) > 200
    unknown = [n.removeprefix("relax.") for n in names if canonical_name("relax", n) is None]
    missing = [n for n in unknown if not n.startswith(tuple(NOT_FOR_INFERENCE))]
    assert missing == []


def test_every_relax_name_in_the_table_is_registered() -> None:
    from tvm_costmodel.ops.aliases import _RELAX

    registered = set(tvm.ir.Op.list_op_names())
    assert [n for n in _RELAX if f"relax.{n}" not in registered] == []


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
    assert channels_last.attrs["kernel"] == (3, 3)
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
    assert [o.op for o in graph.operators] == ["input", "input", "split", "split", "concat"]
    assert graph.operators[0].outputs == (f32(4, 6), f32(4, 2))
    assert graph.operators[2].attrs == {"axis": 1, "sections": (1, 3)}
    assert graph.operators[3].inputs == ((0, 0),)
    assert graph.operators[4].inputs == ((3, 1), (2, 2), (2, 0), (0, 1))
    assert graph.outputs == ((4, 0), (3, 0), (3, 1), (1, 0))


def test_literal_arguments_become_attributes() -> None:
    by_name = {o.op: o.attrs for o in export("literal_arguments").operators}
    assert by_name["clip"] == {"min": 0.0, "max": 6.0}
    assert by_name["strided_slice"] == {"axes": (1,), "begin": (2,), "end": (6,), "strides": (2,)}
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
    assert by_name["cast"] == {"dtype": "float16"}


def test_constants_become_weights_and_what_they_alone_decide_folds() -> None:
    graph = export("constants_before_activations")
    assert rows(graph)[2:] == [
        ("take", ((1, 0),), [(1000, 8)]),
        ("matmul", ((2, 0),), [(4, 6)]),
        ("matmul", ((3, 0), (0, 0)), []),
        ("dense", ((4, 0),), [(8, 16)]),
        ("subtract", ((5, 0),), [(4, 16)]),
    ]
    positions = [o.attrs.get("weight_positions") for o in graph.operators[2:]]
    assert positions == [(0,), (0,), None, None, (0,)]
    assert [c.macs for c in graph.costs[2:]] == [0, 4 * 8 * 6, 4 * 8 * 8, 4 * 16 * 8, 0]


def test_symbolic_extents_are_minus_one() -> None:
    graph = export("symbolic_shapes")
    assert graph.is_dynamic
    assert graph.operators[0].outputs == (f32(-1, 8),)
    assert graph.operators[1].outputs == (TensorType((2,), "shape"),)
    assert graph.operators[2].outputs == (f32(-1, -1, -1),)
    assert graph.operators[3].outputs == (f32(-1),)  # of unknown rank
    assert graph.operators[5].outputs == (f32(-1, 4, 2),)
    assert graph.operators[7].inputs == ((4, 0), (1, 0))  # reshaped to a shape that is computed
    assert graph.unknown_ops == ()


def test_parameters_after_num_input_are_weights() -> None:
    module = BUILDERS["weights_as_parameters"]()
    graph = from_relax(module)
    assert rows(graph) == [
        ("input", (), []),
        ("dense", ((0, 0),), [(8, 16)]),
        ("add", ((1, 0),), [(16,)]),
    ]
    everything = from_relax(module, num_inputs=3)
    assert [o.op for o in everything.operators] == ["input", "input", "input", "matmul", "add"]
    assert from_relax(module, num_inputs=1).hash == graph.hash
    bound = relax.transform.BindParams("main", {"w": const(8, 16).value, "bias": const(16).value})
    assert from_relax(bound(module)).hash == graph.hash


def test_results_that_are_constant_stay_in_the_graph() -> None:
    graph = export("constant_results")
    assert [o.op for o in graph.operators] == ["input", "relu", "constant", "constant"]
    assert graph.outputs == ((1, 0), (2, 0), (3, 0))
    assert graph.operators[3].outputs == (TensorType((2,), "int32"),)
    assert graph.unknown_ops == ()


@pytest.mark.parametrize(
    ("name", "func", "unknown"),
    [
        ("packed_calls", "main", ("call_dps_packed", "call_pure_packed")),
        ("control_flow", "branches", ("if",)),
        ("control_flow", "main", ("call",)),
        (
            "legalised",
            "main",
            ("tir.conv2d", "tir.conv2d1", "tir.conv2d2", "tir.conv2d_transpose", "tir.transpose"),
        ),
        ("odd_operators", "main", ()),
    ],
)
def test_what_cannot_be_known_is_listed(name, func, unknown) -> None:
    assert export(name, func).unknown_ops == unknown


def test_opaque_operators_read_what_they_capture() -> None:
    branches = export("control_flow", "branches").operators
    assert [o.op for o in branches] == ["input", "input", "relu", "exp", "if", "sqrt"]
    assert branches[4].inputs == ((1, 0), (2, 0), (3, 0), (0, 0))
    inner = export("control_flow").operators[3]
    assert (inner.op, inner.inputs) == ("call", ((2, 0), (1, 0)))
    assert inner.attrs == {"callee": "inner"}
    packed = export("packed_calls").operators[1]
    assert packed.attrs == {"callee": "my.kernel"}
    assert packed.weights == (f32(4),)


def test_names_and_bindings_do_not_change_the_hash() -> None:
    def net(first: str, spare: bool) -> OpGraph:
        x = var(first, 4, 8)

        def body(b):
            y = b.emit(op.nn.relu(x), name_hint=first + "_relu")
            z = b.emit(relax.Tuple([y, x])) if spare else None
            y = b.emit(relax.TupleGetItem(z, 0)) if spare else y
            return op.add(b.emit(op.exp(y)), y)

        return from_relax(function([x], body))

    assert net("x", False).hash == net("image", True).hash


@pytest.mark.parametrize("engine", ["auto", "python", "native"])
def test_missing_functions(engine) -> None:
    module = BUILDERS["legalised"]()
    with pytest.raises(GraphError, match='"other" is not in the module; its Relax functions are m'):
        from_relax(module, "other", engine=engine)
    with pytest.raises(GraphError, match='"conv2d" is no Relax function'):
        from_relax(module, "conv2d", engine=engine)
    del module["main"]
    with pytest.raises(GraphError, match="has no Relax function"):
        from_relax(module, engine=engine)
    with pytest.raises(GraphError, match=r"expected a tvm.IRModule, got str"):
        from_relax("model.onnx", engine=engine)


def test_export_pass_returns_its_module_unchanged() -> None:
    module = BUILDERS["convolutions"]()
    graphs: list[OpGraph] = []
    after = ExportGraph(graphs.append)(module)
    tvm.ir.assert_structural_equal(after, module, map_free_vars=True)
    assert graphs == [from_relax(module)]


def test_export_pass_in_a_pipeline() -> None:
    before: list[OpGraph] = []
    after: list[OpGraph] = []
    steps = [
        ExportGraph(before.append),
        relax.transform.LegalizeOps(),
        ExportGraph(after.append, func="main"),
    ]
    tvm.transform.Sequential(steps)(BUILDERS["convolutions"]())
    assert before[0].unknown_ops == ()
    assert before[0].hash == export("convolutions").hash
    assert after[0].unknown_ops and all(op.startswith("tir.") for op in after[0].unknown_ops)


# Attributes that Relax gives a value to only when its caller does.
OPTIONAL = {
    ("attention", "scale"),
    ("attention", "causal_mask"),
    ("attention", "window_size"),
    ("strided_slice", "strides"),
    ("layout_transform", "pad_value"),
    ("cumsum", "dtype"),
    ("cumprod", "dtype"),
    ("take", "axis"),
    *((f"conv{rank}d_transpose", "output_padding") for rank in (1, 2, 3)),
}


def test_operators_have_every_attribute_that_the_catalogue_names() -> None:
    graph = export("networks_vocabulary")
    assert graph.unknown_ops == ()
    assert len({o.op for o in graph.operators}) > 80
    for operator in graph.operators:
        missing = set(CATALOGUE[operator.op].attrs) - set(operator.attrs)
        assert {(operator.op, name) for name in missing} <= OPTIONAL


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("mean", {"axes": (2, 3), "keepdims": False}),
        ("argmax", {"axes": (1,), "keepdims": True}),
        ("softmax", {"axis": 1}),
        ("layer_norm", {"axes": (3,), "epsilon": 1e-05, "center": True, "scale": True}),
        ("take", {"axis": 3, "mode": "fast"}),
        ("stack", {"axis": 4}),
        ("transpose", {"axes": (3, 2, 1, 0)}),
        ("tril", {"k": -1}),
        ("squeeze", {"axes": (1,)}),
        ("adaptive_avg_pool2d", {"output_size": (2, 3), "layout": "NCHW"}),
        (
            "max_pool2d",
            {
                "kernel": (3, 3),
                "strides": (2, 2),
                "padding": (0, 1, 0, 1),
                "dilation": (1, 1),
                "ceil_mode": True,
                "count_include_pad": False,
                "layout": "NCHW",
            },
        ),
        ("quantize", {"axis": 1, "dtype": "int8"}),
    ],
)
def test_canonical_attributes(op, attrs) -> None:
    found = next(o for o in export("networks_vocabulary").operators if o.op == op)
    assert found.attrs == attrs


def test_left_out_axes_are_written_out() -> None:
    x = var("x", 1, 4, 1)

    def body(b):
        return relax.Tuple([b.emit(c) for c in (op.squeeze(x), op.sum(x), op.permute_dims(x))])

    attrs = [o.attrs for o in from_relax(function([x], body)).operators[1:]]
    assert attrs == [
        {"axes": (0, 2)},
        {"axes": (0, 1, 2), "keepdims": False},
        {"axes": (2, 1, 0)},
    ]


@pytest.mark.parametrize(
    ("name", "hash_"),
    [
        ("convolutions", "f9c948a783c9a0d8d53734412484f26e"),
        ("tuples", "a6950a84c5e9f66332a5383f8ef191fc"),
        ("networks_vocabulary", "a15b6a1608c35e699e5750ee697992c5"),
    ],
)
def test_content_hashes_do_not_drift(name, hash_) -> None:
    """Measurements are keyed by them: a change here makes every stored label a stranger."""
    assert export(name).hash == hash_


def test_attributes_are_canonical_everywhere() -> None:
    for name in BUILDERS:
        for operator in export(name).operators:
            spec = CATALOGUE.get(operator.op)
            if spec is not None:
                assert set(operator.attrs) <= {*spec.attrs, "weight_positions"}, name
