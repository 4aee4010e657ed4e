"""Lowering must leave the scheduled buffers as they are: a smaller one would be written past."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm
from tvm import relax, s_tir, tirx

from tvm_costmodel.compilers.relax import PipelineConfig, cpu_target, lower


def strided_convolution(channels: int, groups: int, layout: str) -> tvm.IRModule:
    """A 3x3 convolution of stride 2 on an even image: its last padded column is never read."""
    weights = np.ones((channels, channels // groups, 3, 3), "float32")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, channels, 16, 16), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = relax.op.nn.conv2d(x, relax.const(weights), strides=2, padding=1, groups=groups)
            out = builder.emit_output(relax.op.nn.relu(builder.emit(y)))
        builder.emit_func_output(out)
    return lower(builder.get(), cpu_target(), PipelineConfig(layout=layout))


def allocated(func: tirx.PrimFunc) -> list[int]:
    """Elements of every buffer that the function's root block allocates."""
    root = func.body.block if isinstance(func.body, s_tir.SBlockRealize) else func.body
    return [math.prod(int(d) for d in buffer.ty.shape) for buffer in root.alloc_buffers]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
@pytest.mark.parametrize(("channels", "groups"), [(32, 1), (32, 32), (24, 2)])
def test_padding_is_not_cut_down(channels: int, groups: int, layout: str) -> None:
    seen = 0
    for variable, func in strided_convolution(channels, groups, layout).functions_items():
        if not isinstance(func, tirx.PrimFunc):
            continue
        mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
        for name in ("LowerInitBlock", "ConvertBlocksToOpaque"):
            mod = getattr(s_tir.transform, name)()(mod)
        before = allocated(mod["main"])
        after = allocated(s_tir.transform.CompactBufferAllocation()(mod)["main"])
        assert after == before, variable.name_hint
        seen += len(before)
    assert seen == 1, "the convolution pads its input in one buffer"
