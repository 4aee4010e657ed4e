"""Graph simplification with NumPy: constants, batch norm and channel-wise scales.

``relax.transform.FoldConstant`` compiles one function per folded operator, which takes seconds on
a network whose weights change layout. The handful of operators that weights meet are evaluated
here with NumPy instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, ShapeExpr, Tuple, TupleGetItem, Var
from tvm.relax.expr_functor import PyExprMutator, PyExprVisitor, mutator, visitor

_CHANNEL_AXIS = 1  # of NCHW, the layout in which scales are folded


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _permute(args: list, attrs: Any) -> np.ndarray:
    axes = attrs.axes
    return np.transpose(args[0], None if axes is None else _ints(axes))


def _expand(args: list, attrs: Any) -> np.ndarray:
    return np.expand_dims(args[0], _ints(attrs.axis))


def _squeeze(args: list, attrs: Any) -> np.ndarray:
    axis = attrs.axis
    return np.squeeze(args[0], None if axis is None else _ints(axis))


_EVALUATORS: Mapping[str, Callable[[list, Any], np.ndarray]] = {
    "relax.permute_dims": _permute,
    "relax.expand_dims": _expand,
    "relax.squeeze": _squeeze,
    "relax.reshape": lambda args, _: np.reshape(args[0], args[1]),
    "relax.broadcast_to": lambda args, _: np.broadcast_to(args[0], args[1]),
    "relax.flatten": lambda args, _: np.reshape(args[0], -1),
    "relax.add": lambda args, _: args[0] + args[1],
    "relax.subtract": lambda args, _: args[0] - args[1],
    "relax.multiply": lambda args, _: args[0] * args[1],
    "relax.divide": lambda args, _: args[0] / args[1],
    "relax.power": lambda args, _: np.power(args[0], args[1]),
    "relax.maximum": lambda args, _: np.maximum(args[0], args[1]),
    "relax.minimum": lambda args, _: np.minimum(args[0], args[1]),
    "relax.sqrt": lambda args, _: np.sqrt(args[0]),
    "relax.rsqrt": lambda args, _: 1 / np.sqrt(args[0]),
    "relax.negative": lambda args, _: -args[0],
    "relax.exp": lambda args, _: np.exp(args[0]),
    "relax.abs": lambda args, _: np.abs(args[0]),
    "relax.astype": lambda args, attrs: args[0].astype(str(attrs.dtype)),
    "relax.concat": lambda args, attrs: np.concatenate(args[0], int(attrs.axis)),
}


def constant(values: np.ndarray) -> GenericConst:
    """Makes a Relax constant of an array of any memory order."""
    # ascontiguousarray makes a scalar one-dimensional, which layout conversion does not take
    contiguous = np.ascontiguousarray(values).reshape(values.shape)
    return relax.const(contiguous, str(values.dtype))


def constant_value(expr: Expr) -> np.ndarray:
    """Returns a Relax constant's values; read only."""
    return np.from_dlpack(expr.value)


def operator_name(expr: object) -> str:
    """Returns a call's operator name, e.g. ``relax.add``; empty for anything else."""
    op = getattr(expr, "op", None)
    return op.name if isinstance(op, tvm.ir.Op) else ""


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


class _Folder(PyExprMutator):
    """Evaluates calls whose arguments are all constants.

    Attributes:
        left: Names of operators with constant arguments only that NumPy has no rule for here.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.left: set[str] = set()

    def resolve(self, expr: Expr) -> Expr:
        """Follows a variable to the constant it is bound to, if it is."""
        if isinstance(expr, Var):
            bound = self.lookup_binding(expr)
            if isinstance(bound, GenericConst):
                return bound
        return expr

    def evaluate(self, call: Call) -> GenericConst | None:
        """Returns the call's value where all its arguments are constants."""
        name = operator_name(call)
        arrays: list = []
        constants = 0
        for arg in call.args:
            if isinstance(arg, Var):
                arg = self.lookup_binding(arg)
            if isinstance(arg, GenericConst):
                arrays.append(constant_value(arg))
                constants += 1
            elif isinstance(arg, ShapeExpr):
                if not all(isinstance(v, tvm.tirx.IntImm) for v in arg.values):
                    return None
                arrays.append(_ints(arg.values))
            elif isinstance(arg, Tuple):
                fields = [self.resolve(field) for field in arg.fields]
                if not fields or not all(isinstance(field, GenericConst) for field in fields):
                    return None
                arrays.append([constant_value(field) for field in fields])
                constants += 1
            else:
                return None
        if not constants:
            return None
        if name not in _EVALUATORS:
            self.left.add(name)
            return None
        dtype = str(call.ty.dtype)
        return constant(np.asarray(_EVALUATORS[name](arrays, call.attrs)).astype(dtype, copy=False))

    def visit_call_(self, call: Call) -> Expr:
        """Folds the call or binds its constant arguments in place."""
        call = self.visit_expr_post_order(call)
        if not operator_name(call).startswith("relax."):
            return call
        folded = self.evaluate(call)
        if folded is not None:
            return folded
        args = [self.resolve(arg) for arg in call.args]
        if all(new is old for new, old in zip(args, call.args, strict=True)):
            return call
        return Call(call.op, args, call.attrs, call.ty_args, ret_ty=call.ty)


@mutator
class ConstantFolder(_Folder):
    """Evaluates calls whose arguments are all constants; ``left`` names those it could not."""


@mutator
class ScaleFolder(_Folder):
    """Turns inference batch norm into a scale and a shift, and folds those into convolutions.

    ``y = (x - mean) / sqrt(variance + eps) * gamma + beta`` becomes ``x * scale + shift``; a
    channel-wise scale of a convolution that nothing else reads moves into its weights, and
    neighbouring scales and shifts merge.

    Args:
        mod: The module that the function is from.
        uses: ``count_uses`` of the function.
        into_convolutions: Whether scales may change weights.
    """

    def __init__(
        self, mod: tvm.IRModule, uses: Mapping[Var, int], into_convolutions: bool = True
    ) -> None:
        super().__init__(mod)
        self.uses = uses
        self.into_convolutions = into_convolutions

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
        gamma, beta, mean, variance = (constant_value(arg) for arg in statistics)
        if not call.attrs.scale:
            gamma = np.ones_like(gamma)
        if not call.attrs.center:
            beta = np.zeros_like(beta)
        scale = gamma / np.sqrt(variance + np.float32(call.attrs.epsilon))
        shape = [1] * call.args[0].ty.ndim
        shape[int(call.attrs.axis)] = -1
        shift = (beta - mean * scale).reshape(shape)
        product = self._scaled(call.args[0], scale.reshape(shape).astype(gamma.dtype))
        return self._shifted(product, shift.astype(gamma.dtype))

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
        """Bounds a tensor by maximum and minimum, which unlike clip take part in layout changes."""
        x, low, high = call.args
        bounds = [getattr(bound, "value", bound) for bound in (low, high)]
        values = [getattr(bound, "value", bound) for bound in bounds]
        if not all(isinstance(value, int | float) for value in values):
            return call
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
                values = constant_value(weight)
                scaled = values * np.broadcast_to(scale.reshape(-1, 1, 1, 1), values[:, :1].shape)
                new = constant(scaled.astype(values.dtype, copy=False))
                return self.builder_.emit(
                    Call(producer.op, [producer.args[0], new], attrs, ret_ty=producer.ty)
                )
        if operator_name(producer) in ("relax.add", "relax.multiply"):
            inner, term = producer.args
            if isinstance(term, GenericConst) and _is_channel_wise(constant_value(term), inner):
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
