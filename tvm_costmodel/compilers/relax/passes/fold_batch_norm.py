"""Batch norm as a scale and a shift, which fold into convolutions and into each other.

The twin of ``graph_passes.fold_batch_norm``, which does the same on an OpGraph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, TupleGetItem, Var
from tvm.relax.expr_functor import PyExprVisitor, mutator, visitor

from tvm_costmodel.compilers.relax.passes.fold_constants import (
    CallFolder,
    constant,
    constant_value,
    operator_name,
)

_CHANNEL_AXIS = 1  # of NCHW, the layout in which scales are folded


@visitor
class _UseCounter(PyExprVisitor):
    def __init__(self) -> None:
        self.uses: dict[Var, int] = {}

    def _count(self, var: Var) -> None:
        self.uses[var] = self.uses.get(var, 0) + 1

    def visit_var_(self, op: Var) -> None:
        self._count(op)

    def visit_dataflow_var_(self, op: Var) -> None:
        self._count(op)


def count_uses(func: relax.Function) -> dict[Var, int]:
    """Counts how often each variable of a function is read."""
    counter = _UseCounter()
    counter.visit_expr(func.body)
    return counter.uses


@mutator
class BatchNormFolder(CallFolder):
    """Turns inference batch norm into a scale and a shift, and folds those into convolutions.

    ``y = (x - mean) / sqrt(variance + eps) * gamma + beta`` becomes ``x * scale + shift``; a
    channel-wise scale of a convolution that nothing else reads moves into its weights, and
    neighbouring scales and shifts merge.

    Args:
        mod: The module that the function is from.
        uses: ``count_uses`` of the function.
        into_convolutions: Whether scales may change weights.

    Attributes:
        changed: Whether anything was rewritten.
    """

    def __init__(
        self, mod: tvm.IRModule, uses: Mapping[Var, int], into_convolutions: bool = True
    ) -> None:
        super().__init__(mod)
        self.uses = uses
        self.into_convolutions = into_convolutions
        self.changed = False

    def visit_tuple_getitem_(self, item: TupleGetItem) -> Expr:
        """Replaces the first result of a batch norm."""
        item = self.visit_expr_post_order(item)
        source = item.tuple_value
        call = self.lookup_binding(source) if isinstance(source, Var) else source
        if operator_name(call) != "relax.nn.batch_norm" or item.index != 0:
            return item
        if call.attrs.training:  # normalises by the batch's own statistics
            return item
        statistics = [self.resolve(arg) for arg in call.args[1:]]
        if not all(isinstance(arg, GenericConst) for arg in statistics):
            return item
        self.changed = True
        gamma, beta, mean, variance = (constant_value(arg) for arg in statistics)
        if not call.attrs.scale:
            gamma = np.ones_like(gamma)
        if not call.attrs.center:
            beta = np.zeros_like(beta)
        scale = gamma / np.sqrt(variance + np.float32(call.attrs.epsilon))
        shape = [1] * call.args[0].ty.ndim
        shape[int(call.attrs.axis)] = -1
        shift = (beta - mean * scale).reshape(shape)
        scaled = self._scaled(call.args[0], scale.reshape(shape).astype(gamma.dtype))
        return self._shifted(scaled, shift.astype(gamma.dtype))

    def visit_call_(self, call: Call) -> Expr:
        """Merges a multiplication by, or an addition of, a channel-wise constant."""
        call = super().visit_call_(call)
        name = operator_name(call)
        if name == "relax.clip":
            return self._clipped(call)
        if name not in ("relax.multiply", "relax.add"):
            return call
        left, right = call.args
        if isinstance(left, GenericConst):
            left, right = right, left
        if not (isinstance(left, Var) and isinstance(right, GenericConst)):
            return call
        values = constant_value(right)
        if not _is_channel_wise(values, left):
            return call
        if name == "relax.multiply":
            return self._scaled(left, values)
        return self._shifted(left, values)

    def _clipped(self, call: Call) -> Expr:
        """Bounds a tensor by maximum and minimum, which unlike clip follow layout changes."""
        x, low, high = call.args
        bounds = [getattr(bound, "value", bound) for bound in (low, high)]
        values = [getattr(bound, "value", bound) for bound in bounds]
        if not all(isinstance(value, int | float) for value in values):
            return call
        self.changed = True
        dtype = str(call.ty.dtype)
        above = self.builder_.emit(relax.op.maximum(x, relax.const(values[0], dtype)))
        return relax.op.minimum(above, relax.const(values[1], dtype))

    def _definition(self, expr: Expr) -> Any:
        """The call that a variable read only once is bound to."""
        while isinstance(expr, Var):
            if self.uses.get(expr, 1) != 1:
                return None
            expr = self.lookup_binding(expr)
        return expr if isinstance(expr, Call) else None

    def _scaled(self, x: Expr, scale: np.ndarray) -> Expr:
        producer = self._definition(x)
        if operator_name(producer) == "relax.nn.conv2d" and self.into_convolutions:
            weight = self.resolve(producer.args[1])
            attrs = producer.attrs
            if isinstance(weight, GenericConst) and attrs.kernel_layout == "OIHW":
                self.changed = True
                values = constant_value(weight)
                scaled = values * np.broadcast_to(scale.reshape(-1, 1, 1, 1), values[:, :1].shape)
                new = constant(scaled.astype(values.dtype, copy=False))
                return self.builder_.emit(
                    Call(producer.op, [producer.args[0], new], attrs, ret_ty=producer.ty)
                )
        if operator_name(producer) in ("relax.add", "relax.multiply"):
            inner, term = producer.args
            if isinstance(term, GenericConst) and _is_channel_wise(constant_value(term), inner):
                self.changed = True
                merged = constant_value(term) * scale
                if operator_name(producer) == "relax.multiply":
                    return self._scaled(inner, merged)
                return self._shifted(self._scaled(inner, scale), merged)
        return self.builder_.emit(relax.op.multiply(x, constant(scale)))

    def _shifted(self, x: Expr, shift: np.ndarray) -> Expr:
        producer = self._definition(x)
        if operator_name(producer) == "relax.add":
            inner, term = producer.args
            if isinstance(term, GenericConst) and _is_channel_wise(constant_value(term), inner):
                self.changed = True
                return self._shifted(inner, constant_value(term) + shift)
        return self.builder_.emit(relax.op.add(x, constant(shift)))


def _is_channel_wise(values: np.ndarray, x: Expr) -> bool:
    """Whether a constant broadcasts to an NCHW tensor along its channels alone."""
    if getattr(x.ty, "ndim", 0) != 4 or values.ndim > 4 or values.dtype != np.float32:
        return False
    shape = (1,) * (4 - values.ndim) + values.shape
    channels = x.ty.shape[_CHANNEL_AXIS]
    if shape[0] != 1 or shape[2] != 1 or shape[3] != 1:
        return False
    return shape[1] == 1 or (isinstance(channels, tvm.tirx.IntImm) and shape[1] == int(channels))
