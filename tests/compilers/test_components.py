"""What a build says of the components that it used, and what their versions make stale."""

from __future__ import annotations

import dataclasses

import onnx
import pytest
import tvm
from onnx import helper
from tvm import relax

from tests.compilers.networks_small import convolution, module, network, values
from tvm_costmodel.compilers import components
from tvm_costmodel.compilers.components import COMPONENTS, DEPTHWISE, full_record, operator_kinds
from tvm_costmodel.compilers.cpu_rule.rule import TEMPLATES
from tvm_costmodel.compilers.relax import PipelineConfig, build, cpu_target
from tvm_costmodel.frontends.onnx.operators.rewriting import REWRITES
from tvm_costmodel.frontends.onnx.reader import from_onnx, onnx_to_relax
from tvm_costmodel.frontends.onnx.relax_importer import NAMED_ALWAYS
from tvm_costmodel.frontends.onnx.rewrites import (
    IMPORTER,
    component_of,
    note_rewrite,
    rewrites_of,
)
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.ops import CATALOGUE

op = relax.op
NAMES = {component.name for component in COMPONENTS["relax"]}


def used(mod: tvm.IRModule, **decisions: object) -> set[str]:
    return set(build(mod, cpu_target(), PipelineConfig(**decisions)).components)  # type: ignore[arg-type]


def bumped(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Raises the versions of components by one."""
    table = tuple(
        dataclasses.replace(c, version=c.version + 1) if c.name in names else c
        for c in COMPONENTS["relax"]
    )
    monkeypatch.setitem(components.COMPONENTS, "relax", table)


def test_the_table_is_sound() -> None:
    for compiler, table in COMPONENTS.items():
        names = [component.name for component in table]
        assert len(set(names)) == len(names), compiler
        for component in table:
            assert component.version >= 1 and component.doc
            assert component.operators <= set(CATALOGUE) | {DEPTHWISE, components.OPAQUE}, (
                component.name
            )
    made = {components.template_component(template.name) for template in TEMPLATES}
    assert made | {components.FALLBACK} == {n for n in NAMES if n.startswith("template/")}
    functions = ("exp", "sigmoid", "tanh", "erf", "pow")
    assert {components.vector_math_component(name) for name in functions} <= NAMES


def test_the_pipeline_key_stays() -> None:
    assert PipelineConfig().key == "406af521d93343d4"


def test_a_build_names_templates_vector_math_and_passes() -> None:
    built = build(network("residual"), cpu_target())
    assert set(built.components) == {
        "template/conv",
        "template/depthwise",
        "template/pooling",
        "template/reduction",
        "emit/exp",
        "pass/fold_batch_norm",
        "pass/fold_constants",
        "pass/layout",
    } | ({"template/elementwise"} & set(built.components))
    (softmax,) = [k for k in built.kernels if "softmax" in k.name]
    assert softmax.components == ("template/reduction", "emit/exp")
    assert softmax.template == "row_reduction"
    kinds = operator_kinds(from_relax(network("residual")))
    assert {"conv2d", DEPTHWISE, "softmax", "clip"} <= kinds


def test_a_pass_that_changes_nothing_is_not_used() -> None:
    shapes = [(1, 3, 8, 8)]
    plain = module(lambda emit, x: convolution(emit, x, 4), shapes)
    assert not {"pass/fold_batch_norm", "emit/exp", "template/depthwise"} & used(plain)
    assert "pass/layout" in used(plain)
    kept = used(plain, layout="NCHW")
    assert not {"pass/layout", "pass/cancel_transposes", "pass/fold_constants"} & kept
    dense = module(lambda emit, x: op.matmul(x, relax.const(values(8, 4))), [(2, 8)])
    assert used(dense) == {"template/conv"}
    assert used(dense, merge_matmuls=True) == {"template/conv"}


def test_decisions_name_their_passes() -> None:
    def both(emit, x):  # type: ignore[no-untyped-def]
        left = emit(op.matmul(x, relax.const(values(8, 4))))
        return op.add(left, emit(op.matmul(x, relax.const(values(8, 4, seed=1)))))

    mod = module(both, [(2, 8)])
    assert "pass/merge_matmuls" in used(mod, merge_matmuls=True)
    assert "pass/merge_matmuls" not in used(mod)
    assert "pass/mixed_precision" in used(mod, precision="float16")


@pytest.mark.parametrize(
    ("make", "component"),
    [
        (op.exp, "emit/exp"),
        (op.sigmoid, "emit/exp"),
        (op.tanh, "emit/tanh"),
        (op.nn.gelu, "emit/erf"),
        (lambda x: op.power(x, relax.const(0.75)), "emit/pow"),
        (op.sqrt, None),
    ],
)
def test_vector_math_that_replaces_calls_is_noted(make, component) -> None:  # type: ignore[no-untyped-def]
    names = used(module(lambda emit, x: make(x), [(4, 33)]))
    assert {name for name in names if name.startswith("emit/")} == ({component} - {None})


def test_importers_name_their_rewrites() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    x, y = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [2, 4]) for n in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [x], [y]), ir_version=8)
    plain = onnx_to_relax(model)
    assert rewrites_of(plain) == ("importer/onnx",)
    assert build(plain, cpu_target()).components == {
        "importer/onnx": 1,
        "template/elementwise": 1,
    }
    note_rewrite(model, "importer/synthetic")
    marked = onnx_to_relax(model)
    assert rewrites_of(marked) == ("importer/onnx", "importer/synthetic")
    assert from_relax(marked).hash == from_onnx(model).hash == from_relax(plain).hash
    unmarked = build(plain.without_attr("tvm_costmodel.rewrites"), cpu_target())
    assert [k.hash for k in unmarked.kernels] == [
        k.hash for k in build(marked, cpu_target()).kernels
    ]


def test_each_operator_that_is_rewritten_has_a_component_of_its_own() -> None:
    rewritten = {component_of(name) for name in (*REWRITES, *NAMED_ALWAYS, "Pad")}
    assert rewritten | {IMPORTER} == {name for name in NAMES if name.startswith("importer/")}


def test_records_tell_what_was_left_alone_from_what_was_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = tuple(dataclasses.replace(c, version=1) for c in COMPONENTS["relax"])
    monkeypatch.setitem(components.COMPONENTS, "relax", first)
    record = full_record("relax", {"template/conv": 1, "emit/exp": 1})
    assert set(record) == NAMES and record["template/conv"] == 1 and record["emit/tanh"] == 0

    def stale(recorded: dict[str, int] | None, *kinds: str) -> tuple[str, ...]:
        return components.stale_components("relax", recorded, lambda: kinds, {"layout": "NHWC"})

    assert stale(record, "conv2d") == stale(None, "conv2d") == ()
    bumped(monkeypatch, "emit/exp", "emit/tanh", "template/winograd")
    assert stale(record, "conv2d", "tanh") == ("emit/exp",)
    assert stale(None, "conv2d", "tanh") == ("emit/tanh",)
    assert stale(None, "conv2d") == ()
    new = components.Component("importer/new", 2, frozenset(("tile",)), "synthetic")
    table = (*components.COMPONENTS["relax"], new)
    monkeypatch.setitem(components.COMPONENTS, "relax", table)
    assert stale(record, "tile") == ("emit/exp", "importer/new")
    assert stale(None, "tile") == ("importer/new",)
    assert stale({"gone": 1}, "relu") == ("gone",)
    assert stale({}, "tanh") == ()
