"""Decisions for single kernels: Winograd, im2col, tiles, and weights stored in half precision."""

from __future__ import annotations

import numpy as np
import pytest

from tvm_costmodel.compilers.cpu_rule.emit.packing import PackedParameter, dump_packed, load_packed
from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import KernelDecision
from tvm_costmodel.compilers.cpu_rule.templates.winograd_transforms import WinogradWeights
from tvm_costmodel.compilers.relax import PipelineConfig, build, compare_outputs, cpu_target
from tvm_costmodel.compilers.relax.verification import random_inputs, run
from tvm_costmodel.errors import BuildError, ConfigError

from .networks_small import (
    batch_norm,
    convolution,
    module,
    network,
    nn,
    op,
    outputs_of_default,
    relax,
    values,
)

DEFAULT_KEY = "406af521d93343d4"


def _config(ids, **fields) -> PipelineConfig:
    decision = KernelDecision(**fields)
    return PipelineConfig(kernels=tuple((i, decision) for i in ids))


def _same_as_default(mod, config, rtol, threads=1):
    """Builds with and without the decisions; returns the tuned build."""
    inputs = random_inputs(mod)
    expected = outputs_of_default(mod)()
    built = build(mod, cpu_target(threads), config)
    assert built.unscheduled == ()
    difference = compare_outputs(run(built.executable, inputs), expected, rtol=rtol)
    assert difference.equal, difference
    assert expected[0].std() > 0
    return built


def _templates(built):
    return [kernel.template for kernel in built.kernels]


def _one_convolution(channels, filters, rows, columns, padding=1, batch=1, **attrs):
    def make(emit, x):
        weight = relax.const(values(filters, channels, 3, 3, scale=0.2))
        y = emit(nn.conv2d(x, weight, padding=padding, **attrs))
        y = emit(op.add(y, relax.const(values(1, filters, 1, 1, seed=1))))
        return nn.silu(y)

    return module(make, [(batch, channels, rows, columns)])


@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4", "im2col"])
@pytest.mark.parametrize(
    ("shape", "attrs"),
    [
        ((16, 32, 8, 12), {}),
        ((3, 5, 7, 9), {}),  # no multiple of a tile or of a vector
        ((20, 40, 8, 7), {"padding": 0, "batch": 3}),
        ((33, 16, 5, 11), {"padding": (2, 0, 1, 3)}),  # top, left, bottom, right
    ],
)
def test_algorithms_equal_direct_convolution(algorithm, shape, attrs):
    mod = _one_convolution(*shape, **attrs)
    built = _same_as_default(mod, _config([1], algorithm=algorithm), rtol=3e-5)
    assert algorithm.rstrip("24") in _templates(built)


@pytest.mark.parametrize(
    ("algorithm", "block"), [("winograd2", 5), ("winograd4", 1), ("winograd4", 1000), ("im2col", 5)]
)
def test_any_block_size_computes_the_same(algorithm, block):
    mod = _one_convolution(20, 24, 13, 10)
    _same_as_default(mod, _config([1], algorithm=algorithm, tile_block=block), rtol=3e-5)


@pytest.mark.parametrize(
    ("algorithm", "size"), [("winograd4", 5), ("winograd4", 40), ("im2col", 40)]
)
def test_algorithms_compute_the_same_on_two_threads(algorithm, size):
    mod = _one_convolution(16, 24, size, size)
    _same_as_default(mod, _config([1], algorithm=algorithm), rtol=3e-5, threads=2)


