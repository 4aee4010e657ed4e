"""From nodes named as in TensorFlow's graphs, with their shapes, to an `OpGraph`.

Data sets that were recorded from TensorFlow (nn-Meter's bench) hold each node's operator, output
shape (NHWC), kernel and strides, but not always padding, and mix in the constants that compute
shapes. Padding follows from the extents; constants and shape arithmetic are dropped. What a global
mean reads was recorded with the mean's own, two-dimensional shape; it is worked out again.
"""

from __future__ import annotations

import graphlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from tvm_costmodel.errors import GraphError, UnsupportedOperatorError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType

_SHAPE_ARITHMETIC = frozenset({"Shape", "Pack", "StridedSlice"})
_FLATTEN = frozenset({"Mean", "Reshape"})
Shape = tuple[int, ...]
Attrs = dict[str, AttrValue]
Translation = tuple[str, tuple[Shape, ...], Attrs]


@dataclass(frozen=True)
class TensorflowNode:
    """One recorded node.

    Attributes:
        op: TensorFlow's operator name.
        inputs: Numbers of the nodes that it reads.
        shape: Output shape, NHWC; ``()`` where it is unknown.
        kernel: Height, width, input channels (per group), output channels; the channels are 0 for
            pools, and the last one is the multiplier for depthwise convolutions.
        strides: Height, width.
        dilation: Height, width.
        name: Name of the node, for messages.
    """

    op: str
    inputs: tuple[int, ...]
    shape: Shape
    kernel: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    name: str = ""


@dataclass
class _Building:
    """A graph under construction: where each node that is not dropped went."""

    operators: list[Operator] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)
    readers: dict[int, int] = field(default_factory=dict)

    def read(self, node: int) -> Edge:
        """The next value of a node: a split hands out its parts in the order they are read."""
        operator = self.place[node]
        count = self.readers.get(operator, 0)
        self.readers[operator] = count + 1
        return operator, count % len(self.operators[operator].outputs)


def to_graph(nodes: Sequence[TensorflowNode], name: str = "") -> OpGraph:
    """Translates recorded nodes.

    Args:
        nodes: In any order.
        name: Name of the graph.

    Raises:
        GraphError: The nodes form a cycle, read nodes that are not there, or their shapes do not
            fit their operators.
        UnsupportedOperatorError: An operator has no translation.
    """
    order = _topological(nodes)
    plumbing: set[int] = set()
    for i in order:
        reads = nodes[i].inputs
        if nodes[i].op == "Const" or (
            nodes[i].op in _SHAPE_ARITHMETIC and reads and plumbing.issuperset(reads)
        ):
            plumbing.add(i)
    building = _Building()
    for i in order:
        if i not in plumbing:
            _add(nodes, i, plumbing, building)
    read = {src for operator in building.operators for src, _ in operator.inputs}
    outputs = tuple((i, 0) for i in range(len(building.operators)) if i not in read)
    return OpGraph(tuple(building.operators), outputs, name)


def _topological(nodes: Sequence[TensorflowNode]) -> list[int]:
    """Node numbers, producers first; the given order where that is one already."""
    for i, node in enumerate(nodes):
        for source in node.inputs:
            if not 0 <= source < len(nodes):
                raise GraphError(f"node {i} ({node.op}) reads node {source}, which is not there")
    if all(source < i for i, node in enumerate(nodes) for source in node.inputs):
        return list(range(len(nodes)))
    sorter = graphlib.TopologicalSorter({i: node.inputs for i, node in enumerate(nodes)})
    try:
        return list(sorter.static_order())
    except graphlib.CycleError as error:
        raise GraphError(f"the nodes read each other in a circle: {error.args[1]}") from None


def _add(nodes: Sequence[TensorflowNode], i: int, plumbing: set[int], building: _Building) -> None:
    node = nodes[i]
    if node.op not in _TRANSLATIONS:
        raise UnsupportedOperatorError(
            f"node {i} is a {node.op}, which has no translation; known: "
            f"{', '.join(sorted(_TRANSLATIONS))}"
        )
    edges = tuple(building.read(source) for source in node.inputs if source not in plumbing)
    if not edges and node.op != "Placeholder":
        raise GraphError(f"node {i} ({node.op}) reads no activation: the record is incomplete")
    inputs = [building.operators[source].outputs[index].shape for source, index in edges]
    constants = [nodes[source].shape for source in node.inputs if source in plumbing]
    if inputs and len(inputs[0]) == 4 and len(node.shape) == 2 and node.op not in _FLATTEN:
        node = replace(node, shape=_shape_before_mean(node, inputs))
    try:
        op, weights, attrs = _TRANSLATIONS[node.op](node, inputs, constants)
    except (IndexError, ZeroDivisionError):
        raise GraphError(
            f"node {i} ({node.op}) of shape {node.shape} does not fit its inputs {inputs}"
        ) from None
    sections = attrs.get("sections", 1)
    count = sections if isinstance(sections, int) else 1
    building.place[i] = len(building.operators)
    building.operators.append(
        Operator(op, edges, (_tensor(node.shape),) * count, tuple(map(_tensor, weights)), attrs)
    )


