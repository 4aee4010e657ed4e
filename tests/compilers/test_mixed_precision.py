"""Mixed precision: which values are stored in float16, and that outputs stay right."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax

from tvm_costmodel.compilers.relax import (
    PipelineConfig,
    build,
    cpu_target,
    has_half_arithmetic,
    verify,
)
from tvm_costmodel.compilers.relax.passes.mixed_precision import to_mixed_precision
from tvm_costmodel.compilers.relax.verification import random_inputs
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph_passes.mixed_precision import Step, float16_values

from .networks_small import (
    NETWORKS,
    convolution,
    module,
    network,
    nn,
    op,
    outputs_of_default,
    staged,
    values,
)

HALF = PipelineConfig(precision="float16")
TOLERANCE = 5e-3  # what the decision declares


def _modules() -> dict[str, tvm.IRModule]:
    return {**{name: network(name) for name in NETWORKS}, "staged": staged()}


@pytest.mark.parametrize("name", [*NETWORKS, "staged"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_outputs_stay_within_the_tolerance(name, layout):
    mod = _modules()[name]
    built = build(mod, cpu_target(), PipelineConfig(layout=layout, precision="float16"))
    assert built.unscheduled == ()
    plain = outputs_of_default(mod)
    difference = verify(built.executable, plain, random_inputs(mod), rtol=TOLERANCE)
    assert difference.equal and difference.max_abs_err > 0, difference


def test_matmuls_read_float16_with_the_loops_of_float32():
    def kernels_of(config):
        kernels = build(staged(), cpu_target(), config).kernels
        return [k for k in kernels if "conv2d" in k.name or "matmul" in k.name]

    plain, mixed = kernels_of(PipelineConfig()), kernels_of(HALF)
    assert [k.template for k in mixed] == [k.template for k in plain]
    assert [k.template for k in mixed].count("channels_last") == 7 == len(mixed) - 1
    for kernel in mixed:
        assert [dtype for _, dtype in kernel.parameters[:2]] == ["float16", "float16"]


def test_a_residual_is_stored_in_float16_and_added_in_float32():
    def make(emit, x):
        y = emit(nn.relu(convolution(emit, x, 8)))
        z = emit(op.add(convolution(emit, y, 8, seed=1), y))
        return convolution(emit, emit(nn.relu(z)), 8, seed=2)

    graph = from_relax(to_mixed_precision()(module(make, [(1, 8, 9, 9)])))
    dtypes = [(o.op, o.outputs[0].dtype) for o in graph.operators]
    assert dtypes == [
        ("input", "float32"),
        ("cast", "float16"),
        ("conv2d", "float32"),
        ("relu", "float32"),
        ("cast", "float16"),  # read by the next convolution and by the sum
        ("conv2d", "float32"),
        ("cast", "float32"),  # of its own for the sum, so that it is part of its kernel
        ("add", "float32"),
        ("relu", "float32"),
        ("cast", "float16"),
        ("conv2d", "float32"),
    ]
    weights = [o.weights[0].dtype for o in graph.operators if o.op == "conv2d"]
    assert weights == ["float16"] * 3


def test_moving_operators_pass_float16_on_and_outputs_stay_float32():
    def make(emit, x):
        parts = emit(op.split(convolution(emit, x, 8), 2, 1))
        one, two = (emit(relax.TupleGetItem(parts, i)) for i in range(2))
        pooled = emit(nn.max_pool2d(emit(op.concat([two, one], 1)), (2, 2), strides=(2, 2)))
        last = convolution(emit, pooled, 4, seed=1)
        return emit(relax.Tuple([last, convolution(emit, last, 4, seed=2)]))

    mod = module(make, [(1, 4, 8, 8)])
    graph = from_relax(to_mixed_precision()(mod))
    kinds = {o.op: {t.dtype for t in o.outputs} for o in graph.operators}
    assert kinds["split"] == kinds["concat"] == kinds["max_pool2d"] == {"float16"}
    types = [graph.operators[src].outputs[index].dtype for src, index in graph.outputs]
    assert types == ["float32", "float32"]
    mixed = build(mod, cpu_target(), HALF).executable
    assert verify(mixed, outputs_of_default(mod), random_inputs(mod), rtol=TOLERANCE).equal


def test_what_is_in_half_precision_already_stays_as_it_is():
    def make(emit, x):
        weight = relax.const(values(16, 8).astype("float16"))
        return emit(op.matmul(emit(nn.relu(x)), weight))

    mod = module(make, [(4, 16)], "float16")
    assert from_relax(to_mixed_precision()(mod)).hash == from_relax(mod).hash


def test_only_inputs_of_matmuls_are_float16():
    steps = [
        Step("conv2d", ("x",), ("a",), True),
        Step("concat", ("a", "x"), ("b",), True),
        Step("relu", ("b",), ("c",), True),
        Step("dense", ("c",), ("d",), True),
        Step("softmax", ("d",), ("e",), True),
    ]
    assert float16_values(steps, ["x", "e"]) == {"a", "b", "c"}
    assert float16_values(steps, ["x", "e", "b"]) == {"c"}  # results of the network stay float32
    mixed = [steps[0], Step("concat", ("a", "x"), ("b",), False), *steps[2:]]
    assert float16_values(mixed, ["x", "e"]) == {"c"}


def test_constants_of_other_operators_stay_float32():
    mod = network("residual")
    before = mod.script()
    build(mod, cpu_target(), HALF)
    assert mod.script() == before
    graph = from_relax(to_mixed_precision()(mod))
    dtypes = {t.dtype for o in graph.operators if o.op == "batch_norm" for t in o.weights}
    assert dtypes == {"float32"}


def test_targets_say_whether_they_compute_in_half_precision():
    assert has_half_arithmetic(cpu_target(mcpu="sapphirerapids"))
    assert not has_half_arithmetic(cpu_target(mcpu="haswell"))
    arm = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
    assert has_half_arithmetic(tvm.target.Target({**arm, "mattr": ["+fullfp16"]}))
    assert not has_half_arithmetic(tvm.target.Target({**arm, "mcpu": "cortex-a72"}))