@pytest.mark.parametrize(
    ("algorithm", "kernel", "groups"),
    [("winograd2", 5, 1), ("winograd2", 5, 3), ("winograd4", 3, 2), ("winograd2", 3, 4)],
)
def test_winograd_takes_wider_kernels_and_groups(algorithm, kernel, groups):
    def make(emit, x):
        weight = values(12 * groups, 5, kernel, kernel, scale=0.2)
        y = emit(nn.conv2d(x, relax.const(weight), padding=kernel // 2, groups=groups))
        return nn.relu(emit(op.add(y, relax.const(values(1, 12 * groups, 1, 1)))))

    mod = module(make, [(2, 5 * groups, 9, 11)])
    built = _same_as_default(mod, _config([1], algorithm=algorithm), rtol=3e-5)
    assert "winograd" in _templates(built)


def test_strided_and_dilated_convolutions_take_decisions():
    def make(emit, x):
        first = emit(nn.conv2d(x, relax.const(values(40, 16, 3, 3, scale=0.1)), strides=2))
        second = relax.const(values(40, 40, 3, 3, seed=1, scale=0.1))
        return nn.conv2d(first, second, dilation=2, padding=2)

    mod = module(make, [(1, 16, 15, 11)])
    for fields in ({"algorithm": "im2col"}, {"accumulators": 5, "loop_order": "pixels"}):
        _same_as_default(mod, _config([1, 2], **fields), rtol=1e-5)


def test_a_decision_reaches_its_operator_alone():
    # operators: input, convolution, batch norm, relu, convolution, concat, ...
    mod = network("dense")
    plain, tuned = (
        build(mod, cpu_target(), config)
        for config in (PipelineConfig(), _config([4], algorithm="winograd2"))
    )
    assert _templates(plain).count("channels_last") == 2
    assert _templates(tuned).count("channels_last") == 1
    assert _templates(tuned).count("winograd") == 1
    others = {k.hash for k in tuned.kernels if k.template != "winograd"}
    assert others < {k.hash for k in plain.kernels}


def test_equal_kernels_with_different_decisions_become_two():
    def make(emit, x):
        for seed in range(3):
            x = emit(nn.relu(batch_norm(emit, convolution(emit, x, 16, seed=seed), seed=seed)))
        return x

    mod = module(make, [(1, 16, 10, 10)])
    built = _same_as_default(mod, _config([4], algorithm="winograd4"), rtol=3e-5)
    calls = {kernel.template: kernel.calls for kernel in built.kernels}
    assert calls["channels_last"] == 2 and calls["winograd"] == 1


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_half_precision_weights_stay_within_their_tolerance(layout):
    config = PipelineConfig(
        layout=layout,
        kernels=tuple((i, KernelDecision(weight_dtype="float16")) for i in (1, 4, 7, 12)),
    )
    mod = network("residual")
    built = _same_as_default(mod, config, rtol=2e-3)
    dtypes = [dtype for kernel in built.kernels for _, dtype in kernel.parameters]
    assert "float16" in dtypes
    inputs = random_inputs(mod)
    exact = outputs_of_default(mod)()
    assert compare_outputs(run(built.executable, inputs), exact).max_rel_err > 0


def test_decisions_for_matrix_products_reach_them():
    mod = network("attention")
    config = _config([1, 8, 19], accumulators=4, loop_order="channels")
    built = _same_as_default(mod, config, rtol=1e-5)
    plain = build(mod, cpu_target())
    assert len(built.kernels) > len(
        plain.kernels
    )  # equal matmuls with different decisions are different kernels


def test_merged_matmuls_compute_the_same_and_take_the_decision_of_the_first():
    mod = network("attention")
    decision = KernelDecision(accumulators=4)
    for kernels in ((), ((1, decision), (16, decision))):
        config = PipelineConfig(merge_matmuls=True, kernels=kernels)
        built = _same_as_default(mod, config, rtol=1e-5)
        matmuls = [k for k in built.kernels if k.parameters[1][0][-3:] != (24, 24)]
        assert ((1, 17, 72), "float32") in [k.parameters[-1] for k in matmuls]
    with pytest.raises(BuildError, match="operator 99"):
        build(mod, cpu_target(), PipelineConfig(merge_matmuls=True, kernels=((99, decision),)))


def test_unsuitable_decisions_say_so():
    mod = network("residual")
    with pytest.raises(BuildError, match=r"operator 3, which is clip.*convolutions"):
        build(mod, cpu_target(), _config([3], accumulators=4))
    with pytest.raises(BuildError, match="operator 99, which is not there"):
        build(mod, cpu_target(), _config([99], accumulators=4))
    with pytest.raises(BuildError, match=r"cannot run as winograd2.*leave the algorithm"):
        build(mod, cpu_target(), _config([7], algorithm="winograd2"))  # a 1x1 kernel
    with pytest.raises(ConfigError, match="winograd2, winograd4"):
        KernelDecision(algorithm="fft")
    with pytest.raises(ConfigError, match="did you mean 'algorithm'"):
        KernelDecision.from_dict({"algorithmus": "direct"})
    with pytest.raises(ConfigError, match="accumulators is 99"):
        KernelDecision(accumulators=99)


def test_the_default_config_keeps_its_key():
    assert PipelineConfig().key == DEFAULT_KEY
    assert PipelineConfig(kernels=((3, KernelDecision()),)).key == DEFAULT_KEY
    assert set(PipelineConfig().to_dict()) == {"layout", "fuse", "fold_batch_norm", "rule"}
    configs = [
        _config([3], algorithm="winograd2"),
        _config([4], algorithm="winograd2"),
        _config([3], algorithm="winograd4"),
        PipelineConfig(fuse_depth=3),
        PipelineConfig(merge_matmuls=True),
        PipelineConfig(cancel_transposes=False),
    ]
    assert len({DEFAULT_KEY, *(config.key for config in configs)}) == 7
    for config in configs:
        assert PipelineConfig.from_dict(config.to_dict()) == config


def test_fusion_depth_limits_kernels():
    names = {
        depth: [
            k.name
            for k in build(
                network("residual"), cpu_target(), PipelineConfig(fuse_depth=depth)
            ).kernels
        ]
        for depth in (1, 2)
    }
    assert not any(name.startswith("fused") for name in names[1])
    assert "fused_conv2d_add" in names[2] and "fused_maximum_minimum" in names[2]


def test_stored_weights_survive_json_and_filter_as_the_definition_says():
    elements = ((0, 1, 2, 3), (2, 3, 4, 5))
    for outputs in (2, 4):
        stored = WinogradWeights(1, outputs, elements)
        assert load_packed(dump_packed([stored])) == [stored]
        plain = values(3, 3, 7, 6)
        packed = stored.pack(plain)
        assert packed.shape == stored.shape(plain.shape) == ((outputs + 2) ** 2 * 2, 7, 4)
        # the first product has the filter's first element alone, the last its last
        factor = {2: 1.0, 4: 1 / 16}[outputs]
        np.testing.assert_allclose(packed[0], factor * plain[0, 0, :, :4], rtol=1e-6)
        np.testing.assert_allclose(packed[-1], plain[2, 2, :, 2:], rtol=1e-6)
    half = PackedParameter(1, 3, elements, (0, 1, 2), "float16", flat=True)
    assert load_packed(dump_packed([half])) == [half]
    assert half.pack(plain).shape == half.shape(plain.shape) == (2, 63, 4)
