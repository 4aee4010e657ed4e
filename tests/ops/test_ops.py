"""The operator catalogue: names across sources, and costs against numbers worked out by hand."""

from __future__ import annotations

import pytest

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.ops import CATALOGUE, CATEGORIES, OpCost, canonical_name
from tvm_costmodel.ops.aliases import _ONNX, _RELAX, _RELAY


def f32(*shape: int) -> TensorType:
    return TensorType(shape, "float32")


def cost(op, reads, writes, weights=(), **attrs) -> OpCost:
    """Cost of one operator that reads graph inputs of the given types."""
    inputs = tuple(Operator("input", (), (t,)) for t in reads)
    edges = tuple((i, 0) for i in range(len(reads)))
    tested = Operator(op, edges, tuple(writes), tuple(weights), attrs)
    return OpGraph((*inputs, tested), ((len(reads), 0),)).costs[-1]


def conv(op="conv2d", *, kernel, in_channels, out_channels, groups=1) -> dict:
    return {
        "op": op,
        "kernel": kernel,
        "in_channels": in_channels,
        "out_channels": out_channels,
        "groups": groups,
    }


def test_catalogue_is_well_formed() -> None:
    assert len(CATALOGUE) > 150
    for name, spec in CATALOGUE.items():
        assert spec.name == name
        assert spec.category in CATEGORIES
        assert len(set(spec.attrs)) == len(spec.attrs)


@pytest.mark.parametrize("names", [_ONNX, _RELAX, _RELAY])
def test_every_mapping_ends_in_the_catalogue(names) -> None:
    assert set(names.values()) <= set(CATALOGUE)


@pytest.mark.parametrize(
    ("source", "raw", "name"),
    [
        ("relax", "relax.nn.conv2d", "conv2d"),
        ("relax", "relax.astype", "cast"),
        ("relax", "relax.permute_dims", "transpose"),
        ("relax", "relax.nn.leakyrelu", "leaky_relu"),
        ("relax", "relax.image.resize2d", "resize2d"),
        ("relax", "relax.matmul", "matmul"),
        ("relax", "relax.call_tir", None),
        ("relax", "relax.vm.alloc_tensor", None),
        ("relax", "my.attention_like", None),
        ("relay", "nn.conv2d", "conv2d"),
        ("relay", "nn.dense", "dense"),
        ("relay", "nn.batch_matmul", "matmul"),
        ("relay", "concatenate", "concat"),
        ("relay", "nn.global_avg_pool2d", "adaptive_avg_pool2d"),
        ("relay", "image.resize2d", "resize2d"),
        ("onnx", "Conv", "conv2d"),
        ("onnx", "Gemm", "dense"),
        ("onnx", "Relu", "relu"),
        ("onnx", "relu", None),
        ("onnx", "Loop", None),
    ],
)
def test_canonical_names(source, raw, name) -> None:
    assert canonical_name(source, raw) == name


@pytest.mark.parametrize(
    ("call", "macs"),
    [
        # 64 x 112 x 112 outputs, each a window of 7 x 7 x 3
        (
            cost(
                reads=[f32(1, 3, 224, 224)],
                writes=[f32(1, 64, 112, 112)],
                **conv(kernel=(7, 7), in_channels=3, out_channels=64),
            ),
            118_013_952,
        ),
        # depthwise: each output a window of 3 x 3 x 1
        (
            cost(
                reads=[f32(1, 32, 10, 10)],
                writes=[f32(1, 32, 10, 10)],
                **conv(kernel=(3, 3), in_channels=32, out_channels=32, groups=32),
            ),
            32 * 100 * 9,
        ),
        # 4 groups of 8 -> 16 channels
        (
            cost(
                reads=[f32(2, 32, 5, 5)],
                writes=[f32(2, 64, 5, 5)],
                **conv(kernel=(1, 1), in_channels=32, out_channels=64, groups=4),
            ),
            2 * 64 * 25 * 8,
        ),
        (
            cost(
                reads=[f32(1, 4, 50)],
                writes=[f32(1, 6, 48)],
                **conv("conv1d", kernel=(3,), in_channels=4, out_channels=6),
            ),
            6 * 48 * 3 * 4,
        ),
        (
            cost(
                reads=[f32(1, 2, 4, 5, 6)],
                writes=[f32(1, 3, 4, 5, 6)],
                **conv("conv3d", kernel=(1, 3, 3), in_channels=2, out_channels=3),
            ),
            3 * 120 * 9 * 2,
        ),
        # every input element meets a window of 2 x 2 for each of the 8 output channels
        (
            cost(
                reads=[f32(1, 16, 7, 7)],
                writes=[f32(1, 8, 14, 14)],
                **conv("conv2d_transpose", kernel=(2, 2), in_channels=16, out_channels=8),
            ),
            16 * 49 * 4 * 8,
        ),
        (cost("dense", [f32(4, 512)], [f32(4, 10)], [f32(512, 10)], in_features=512), 20_480),
        (cost("matmul", [f32(2, 8, 5, 64), f32(2, 8, 64, 5)], [f32(2, 8, 5, 5)], k=64), 25_600),
        (cost("outer", [f32(3), f32(5)], [f32(3, 5)]), 15),
        (
            cost("einsum", [f32(2, 3, 4), f32(2, 4, 5)], [f32(2, 3, 5)], subscripts="bij,bjk->bik"),
            2 * 3 * 4 * 5,
        ),
    ],
)
def test_multiply_accumulates(call, macs) -> None:
    assert call.macs == macs
    assert call.flops == 2 * macs