def _shape_before_mean(node: TensorflowNode, inputs: Sequence[Shape]) -> Shape:
    """Four dimensions of a node that was recorded with two; pools do not pad."""
    shape = list(max(inputs, key=math.prod))
    if node.op == "ConcatV2":
        shape[3] = sum(operand[3] for operand in inputs)
    if node.op in ("MaxPool", "AvgPool"):
        for axis in (0, 1):
            free = max(0, shape[1 + axis] - node.kernel[axis])
            shape[1 + axis] = free // node.strides[axis] + 1
    return tuple(shape)


def _tensor(shape: Shape) -> TensorType:
    return TensorType(shape, "float32")


def _sliding_window(node: TensorflowNode, inputs: Sequence[Shape]) -> Attrs:
    """Kernel, strides, dilation, and the padding that these extents need (as much as 'SAME')."""
    before, after = [], []
    for axis in (0, 1):
        reach = (node.kernel[axis] - 1) * node.dilation[axis] + 1
        span = (node.shape[1 + axis] - 1) * node.strides[axis] + reach
        missing = max(0, span - inputs[0][1 + axis])
        before.append(missing // 2)
        after.append(missing - missing // 2)
    return {
        "kernel": node.kernel[:2],
        "strides": node.strides,
        "padding": (*before, *after),
        "dilation": node.dilation,
    }


def _convolution(
    node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
) -> Translation:
    channels, (height, width, per_group, _) = inputs[0][3], node.kernel
    out = node.shape[3]
    if node.op == "DepthwiseConv2dNative":
        per_group = 1
    attrs = _sliding_window(node, inputs) | {
        "groups": channels // per_group,
        "data_layout": "NHWC",
        "kernel_layout": "HWIO",
        "in_channels": channels,
        "out_channels": out,
    }
    return "conv2d", ((height, width, per_group, out),), attrs


def _pool(op: str) -> Translator:
    def translate(
        node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
    ) -> Translation:
        return op, (), _sliding_window(node, inputs) | {"layout": "NHWC"}

    return translate


def _dense(
    node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
) -> Translation:
    fan_in, out = inputs[0][-1], node.shape[-1]
    return "dense", ((fan_in, out),), {"in_features": fan_in, "out_features": out}


def _batch_norm(
    node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
) -> Translation:
    axis = len(node.shape) - 1
    return "batch_norm", ((node.shape[axis],),) * 4, {"axis": axis}


def _bias(node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]) -> Translation:
    return "add", ((node.shape[-1],),), {}


def _binary(op: str) -> Translator:
    def translate(
        node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
    ) -> Translation:
        return op, tuple(constants), {}

    return translate


def _plain(op: str, **attrs: AttrValue) -> Translator:
    def translate(
        node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
    ) -> Translation:
        return op, (), dict(attrs)

    return translate


def _concat(
    node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
) -> Translation:
    return "concat", (), {"axis": len(node.shape) - 1}


def _split(
    node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
) -> Translation:
    axis = len(node.shape) - 1
    return "split", (), {"axis": axis, "sections": inputs[0][axis] // node.shape[axis]}


def _transpose(
    node: TensorflowNode, inputs: Sequence[Shape], constants: Sequence[Shape]
) -> Translation:
    """Axes from the extents; equal extents keep their order."""
    free = list(range(len(inputs[0])))
    axes = []
    for extent in node.shape:
        axis = next((a for a in free if inputs[0][a] == extent), free[0])
        free.remove(axis)
        axes.append(axis)
    return "transpose", (), {"axes": tuple(axes)}


Translator = Callable[[TensorflowNode, Sequence[Shape], Sequence[Shape]], Translation]

_TRANSLATIONS: Mapping[str, Translator] = MappingProxyType(
    {
        "Placeholder": _plain("input"),
        "Conv2D": _convolution,
        "DepthwiseConv2dNative": _convolution,
        "MatMul": _dense,
        "FusedBatchNorm": _batch_norm,
        "FusedBatchNormV3": _batch_norm,
        "BiasAdd": _bias,
        "Add": _binary("add"),
        "AddV2": _binary("add"),
        "Mul": _binary("multiply"),
        "Relu": _plain("relu"),
        "Relu6": _plain("clip", min=0.0, max=6.0),
        "Sigmoid": _plain("sigmoid"),
        "MaxPool": _pool("max_pool2d"),
        "AvgPool": _pool("avg_pool2d"),
        "Mean": _plain("mean", axes=(1, 2), keepdims=False),
        "Reshape": _plain("reshape"),
        "ConcatV2": _concat,
        "Split": _split,
        "Transpose": _transpose,
    }
)
