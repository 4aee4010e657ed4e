from __future__ import annotations

import pytest
from tvm import relax

from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig

from .cpu_rule_cases import assert_same_result, fused_module, schedule, weights

nn, op = relax.op.nn, relax.op


def conv(layout, height, width, data, out, kernel, groups=1, residual=False, **attrs):
    """A convolution with bias, residual and relu; returns the builder and the input shapes."""
    attrs.setdefault("padding", kernel // 2)
    last = layout == "NHWC"
    per_group = data // groups
    shape = (kernel, kernel, per_group, out) if last else (out, per_group, kernel, kernel)
    bias = (1, 1, 1, out) if last else (1, out, 1, 1)
    inputs = [(1, height, width, data) if last else (1, data, height, width)]

    def build(builder, x, *rest):
        y = nn.conv2d(
            x,
            weights(*shape),
            groups=groups,
            data_layout=layout,
            kernel_layout="HWIO" if last else "OIHW",
            **attrs,
        )
        y = builder.emit(op.add(builder.emit(y), weights(*bias, seed=2)))
        if rest:
            y = builder.emit(op.add(y, rest[0]))
        return nn.relu(y)

    if residual:
        stride = attrs.get("strides", 1)
        rows, columns = -(-height // stride), -(-width // stride)
        inputs.append((1, rows, columns, out) if last else (1, out, rows, columns))
    return build, inputs


CHANNELS_LAST = {
    "one input channel": (9, 9, 1, 16, 3, {}),
    "three input channels": (17, 15, 3, 24, 7, {"strides": 2, "padding": 3}),
    "one output channel": (7, 7, 16, 1, 3, {}),
    "three output channels": (7, 13, 5, 3, 3, {}),
    "seventeen channels": (13, 7, 17, 17, 3, {}),
    "a thousand channels": (13, 13, 32, 1000, 1, {}),
    "one pixel": (1, 1, 40, 48, 1, {}),
    "one pixel of a 3x3": (1, 1, 20, 33, 3, {}),
    "pointwise, odd pixels": (13, 13, 48, 72, 1, {}),
    "pointwise, strided": (13, 13, 24, 40, 1, {"strides": 2}),
    "pointwise, padded": (5, 5, 8, 32, 1, {"padding": 1}),
    "dilated": (14, 14, 12, 34, 3, {"dilation": 2, "padding": 2}),
    "unequal padding": (9, 11, 6, 20, 3, {"padding": (0, 1, 2, 0)}),
    "five by five, wide": (7, 29, 10, 50, 5, {}),
    "residual": (7, 7, 64, 100, 3, {"residual": True}),
    "residual, pointwise": (14, 14, 20, 60, 1, {"residual": True}),
}


@pytest.mark.parametrize("case", CHANNELS_LAST)
def test_channels_last_equals_plain_build(case):
    height, width, data, out, kernel, attrs = CHANNELS_LAST[case]
    build, shapes = conv("NHWC", height, width, data, out, kernel, **attrs)
    assert_same_result(build, shapes, "channels_last")


@pytest.mark.parametrize("case", CHANNELS_LAST)
def test_channels_first_equals_plain_build(case):
    height, width, data, out, kernel, attrs = CHANNELS_LAST[case]
    build, shapes = conv("NCHW", height, width, data, out, kernel, **attrs)
    assert_same_result(build, shapes, "channels_first")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("channels", "groups"), [(136, 4), (272, 4), (24, 4), (32, 2), (21, 3)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_grouped_equals_plain_build(layout, channels, groups, kernel):
    build, shapes = conv(layout, 7, 7, channels, channels, kernel, groups, residual=True)
    template = "channels_last" if layout == "NHWC" else "channels_first"
    assert_same_result(build, shapes, template)


def test_grouped_with_more_outputs_than_inputs():
    build, shapes = conv("NHWC", 7, 7, 24, 112, 1, groups=4)
    assert_same_result(build, shapes, "channels_last")


@pytest.mark.parametrize("channels", [1, 3, 17, 32, 136])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2), (7, 1)])
def test_depthwise_equals_plain_build(channels, kernel, stride):
    build, shapes = conv("NHWC", 13, 13, channels, channels, kernel, channels, strides=stride)
    template = "depthwise_channels_last" if channels > 1 else "channels_last"
    assert_same_result(build, shapes, template)