@pytest.mark.parametrize(
    ("call", "flops"),
    [
        (cost("relu", [f32(1, 10)], [f32(1, 10)]), 10),
        (cost("add", [f32(1, 10), f32(1, 1)], [f32(1, 10)]), 10),
        (cost("batch_norm", [f32(1, 8, 2, 2)], [f32(1, 8, 2, 2), f32(8), f32(8)]), 64),
        (cost("layer_norm", [f32(3, 16)], [f32(3, 16)]), 8 * 48),
        (cost("softmax", [f32(3, 16)], [f32(3, 16)]), 8 * 48),
        (cost("mean", [f32(1, 8, 4, 4)], [f32(1, 8, 1, 1)]), 128),
        (cost("max_pool2d", [f32(1, 8, 8, 8)], [f32(1, 8, 4, 4)], kernel=(3, 3)), 128 * 9),
        (cost("adaptive_avg_pool2d", [f32(1, 8, 7, 7)], [f32(1, 8, 1, 1)]), 8 * 49),
        (cost("reshape", [f32(2, 8)], [f32(16)]), 0),
        (cost("concat", [f32(2, 8), f32(2, 8)], [f32(2, 16)]), 0),
        (cost("cumsum", [f32(2, 8)], [f32(2, 8)]), 16),
        (cost("argsort", [f32(8)], [f32(8)]), 8 * 3),
        (cost("someone.elses_op", [f32(8)], [f32(8)]), 0),
    ],
)
def test_operations_without_multiply_accumulates(call, flops) -> None:
    assert (call.flops, call.macs) == (flops, 0)


def test_attention() -> None:
    # 2 x 8 heads x 10 queries x 20 keys = 3200 scores; each 64 deep, then 32 wide
    done = cost("attention", [f32(2, 10, 8, 64), f32(2, 20, 8, 64), f32(2, 20, 8, 32)], [f32(1)])
    assert done.macs == 3200 * (64 + 32)
    assert done.flops == 2 * done.macs + 8 * 3200


@pytest.mark.parametrize(
    ("call", "read", "weight", "written"),
    [
        (cost("relu", [f32(1, 10)], [f32(1, 10)]), 40, 0, 40),
        (cost("dense", [f32(4, 8)], [f32(4, 2)], [f32(8, 2)], in_features=8), 128, 64, 32),
        (cost("cast", [f32(10)], [TensorType((10,), "float16")], dtype="float16"), 40, 0, 20),
        (cost("flatten", [f32(1, 10)], [f32(10)]), 0, 0, 0),
        (cost("strided_slice", [f32(100)], [f32(10)]), 40, 0, 40),
        (cost("split", [f32(10)], [f32(4), f32(6)]), 40, 0, 40),
        # an embedding reads its indices and as many rows as they name
        (
            cost(
                "take",
                [TensorType((6,), "int64")],
                [f32(6, 8)],
                [f32(1000, 8)],
                weight_positions=(0,),
            ),
            48,
            192,
            192,
        ),
        (cost("take", [f32(1000, 8)], [f32(2, 8)], [TensorType((2,), "int64")]), 64, 16, 64),
        (cost("someone.elses_op", [f32(8)], [f32(2)], [f32(3)]), 32, 12, 8),
    ],
)
def test_bytes(call, read, weight, written) -> None:
    assert (call.read_bytes, call.weight_bytes, call.written_bytes) == (read, weight, written)
    assert call.bytes == read + weight + written


def test_dynamic_dimension_counts_as_one() -> None:
    assert cost("relu", [f32(-1, 10)], [f32(-1, 10)]).flops == 10


def test_graph_totals_add_up() -> None:
    x, w = f32(1, 8), f32(8, 8)
    g = OpGraph(
        (
            Operator("input", (), (x,)),
            Operator("dense", ((0, 0),), (x,), (w,), {"in_features": 8}),
            Operator("relu", ((1, 0),), (x,)),
        ),
        ((2, 0),),
    )
    assert g.macs == 64
    assert g.flops == 128 + 8
    assert g.weight_bytes == 256
    assert g.bytes == (32 + 256 + 32) + (32 + 32)
