"""The languages that workloads are written in: Relax, and Relay in the forms of its importers."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np


class Writer(Protocol):
    """Writes one network."""

    @property
    def operators(self) -> Any:
        """The operators, under the names of ``relax.op``."""

    def module(self, shape: tuple[int, ...], body: Callable[[Any], Any]) -> Any:
        """The ``tvm.IRModule`` whose ``main`` is ``body`` on one float32 input."""

    def emit(self, expr: Any) -> Any:
        """Binds an expression, to be used again."""

    def element(self, expr: Any, index: int) -> Any:
        """One entry of a tuple."""

    def constant(self, values: np.ndarray | np.generic) -> Any:
        """A constant."""


class RelaxWriter:
    """Writes Relax."""

    def __init__(self) -> None:
        from tvm import relax

        self._relax: Any = relax
        self._builder = self._relax.BlockBuilder()

    @property
    def operators(self) -> Any:
        """``relax.op``."""
        return self._relax.op

    def module(self, shape: tuple[int, ...], body: Callable[[Any], Any]) -> Any:
        """See `Writer`."""
        relax, builder = self._relax, self._builder
        x = relax.Var("input", relax.TensorType(shape, "float32"))
        with builder.function("main", [x], attrs={"num_input": 1}):
            with builder.dataflow():
                result = builder.emit_output(body(x))
            builder.emit_func_output(result)
        return builder.finalize()

    def emit(self, expr: Any) -> Any:
        """See `Writer`."""
        return self._builder.emit(expr)

    def element(self, expr: Any, index: int) -> Any:
        """See `Writer`."""
        from tvm.ir import TupleGetItem

        return self._builder.emit(TupleGetItem(expr, index))

    def constant(self, values: np.ndarray | np.generic) -> Any:
        """See `Writer`."""
        return self._relax.const(values)


class RelayWriter:
    """Writes Relay, typed."""

    def __init__(self) -> None:
        self._tvm: Any = importlib.import_module("tvm")
        self._relay: Any = importlib.import_module("tvm.relay")
        self._operators = RelayOperators(self._relay)

    @property
    def operators(self) -> RelayOperators:
        """Relay's operators under Relax's names."""
        return self._operators

    def module(self, shape: tuple[int, ...], body: Callable[[Any], Any]) -> Any:
        """See `Writer`."""
        x = self._relay.var("input", shape=shape, dtype="float32")
        function = self._relay.Function([x], body(x))
        mod = self._tvm.IRModule.from_expr(function)
        return self._relay.transform.InferType()(mod)

    def emit(self, expr: Any) -> Any:
        """See `Writer`; a Relay program is a graph, in which nothing has to be bound."""
        return expr

    def element(self, expr: Any, index: int) -> Any:
        """See `Writer`."""
        return self._relay.TupleGetItem(expr, index)

    def constant(self, values: np.ndarray | np.generic) -> Any:
        """See `Writer`."""
        return self._relay.const(values, str(values.dtype))


WRITERS: dict[str, Callable[[], Writer]] = {"relax": RelaxWriter, "relay": RelayWriter}
"""Writers by the name of their compiler."""


class RelayOperators:
    """``relax.op`` over Relay, as far as workloads use it, in the forms of Relay's importers.

    A matmul with weights is a dense layer of two dimensions; one of two activations is a batched
    matmul whose right operand is transposed. Each is between reshapes where the ranks need them.
    """

    def __init__(self, relay: Any) -> None:
        self._relay = relay
        self.nn = self
        self.relu, self.softmax = relay.nn.relu, relay.nn.softmax
        self.avg_pool2d = relay.nn.avg_pool2d

    def __getattr__(self, name: str) -> Any:
        return getattr(self._relay, name)  # add, multiply, divide, erf, clip, where, ...

    def _shape(self, expr: Any) -> tuple[int, ...]:
        infer: Any = importlib.import_module("tvm.relay.frontend.common").infer_shape
        return tuple(int(extent) for extent in infer(expr))

    def conv2d(
        self,
        x: Any,
        weight: Any,
        strides: Sequence[int],
        padding: Sequence[int],
        groups: int,
        out_dtype: Any,
    ) -> Any:
        """``nn.conv2d``."""
        out, _, *kernel = self._shape(weight)
        return self._relay.nn.conv2d(
            x, weight, strides, padding, groups=groups, channels=out, kernel_size=tuple(kernel)
        )

    def batch_norm(
        self,
        x: Any,
        gamma: Any,
        beta: Any,
        mean: Any,
        variance: Any,
        axis: int,
        momentum: float,
        training: bool,
    ) -> Any:
        """``nn.batch_norm`` in inference."""
        return self._relay.nn.batch_norm(x, gamma, beta, mean, variance, axis).astuple()

    def gelu(self, x: Any) -> Any:
        """By the error function, as Relay has no operator for it."""
        const, relay = self._relay.const, self._relay
        inner = relay.erf(relay.multiply(x, const(math.sqrt(0.5), "float32")))
        half = relay.multiply(x, const(0.5, "float32"))
        return relay.multiply(half, relay.add(inner, const(1.0, "float32")))

    def layer_norm(self, x: Any, gamma: Any, beta: Any, axes: Sequence[int]) -> Any:
        """``nn.layer_norm`` over one axis."""
        (axis,) = axes
        return self._relay.nn.layer_norm(x, gamma, beta, axis)

    def pad(self, x: Any, widths: Sequence[int]) -> Any:
        """``nn.pad`` by zeros."""
        pairs = tuple(zip(widths[::2], widths[1::2], strict=True))
        return self._relay.nn.pad(x, pairs)

    def max_pool2d(self, x: Any, count_include_pad: bool, **window: Any) -> Any:
        """``nn.max_pool2d``."""
        return self._relay.nn.max_pool2d(x, **window)

    def matmul(self, x: Any, y: Any, out_dtype: Any = None) -> Any:
        """A dense layer where ``y`` is a transposed weight, else a batched matmul."""
        relay = self._relay
        shape, other = self._shape(x), self._shape(y)
        transposed = isinstance(y, relay.Call) and isinstance(y.args[0], relay.Constant)
        if transposed or isinstance(y, relay.Constant):
            weight = y.args[0] if transposed else relay.transpose(y, [1, 0])
            flat = relay.reshape(x, (-1, shape[-1])) if len(shape) != 2 else x
            product = relay.nn.dense(flat, weight, units=other[-1])
            return relay.reshape(product, (*shape[:-1], other[-1])) if len(shape) != 2 else product
        left = relay.reshape(x, (-1, *shape[-2:])) if len(shape) != 3 else x
        right = relay.reshape(y, (-1, *other[-2:])) if len(other) != 3 else y
        product = relay.nn.batch_matmul(left, relay.transpose(right, [0, 2, 1]))
        if len(shape) == 3:
            return product
        return relay.reshape(product, (*shape[:-1], other[-1]))

    def permute_dims(self, x: Any, axes: Sequence[int]) -> Any:
        """``transpose``."""
        return self._relay.transpose(x, axes)

    def concat(self, parts: Sequence[Any], axis: int) -> Any:
        """``concatenate``."""
        return self._relay.concatenate(list(parts), axis)

    def split(self, x: Any, indices_or_sections: Any, axis: int) -> Any:
        """``split``, its result a tuple."""
        return self._relay.split(x, indices_or_sections, axis).astuple()

    def strided_slice(
        self, x: Any, axes: Sequence[int], begin: Sequence[int], end: Sequence[int]
    ) -> Any:
        """``strided_slice`` of some axes."""
        return self._relay.strided_slice(x, begin, end, strides=[1] * len(begin), axes=axes)

    def astype(self, x: Any, dtype: str) -> Any:
        """``cast``."""
        return self._relay.cast(x, dtype)