@pytest.mark.parametrize("channels", [3, 32])
@pytest.mark.parametrize("stride", [1, 2])
def test_channels_first_depthwise_equals_plain_build(channels, stride):
    build, shapes = conv("NCHW", 13, 13, channels, channels, 3, channels, strides=stride)
    assert_same_result(build, shapes, "channels_first")


@pytest.mark.parametrize(
    "config",
    [
        CpuRuleConfig(pack_weights=False),
        CpuRuleConfig(vector_bits=256),
        CpuRuleConfig(vector_bits=128, accumulators=8),
        CpuRuleConfig(accumulators=16, vectors_per_tile=4),
        CpuRuleConfig(vectors_per_tile=1, loop_order="pixels"),
        CpuRuleConfig(loop_order="channels"),
    ],
    ids=lambda config: str({k: v for k, v in config.to_dict().items() if v}),
)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_parameters_do_not_change_the_result(config, layout):
    build, shapes = conv(layout, 11, 13, 20, 72, 3, residual=True)
    template = "channels_last" if layout == "NHWC" else "channels_first"
    assert_same_result(build, shapes, template, config)


def test_weights_that_are_inputs_are_not_packed():
    def build(builder, x, w):
        return nn.conv2d(x, w, padding=1, data_layout="NHWC", kernel_layout="HWIO")

    assert_same_result(build, [(1, 7, 7, 16), (3, 3, 16, 40)], "channels_last")


def test_one_function_called_with_two_constants_packs_both():
    def build(builder, x):
        for seed in (1, 2):
            y = nn.conv2d(
                x, weights(3, 3, 16, 16, seed=seed), 1, 1, data_layout="NHWC", kernel_layout="HWIO"
            )
            x = builder.emit(y)
        return x

    scheduled = assert_same_result(build, [(1, 7, 7, 16)], "channels_last")
    assert len([1 for _, f in scheduled.functions_items()]) == 2


def test_unfused_epilogue_with_activation_of_the_sum():
    def build(builder, x):
        y = nn.conv2d(x, weights(3, 3, 8, 24), 1, 1, data_layout="NHWC", kernel_layout="HWIO")
        return nn.silu(builder.emit(y))

    assert_same_result(build, [(1, 9, 9, 8)], "channels_last")


@pytest.mark.parametrize("batch", [2, 5])
def test_batches(batch):
    def build(builder, x):
        y = nn.conv2d(x, weights(1, 1, 8, 24), data_layout="NHWC", kernel_layout="HWIO")
        return nn.relu(builder.emit(y))

    assert_same_result(build, [(batch, 5, 5, 8)], "channels_last")


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_several_cores_run_parallel_loops(layout):
    build, shapes = conv(layout, 14, 14, 16, 48, 3)
    template = "channels_last" if layout == "NHWC" else "channels_first"
    scheduled = assert_same_result(build, shapes, template, cores=2)
    assert "T.parallel" in scheduled.script()
    alone, _ = schedule(fused_module(build, shapes))
    assert "T.parallel" not in alone.script()
    off, _ = schedule(fused_module(build, shapes), CpuRuleConfig(parallel=False), cores=2)
    assert "T.parallel" not in off.script()


def test_depthwise_runs_parallel_loops():
    build, shapes = conv("NHWC", 14, 14, 32, 32, 3, groups=32)
    scheduled = assert_same_result(build, shapes, "depthwise_channels_last", cores=2)
    assert "T.parallel" in scheduled.script()
