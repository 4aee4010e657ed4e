"""The families write the operators that TVM's importers write: equal graphs, by content hash."""

from __future__ import annotations

import collections
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("tvm")

from tests.networks import onnx_network_path
from tvm_costmodel.frontends.onnx.reader import from_onnx, load_onnx
from tvm_costmodel.frontends.relax.export import from_relax
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.profiling.workloads import FAMILIES


class OnnxWriter:
    """Writes an ONNX model node by node, with random weights; values are their names."""

    def __init__(self, shape: tuple[int, ...], opset: int = 17) -> None:
        self.shape, self.opset = shape, opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.uniform(0.1, 1.0, shape).astype(np.float32))

    def constant(self, values: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def node(self, op: str, *inputs: str, **attrs: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attrs))
        return name

    def conv(
        self, x: str, cin: int, cout: int, k: int, stride: int = 1, groups: int = 1, bias: int = 0
    ) -> str:
        inputs = [x, self.weight(cout, cin // groups, k, k)] + [self.weight(cout)] * bias
        attrs = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [k // 2] * 4}
        return self.node("Conv", *inputs, group=groups, **attrs)

    def norm(self, x: str, c: int) -> str:
        return self.node("BatchNormalization", x, *(self.weight(c) for _ in range(4)))

    def gemm(self, x: str, cin: int, cout: int) -> str:
        return self.node("Gemm", x, self.weight(cout, cin), self.weight(cout), transB=1)

    def graph(self, output: str) -> OpGraph:
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.weights,
        )
        opset = helper.make_opsetid("", self.opset)
        return from_onnx(helper.make_model(graph, opset_imports=[opset], ir_version=8))


def family_graph(name: str, **changes: Any) -> OpGraph:
    family = FAMILIES[name]
    return from_relax(family.build({**family.reference_params, **changes}))


def assert_equal_graphs(imported: OpGraph, written: OpGraph) -> None:
    """Equal but for the order of independent operators."""
    ours, theirs = (
        collections.Counter(
            (op.op, str(sorted(op.attrs.items())), str(op.outputs), str(op.weights))
            for op in graph.operators
        )
        for graph in (written, imported)
    )
    assert ours - theirs == theirs - ours == collections.Counter()
    assert imported.hash == written.hash


def test_resnet() -> None:
    w = OnnxWriter((1, 3, 32, 32))
    x = w.node("Relu", w.norm(w.conv("x", 3, 8, 7, 2), 8))
    x = w.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for cin, cout, stride in ((8, 8, 1), (8, 16, 2)):
        y = w.node("Relu", w.norm(w.conv(x, cin, cout, 3, stride), cout))
        y = w.norm(w.conv(y, cout, cout, 3), cout)
        x = w.norm(w.conv(x, cin, cout, 1, stride), cout) if cin != cout else x
        x = w.node("Relu", w.node("Add", y, x))
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    written = family_graph("resnet", image=32, width=8, depths=[1, 1], classes=10)
    assert_equal_graphs(w.graph(w.gemm(x, 16, 10)), written)


def test_resnet_with_folded_norms() -> None:
    w = OnnxWriter((1, 3, 32, 32))
    x = w.node("Relu", w.conv("x", 3, 8, 3, bias=1))
    y = w.node("Relu", w.conv(x, 8, 8, 3, bias=1))
    x = w.node("Relu", w.node("Add", w.conv(y, 8, 8, 3, bias=1), x))
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    changes = {"image": 32, "width": 8, "depths": [1], "classes": 10, "stem": "small"}
    written = family_graph("resnet", norm="folded", **changes)
    assert_equal_graphs(w.graph(w.gemm(x, 8, 10)), written)


def test_mobilenet_v2() -> None:
    w = OnnxWriter((1, 3, 32, 32))

    def clipped(value: str) -> str:
        bounds = [w.constant(np.float32(bound)) for bound in (0.0, 6.0)]
        return w.node("Clip", value, *bounds)

    x = clipped(w.norm(w.conv("x", 3, 16, 3, 2), 16))
    y = clipped(w.norm(w.conv(x, 16, 32, 1), 32))
    y = clipped(w.norm(w.conv(y, 32, 32, 3, groups=32), 32))
    x = w.node("Add", x, w.norm(w.conv(y, 32, 16, 1), 16))
    x = clipped(w.norm(w.conv(x, 16, 1280, 1), 1280))
    x = w.node("Flatten", w.node("GlobalAveragePool", x))
    stages = [[2, 32, 1, 1]]
    written = family_graph("mobilenet_v2", image=32, multiplier=0.5, stages=stages, classes=10)
    assert_equal_graphs(w.graph(w.gemm(x, 1280, 10)), written)


def test_mobilenet_v3() -> None:
    w = OnnxWriter((1, 3, 32, 32))
    x = w.node("HardSwish", w.norm(w.conv("x", 3, 16, 3, 2), 16))
    y = w.node("Relu", w.norm(w.conv(x, 16, 16, 5, groups=16), 16))
    s = w.node("Relu", w.conv(w.node("GlobalAveragePool", y), 16, 8, 1, bias=1))
    s = w.node("HardSigmoid", w.conv(s, 8, 16, 1, bias=1), alpha=1 / 6, beta=0.5)
    x = w.node("Add", x, w.norm(w.conv(w.node("Mul", y, s), 16, 16, 1), 16))
    x = w.node("HardSwish", w.norm(w.conv(x, 16, 96, 1), 96))
    x = w.gemm(w.node("Flatten", w.node("GlobalAveragePool", x)), 96, 64)
    x = w.gemm(w.node("HardSwish", x), 64, 10)
    blocks = [[5, 16, 16, True, "relu", 1]]
    written = family_graph("mobilenet_v3", image=32, blocks=blocks, features=64, classes=10)
    assert_equal_graphs(w.graph(x), written)


def test_shufflenet_v2_unit() -> None:
    w = OnnxWriter((1, 3, 32, 32))
    x = w.node("Relu", w.norm(w.conv("x", 3, 8, 3, 2), 8))
    left = w.norm(w.conv(x, 8, 8, 3, 2, groups=8), 8)
    left = w.node("Relu", w.norm(w.conv(left, 8, 8, 1), 8))
    right = w.node("Relu", w.norm(w.conv(x, 8, 8, 1), 8))
    right = w.norm(w.conv(right, 8, 8, 3, 2, groups=8), 8)
    right = w.node("Relu", w.norm(w.conv(right, 8, 8, 1), 8))
    x = w.node("Concat", left, right, axis=1)
    x = w.node("Reshape", x, w.constant(np.array([1, 2, 8, 8, 8])))
    x = w.node("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = w.node("Reshape", x, w.constant(np.array([1, 16, 8, 8])))
    x = w.node("Relu", w.norm(w.conv(x, 16, 24, 1), 24))
    x = w.gemm(w.node("Flatten", w.node("GlobalAveragePool", x)), 24, 10)
    changes = {"stem": 8, "stem_pool": False, "widths": [16, 24], "repeats": [1]}
    written = family_graph("shufflenet_v2", image=32, classes=10, **changes)
    assert_equal_graphs(w.graph(x), written)


def test_encoder() -> None:
    t, d, heads = 6, 8, 2
    w = OnnxWriter((1, t, d))

    def linear(x: str, cin: int, cout: int) -> str:
        return w.node("Add", w.weight(cout), w.node("MatMul", x, w.weight(cin, cout)))

    def split(x: str) -> str:
        x = w.node("Reshape", x, w.constant(np.array([1, t, heads, d // heads])))
        return w.node("Transpose", x, perm=[0, 2, 1, 3])

    def number(value: float) -> str:
        return w.constant(np.float32(value))

    q, k, v = (linear("x", d, d) for _ in range(3))
    q, k, v = split(q), split(k), split(v)
    scores = w.node("MatMul", q, w.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = w.node("Softmax", w.node("Mul", scores, number(0.5)), axis=-1)
    y = w.node("Transpose", w.node("MatMul", scores, v), perm=[0, 2, 1, 3])
    y = linear(w.node("Reshape", y, w.constant(np.array([1, t, d]))), d, d)
    x = w.node("LayerNormalization", w.node("Add", "x", y), w.weight(d), w.weight(d), axis=-1)
    y = linear(x, d, 16)
    erf = w.node("Add", w.node("Erf", w.node("Div", y, number(2**0.5))), number(1.0))
    y = linear(w.node("Mul", w.node("Mul", y, erf), number(0.5)), 16, d)
    x = w.node("LayerNormalization", w.node("Add", x, y), w.weight(d), w.weight(d), axis=-1)
    written = family_graph("encoder", tokens=t, width=d, heads=heads, depth=1, ratio=2.0)
    assert_equal_graphs(w.graph(x), written)


@pytest.mark.parametrize(
    ("network", "family", "changes"),
    [
        pytest.param(
            *("bvlc_alexnet", "alexnet", {"local_norm": True, "softmax": True}),
            marks=pytest.mark.slow,
        ),
        ("squeezenet", "squeezenet", {"kernel": 3, "pool_before": [2, 4], "softmax": True}),
        pytest.param(
            *("vgg19", "vgg", {"depths": [2, 2, 4, 4, 4], "softmax": True}), marks=pytest.mark.slow
        ),
        ("resnet50", "resnet_bottleneck", {"head": "window", "softmax": True}),
        ("densenet121", "densenet", {"norm": "scaled", "head": "mean-conv", "join": "last"}),
        pytest.param(
            *("inception_v2", "inception_v2"),
            {"norm": "scaled", "head": "window", "softmax": True},
            marks=pytest.mark.slow,
        ),
        ("shufflenet", "shufflenet_v1", {"head": "window", "softmax": True, "groups": 4}),
    ],
)
def test_the_onnx_zoo_holds_the_operators_of_the_family(
    network: str, family: str, changes: dict[str, Any]
) -> None:
    imported = from_onnx(load_onnx(onnx_network_path(network), weights="random"))
    written = family_graph(family, **({"width": 272} if "groups" in changes else {}), **changes)
    ours, theirs = (collections.Counter(op.op for op in g.operators) for g in (written, imported))
    assert set(ours) >= set(theirs)
    assert ours["conv2d"] == theirs["conv2d"]
    assert abs(len(written) - len(imported)) <= 3


def _imported_from_torch(module: Any, shape: tuple[int, ...]) -> OpGraph:
    torch = pytest.importorskip("torch")
    from tvm.relax.frontend.torch import from_exported_program

    with torch.no_grad():
        program = torch.export.export(module.eval(), (torch.randn(shape),))
    return from_relax(from_exported_program(program, unwrap_unit_return_tuple=True))


def test_torch_resnet_stem_and_block() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, cin: int, cout: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
            self.second = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
            self.norms = nn.ModuleList(nn.BatchNorm2d(cout) for _ in range(3))
            self.shortcut = nn.Conv2d(cin, cout, 1, stride, bias=False) if cin != cout else None

        def forward(self, x: Any) -> Any:
            y = torch.relu(self.norms[0](self.first(x)))
            y = self.norms[1](self.second(y))
            return torch.relu(y + (self.norms[2](self.shortcut(x)) if self.shortcut else x))

    stem = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    network = nn.Sequential(*stem, Block(8, 8, 1), Block(8, 16, 2), *end)
    changes = {"image": 32, "width": 8, "depths": [1, 1], "classes": 10, "stem": "small"}
    written = family_graph("resnet", importer="torch", **changes)
    assert_equal_graphs(_imported_from_torch(network, (1, 3, 32, 32)), written)


def test_torch_mobilenet_v3_block() -> None:
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pool = nn.AdaptiveAvgPool2d(1)
            ends = nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.Hardsigmoid()
            self.gate = nn.Sequential(pool, *ends)

        def forward(self, x: Any) -> Any:
            return x * self.gate(x)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            depthwise = nn.Conv2d(16, 16, 5, 1, 2, groups=16, bias=False)
            norms = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
            project = nn.Conv2d(16, 16, 1, bias=False)
            self.body = nn.Sequential(depthwise, norms[0], nn.ReLU(), Squeeze(), project, norms[1])

        def forward(self, x: Any) -> Any:
            return x + self.body(x)

    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish()]
    last = [nn.Conv2d(16, 96, 1, bias=False), nn.BatchNorm2d(96), nn.Hardswish()]
    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    end = [nn.Linear(96, 64), nn.Hardswish(), nn.Linear(64, 10)]
    network = nn.Sequential(*stem, Residual(), *last, *pooled, *end)
    changes = {"image": 32, "features": 64, "classes": 10}
    blocks = [[5, 16, 16, True, "relu", 1]]
    written = family_graph("mobilenet_v3", importer="torch", blocks=blocks, **changes)
    assert_equal_graphs(_imported_from_torch(network, (1, 3, 32, 32)), written)


def test_torch_encoder() -> None:
    torch = pytest.importorskip("torch")
    nn, functional = torch.nn, torch.nn.functional
    t, d, heads = 6, 8, 2

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.ModuleList(nn.Linear(d, d) for _ in range(3))
            self.out, self.up, self.down = nn.Linear(d, d), nn.Linear(d, 16), nn.Linear(16, d)
            self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(2))

        def forward(self, x: Any) -> Any:
            parts = [m(x).reshape(1, t, heads, d // heads).transpose(1, 2) for m in self.qkv]
            y = functional.scaled_dot_product_attention(*parts)
            x = self.norms[0](x + self.out(y.transpose(1, 2).reshape(1, t, d)))
            return self.norms[1](x + self.down(functional.gelu(self.up(x))))

    sizes = {"tokens": t, "width": d, "heads": heads, "depth": 1, "ratio": 2.0}
    written = family_graph("encoder", importer="torch", gelu="op", **sizes)
    assert_equal_graphs(_imported_from_torch(Encoder(), (1, t, d)), written)
