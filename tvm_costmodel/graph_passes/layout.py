"""Convolution layouts changed on a graph, with transposes where operators disagree.

The twin of ``relax.transform.ConvertLayout`` (each operator follows its operands' layout where it
can, and else gets them back as they were) and of ``compilers.relax.passes.layout.TransposeSinker``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType
from tvm_costmodel.graph_passes.rewriter import Axes, Rewriting, inverse, permuted, weight_first
from tvm_costmodel.ops import CATALOGUE

_KERNEL_LAYOUTS = {"NHWC": "HWIO", "NCHW": "OIHW"}

Layouts = Mapping[int, str]
"""Layouts of single convolutions by their source, see ``Rewriting``."""

_SUNK_UNARY = frozenset(
    "relu gelu gelu_tanh silu leaky_relu sigmoid tanh exp sqrt rsqrt abs negative erf log square "
    "cast".split()
)
_SUNK_BINARY = frozenset("add subtract multiply divide maximum minimum power".split())
_FOLLOWING = _SUNK_UNARY | frozenset(
    "sin cos floor ceil round sign clip dropout hardsigmoid hardswish elu softplus trunc".split()
)
_BINARY = _SUNK_BINARY | frozenset(
    "floor_divide mod floor_mod equal not_equal less less_equal greater greater_equal "
    "logical_and logical_or".split()
)


class _LayoutConversion:
    """Carries each value's layout: its axes in the order in which they lie in memory."""

    def __init__(
        self, graph: OpGraph, sources: tuple[int, ...], layout: str, others: Layouts
    ) -> None:
        self.graph, self.sources = graph, sources
        self.layouts = [others.get(source, layout) for source in sources]
        self.layout = layout  # of the operator that is being converted
        self.new = Rewriting()
        self.axes: dict[Edge, Axes] = {}  # by new edge; left out where nothing was moved

    def run(self) -> tuple[OpGraph, tuple[int, ...]]:
        for i, operator in enumerate(self.graph.operators):
            self._convert(i, operator)
        outputs = [self._as(self.new.renamed[edge], None) for edge in self.graph.outputs]
        return self.new.finish(outputs, self.graph.name)

    def _axes(self, edge: Edge) -> Axes:
        axes = self.axes.get(edge)
        return axes or tuple(range(len(self.new.type_of(edge).shape)))

    def _as(self, edge: Edge, wanted: Axes | None) -> Edge:
        """A value in a layout (None: as in the source), through a transpose where it differs."""
        current = self._axes(edge)
        target = wanted or tuple(range(len(current)))
        if current == target:
            return edge
        moved = self.new.transposed(edge, tuple(current.index(axis) for axis in target))
        self.axes[moved] = target
        return moved

    def _convert(self, i: int, operator: Operator) -> None:
        inputs = [self.new.renamed[edge] for edge in operator.inputs]
        self.layout = self.layouts[i]
        rule = self._rule(operator)
        wanted: list[Axes | None] = [None] * len(inputs)
        result: Axes | None = None
        attrs: dict[str, AttrValue] = dict(operator.attrs)
        weights = operator.weights
        if rule is not None:
            wanted, result, weights = rule(operator, inputs, attrs)
        inputs = [self._as(edge, axes) for edge, axes in zip(inputs, wanted, strict=True)]
        outputs = operator.outputs
        if result is not None:
            outputs = tuple(_permuted_type(t, result) for t in outputs)
        new = self.new.add(
            Operator(operator.op, tuple(inputs), outputs, weights, attrs, operator.name),
            self.sources[i],
        )
        self.new.rename(i, new, len(outputs))
        for index, output in enumerate(outputs):
            if result is not None and result != tuple(range(len(output.shape))):
                self.axes[new, index] = result

    def _rule(self, operator: Operator) -> _Rule | None:
        op = operator.op
        if op == "conv2d":
            return self._convolution
        if not operator.inputs:
            return None
        if op in _BINARY and len(operator.inputs) + len(operator.weights) == 2:
            return self._binary
        spec = CATALOGUE.get(op)
        if spec is not None and (spec.category == "pooling" or op == "resize2d"):
            return self._pooling
        if op in ("mean", "sum", "max", "min", "prod", "variance", "std"):
            return self._reduction
        rules: dict[str, _Rule] = {
            **dict.fromkeys(("concat", "softmax", "log_softmax", "split"), self._along_axis),
            "strided_slice": self._sliced,
            "transpose": self._transposed,
        }
        return self._followed if op in _FOLLOWING else rules.get(op)

    def _convolution(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        data, kernel = str(attrs["data_layout"]), str(attrs["kernel_layout"])
        wanted_kernel = _KERNEL_LAYOUTS[self.layout]
        axes = tuple(data.index(letter) for letter in self.layout)
        kernel_axes = tuple(kernel.index(letter) for letter in wanted_kernel)
        attrs["data_layout"], attrs["kernel_layout"] = self.layout, wanted_kernel
        weights = tuple(_permuted_type(t, kernel_axes) for t in operator.weights)
        wanted: list[Axes | None] = [axes, kernel_axes]
        return wanted[: len(inputs)], axes, weights

    def _followed(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        axes = self._axes(inputs[0])
        return [axes, *[None] * (len(inputs) - 1)], axes, operator.weights

    def _pooling(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        axes, layout = self._axes(inputs[0]), str(attrs.get("layout", ""))
        if len(layout) == len(axes):
            attrs["layout"] = "".join(layout[axis] for axis in axes)
        return [axes], axes, operator.weights

    def _binary(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        operands: list[tuple[TensorType, Axes]] = [
            (self.new.type_of(edge), self._axes(edge)) for edge in inputs
        ]
        constants = [(t, tuple(range(len(t.shape)))) for t in operator.weights]
        operands = constants + operands if weight_first(operator) else operands + constants
        (left, left_axes), (right, right_axes) = operands
        if not left.shape or not right.shape:
            axes = right_axes if not left.shape else left_axes
        elif len(left.shape) <= len(right.shape):
            axes = left_axes if len(left.shape) == len(right.shape) else _plain(right)
        else:
            axes = _plain(left)
        ranked = [axes if len(t.shape) == len(axes) else None for t, _ in operands]
        at = 0 if weight_first(operator) else len(inputs)
        weights = tuple(
            t if ranked[at + k] is None else _permuted_type(t, axes)
            for k, t in enumerate(operator.weights)
        )
        wanted = [order for p, order in enumerate(ranked) if not at <= p < at + len(weights)]
        return wanted, axes, weights

    def _reduction(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        axes, reduced = self._axes(inputs[0]), attrs["axes"]
        assert isinstance(reduced, tuple)
        attrs["axes"] = tuple(sorted(axes.index(int(str(axis))) for axis in reduced))
        if attrs.get("keepdims"):
            return [axes], axes, operator.weights
        remaining = [axis for axis in axes if axis not in reduced]
        order = tuple(sorted(remaining).index(axis) for axis in remaining)
        return [axes], order, operator.weights

    def _along_axis(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        axes = self._axes(inputs[0])
        attrs["axis"] = axes.index(int(str(attrs.get("axis", 0))) % len(axes))
        weights = tuple(_permuted_type(t, axes) for t in operator.weights)
        return [axes] * len(inputs), axes, weights

    def _sliced(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        axes, along = self._axes(inputs[0]), attrs["axes"]
        assert isinstance(along, tuple)
        attrs["axes"] = tuple(axes.index(int(str(axis))) for axis in along)
        return [axes], axes, operator.weights

    def _transposed(
        self, operator: Operator, inputs: list[Edge], attrs: dict[str, AttrValue]
    ) -> _Ruled:
        axes, order = self._axes(inputs[0]), attrs["axes"]
        assert isinstance(order, tuple)
        attrs["axes"] = tuple(axes.index(int(str(axis))) for axis in order)
        return [axes], None, operator.weights


# Layouts in which the operands are wanted, the layout of the result (None: as in the source), and
# the weights; attributes are changed in place.
_Ruled = tuple[list[Axes | None], Axes | None, tuple[TensorType, ...]]
_Rule = Callable[[Operator, list[Edge], dict[str, AttrValue]], _Ruled]


def _plain(value: TensorType) -> Axes:
    return tuple(range(len(value.shape)))


def _permuted_type(value: TensorType, axes: Axes) -> TensorType:
    if len(value.shape) != len(axes):
        return value
    return TensorType(permuted(value.shape, axes), value.dtype)


class _TransposeSinking:
    """Moves transposes down through element-wise operators and cancels them."""

    def __init__(self, graph: OpGraph, sources: tuple[int, ...]) -> None:
        self.graph, self.sources = graph, sources
        self.new = Rewriting()

    def run(self) -> tuple[OpGraph, tuple[int, ...]]:
        for i, operator in enumerate(self.graph.operators):
            inputs = [self.new.renamed[edge] for edge in operator.inputs]
            edge = self._rewritten(i, operator, inputs)
            if edge is not None:
                self.new.renamed[i, 0] = edge
                continue
            copy = Operator(
                operator.op,
                tuple(inputs),
                operator.outputs,
                operator.weights,
                operator.attrs,
                operator.name,
            )
            new = self.new.add(copy, self.sources[i])
            self.new.rename(i, new, len(operator.outputs))
        outputs = [self.new.renamed[edge] for edge in self.graph.outputs]
        return self.new.finish(outputs, self.graph.name)

    def _source(self, edge: Edge) -> tuple[Edge, Axes] | None:
        operator = self.new.producer(edge)
        if operator.op != "transpose":
            return None
        axes = operator.attrs["axes"]
        assert isinstance(axes, tuple)
        return operator.inputs[0], tuple(int(str(axis)) for axis in axes)

    def _rewritten(self, i: int, operator: Operator, inputs: list[Edge]) -> Edge | None:
        if operator.op == "transpose":
            return self._permuted(operator, inputs[0])
        if operator.op in _SUNK_UNARY and len(inputs) == 1:
            transposed = self._source(inputs[0])
            if transposed is None:
                return None
            return self._sunk(i, operator, [transposed[0]], operator.weights, transposed[1])
        if operator.op in _SUNK_BINARY and len(inputs) + len(operator.weights) == 2:
            return self._binary(i, operator, inputs)
        if operator.op == "reshape" and self.new.producer(inputs[0]).op == "reshape":
            first = self.new.producer(inputs[0]).inputs[0]
            return self.new.emit("reshape", [first], operator.outputs[0], attrs=operator.attrs)
        return None

    def _sunk(
        self,
        i: int,
        operator: Operator,
        inputs: list[Edge],
        weights: tuple[TensorType, ...],
        axes: Axes,
    ) -> Edge:
        output = _permuted_type(operator.outputs[0], inverse(axes))
        inner = self.new.emit(operator.op, inputs, output, weights, operator.attrs, self.sources[i])
        return self.new.transposed(inner, axes)

    def _permuted(self, operator: Operator, x: Edge) -> Edge | None:
        permutation = operator.attrs["axes"]
        assert isinstance(permutation, tuple)
        axes = tuple(int(str(axis)) for axis in permutation)
        transposed = self._source(x)
        if transposed is not None:
            x, first = transposed
            axes = tuple(first[axis] for axis in axes)
        if axes == tuple(range(len(axes))):
            return x
        shape = self.new.type_of(x).shape
        moved = [axis for axis in axes if shape[axis] != 1]
        if moved == sorted(moved):
            return self.new.emit("reshape", [x], operator.outputs[0])
        return None if transposed is None else self.new.transposed(x, axes)

    def _binary(self, i: int, operator: Operator, inputs: list[Edge]) -> Edge | None:
        sources = [self._source(edge) for edge in inputs]
        axes = next((transposed[1] for transposed in sources if transposed is not None), None)
        if axes is None or len(axes) != len(operator.outputs[0].shape):
            return None
        operands = [
            transposed[0]
            for transposed in sources
            if transposed is not None and transposed[1] == axes
        ]
        if len(operands) != len(inputs) or any(len(t.shape) > len(axes) for t in operator.weights):
            return None
        weights = tuple(
            TensorType(
                permuted((1,) * (len(axes) - len(t.shape)) + t.shape, inverse(axes)), t.dtype
            )
            if t.shape
            else t
            for t in operator.weights
        )
        return self._sunk(i, operator, operands, weights, axes)


def convert_layout(
    graph: OpGraph, sources: tuple[int, ...], layout: str, others: Layouts
) -> tuple[OpGraph, tuple[int, ...]]:
    """Brings convolutions to a layout, ``NHWC`` or ``NCHW``, and everything else to fit.

    Args:
        graph: A graph before any change of layout.
        sources: Source of each operator, see ``Rewriting``.
        layout: Layout of the convolutions.
        others: Layout of those that have another.
    """
    return _LayoutConversion(graph, sources, layout, others).run()


def sink_transposes(graph: OpGraph, sources: tuple[int, ...]) -> tuple[OpGraph, tuple[int, ...]]:
    """Moves transposes down through element-wise operators until they cancel."""
    return _TransposeSinking(graph, sources).run()
