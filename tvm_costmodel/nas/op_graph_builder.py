"""Builds a convolutional network operator by operator, and infers its shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tvm_costmodel.errors import GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType

_EPSILON = 1e-5


class OpGraphBuilder:
    """Appends operators and returns the value that each computes, NCHW in float32.

    Args:
        batch: Images.
        channels: Channels of the input.
        resolution: Height and width of the input.

    Attributes:
        image: The network's input.

    Raises:
        GraphError: An extent is not positive.
    """

    def __init__(self, batch: int, channels: int, resolution: int) -> None:
        if min(batch, channels, resolution) < 1:
            raise GraphError(
                f"batch {batch}, channels {channels} and resolution {resolution} must be positive"
            )
        self._operators: list[Operator] = []
        self.image: Edge = self._append("input", [], (batch, channels, resolution, resolution))

    def shape(self, value: Edge) -> tuple[int, ...]:
        """Extents of a value."""
        return self._operators[value[0]].outputs[value[1]].shape

    def channels(self, value: Edge) -> int:
        """Channels of a value."""
        return self.shape(value)[1]

    def conv(
        self,
        x: Edge,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ) -> Edge:
        """A convolution without bias, padded so that stride 1 keeps the resolution."""
        batch, inputs, *_ = self.shape(x)
        pad = dilation * (kernel - 1) // 2
        reach = dilation * (kernel - 1) + 1
        side = [(n + 2 * pad - reach) // stride + 1 for n in self.shape(x)[2:]]
        attrs: dict[str, AttrValue] = {
            "kernel": (kernel, kernel),
            "strides": (stride, stride),
            "padding": (pad,) * 4,
            "dilation": (dilation, dilation),
            "groups": groups,
            "data_layout": "NCHW",
            "kernel_layout": "OIHW",
            "in_channels": inputs,
            "out_channels": channels,
            "out_dtype": "float32",
        }
        weight = (channels, inputs // groups, kernel, kernel)
        return self._append("conv2d", [x], (batch, channels, *side), [weight], attrs)

    def batch_norm(self, x: Edge) -> Edge:
        """A batch norm with scale, offset, mean and variance."""
        channels = self.channels(x)
        attrs: dict[str, AttrValue] = {
            "axis": 1,
            "epsilon": _EPSILON,
            "center": True,
            "scale": True,
        }
        shapes = [self.shape(x), (channels,), (channels,)]
        types = tuple(TensorType(shape, "float32") for shape in shapes)
        weights = (TensorType((channels,), "float32"),) * 4
        self._operators.append(Operator("batch_norm", (x,), types, weights, attrs))
        return len(self._operators) - 1, 0

    def relu(self, x: Edge) -> Edge:
        """A rectifier."""
        return self._append("relu", [x], self.shape(x))

    def conv_bn_relu(self, x: Edge, channels: int, kernel: int) -> Edge:
        """Convolution, batch norm, rectifier."""
        return self.relu(self.batch_norm(self.conv(x, channels, kernel)))

    def max_pool(self, x: Edge, kernel: int, stride: int, padding: int = 1) -> Edge:
        """A max pool."""
        return self._pool("max_pool2d", x, kernel, stride, padding)

    def avg_pool(self, x: Edge, kernel: int, stride: int, padding: int = 1) -> Edge:
        """An average pool whose padding does not count."""
        return self._pool("avg_pool2d", x, kernel, stride, padding)

    def add(self, x: Edge, y: Edge) -> Edge:
        """The sum of two values of one shape."""
        return self._append("add", [x, y], self.shape(x))

    def zero(self, x: Edge) -> Edge:
        """A value times zero, which is how the published code writes the operation ``none``."""
        return self._append("multiply", [x], self.shape(x), [()])

    def concat(self, values: Sequence[Edge]) -> Edge:
        """The channels of several values side by side; one value stays as it is."""
        if len(values) == 1:
            return values[0]
        batch, _, *side = self.shape(values[0])
        shape = (batch, sum(self.channels(value) for value in values), *side)
        return self._append("concat", values, shape, attrs={"axis": 1})

    def first_channels(self, x: Edge, channels: int) -> Edge:
        """The first channels of a value; all of them are the value."""
        batch, have, *side = self.shape(x)
        return x if channels == have else self._slice(x, (batch, channels, *side), (0, 0, 0, 0))

    def without_first_pixels(self, x: Edge) -> Edge:
        """A value without its first row and column."""
        batch, channels, height, width = self.shape(x)
        return self._slice(x, (batch, channels, height - 1, width - 1), (0, 0, 1, 1))

    def classifier(self, x: Edge, classes: int) -> Edge:
        """Mean over the pixels, then a linear layer with bias."""
        batch, channels, *_ = self.shape(x)
        attrs: dict[str, AttrValue] = {"output_size": (1, 1), "layout": "NCHW"}
        x = self._append("adaptive_avg_pool2d", [x], (batch, channels, 1, 1), attrs=attrs)
        x = self._append("reshape", [x], (batch, channels))
        attrs = {"in_features": channels, "out_features": classes, "out_dtype": "float32"}
        x = self._append("dense", [x], (batch, classes), [(channels, classes)], attrs)
        return self._append("add", [x], (batch, classes), [(classes,)])

    def finish(self, result: Edge, name: str = "") -> OpGraph:
        """The network, without operators that the result does not need."""
        needed = {result[0]}
        for i in range(len(self._operators) - 1, -1, -1):
            if i in needed:
                needed.update(source for source, _ in self._operators[i].inputs)
        return OpGraph(*_live_operators(self._operators, needed | {0}, result), name)

    def _pool(self, op: str, x: Edge, kernel: int, stride: int, padding: int) -> Edge:
        batch, channels, *extents = self.shape(x)
        side = [(n + 2 * padding - kernel) // stride + 1 for n in extents]
        attrs: dict[str, AttrValue] = {
            "kernel": (kernel, kernel),
            "strides": (stride, stride),
            "padding": (padding,) * 4,
            "dilation": (1, 1),
            "ceil_mode": False,
            "count_include_pad": False,
            "layout": "NCHW",
        }
        return self._append(op, [x], (batch, channels, *side), attrs=attrs)

    def _slice(self, x: Edge, shape: tuple[int, ...], begin: tuple[int, ...]) -> Edge:
        end = tuple(first + extent for first, extent in zip(begin, shape, strict=True))
        attrs: dict[str, AttrValue] = {
            "axes": (0, 1, 2, 3),
            "begin": begin,
            "end": end,
            "strides": (1, 1, 1, 1),
        }
        return self._append("strided_slice", [x], shape, attrs=attrs)

    def _append(
        self,
        op: str,
        reads: Sequence[Edge],
        shape: tuple[int, ...],
        weights: Sequence[tuple[int, ...]] = (),
        attrs: Mapping[str, AttrValue] | None = None,
    ) -> Edge:
        constants = tuple(TensorType(weight, "float32") for weight in weights)
        outputs = (TensorType(shape, "float32"),)
        self._operators.append(Operator(op, tuple(reads), outputs, constants, dict(attrs or {})))
        return len(self._operators) - 1, 0


def _live_operators(
    operators: Sequence[Operator], needed: set[int], result: Edge
) -> tuple[tuple[Operator, ...], tuple[Edge, ...]]:
    place = {old: new for new, old in enumerate(sorted(needed))}
    live = tuple(
        Operator(
            op=operators[old].op,
            inputs=tuple((place[source], index) for source, index in operators[old].inputs),
            outputs=operators[old].outputs,
            weights=operators[old].weights,
            attrs=operators[old].attrs,
        )
        for old in place
    )
    return live, ((place[result[0]], result[1]),)
