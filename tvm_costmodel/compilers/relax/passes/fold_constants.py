"""Constant operators evaluated with NumPy while the network is built.

``relax.transform.FoldConstant`` compiles one function per folded operator, which takes seconds on
a network whose weights change layout. The handful of operators that weights meet are evaluated
here with NumPy instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst
from tvm.relax import Expr, ShapeExpr, Tuple, Var
from tvm.relax.expr_functor import PyExprMutator, mutator

MAX_FOLDED_ELEMENTS = 1 << 25
"""Largest result that is made of much smaller constants; larger ones are computed when it runs."""


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _permute(args: list[np.ndarray], attrs: Any) -> np.ndarray:
    axes = attrs.axes
    return np.transpose(args[0], None if axes is None else _ints(axes))


def _expand(args: list[np.ndarray], attrs: Any) -> np.ndarray:
    return np.expand_dims(args[0], _ints(attrs.axis))


def _squeeze(args: list[np.ndarray], attrs: Any) -> np.ndarray:
    axis = attrs.axis
    return np.squeeze(args[0], None if axis is None else _ints(axis))


_EVALUATORS: Mapping[str, Callable[[list[np.ndarray], Any], np.ndarray]] = {
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
    value = expr.value
    return value.numpy() if str(value.dtype) == "bfloat16" else np.from_dlpack(value)


def _is_too_large(call: Call, arrays: list[Any]) -> bool:
    """Whether a result is many times larger than the constants that it is computed from."""
    shape = getattr(call.ty, "shape", None)
    if not isinstance(shape, ShapeExpr):
        return False
    elements = math.prod(int(v) for v in shape.values if isinstance(v, tvm.tirx.IntImm))
    given = sum(
        array.size
        for group in arrays
        for array in (group if isinstance(group, list) else [group])
        if isinstance(array, np.ndarray)
    )
    return elements > MAX_FOLDED_ELEMENTS and elements > 4 * given


def operator_name(expr: object) -> str:
    """Returns a call's operator name, e.g. ``relax.add``; empty for anything else."""
    op = getattr(expr, "op", None)
    return op.name if isinstance(op, tvm.ir.Op) else ""


class CallFolder(PyExprMutator):
    """Evaluates calls whose arguments are all constants; without TVM's ``mutator`` decorator.

    Attributes:
        unfolded: Names of operators with only constant arguments that have no rule here.
        folded: Names of operators that were evaluated.
    """

    def __init__(self, mod: tvm.IRModule) -> None:
        super().__init__(mod)
        self.unfolded: set[str] = set()
        self.folded: set[str] = set()

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
        arrays: list[Any] = []
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
            self.unfolded.add(name)
            return None
        dtype = str(call.ty.dtype)
        if _is_too_large(call, arrays):
            self.unfolded.add(name)
            return None
        return constant(np.asarray(_EVALUATORS[name](arrays, call.attrs)).astype(dtype, copy=False))

    def visit_call_(self, call: Call) -> Expr:
        """Folds the call or binds its constant arguments in place."""
        call = self.visit_expr_post_order(call)
        if not operator_name(call).startswith("relax."):
            return call
        folded = self.evaluate(call)
        if folded is not None:
            self.folded.add(operator_name(call))
            return folded
        args = [self.resolve(arg) for arg in call.args]
        if all(new is old for new, old in zip(args, call.args, strict=True)):
            return call
        return Call(call.op, args, call.attrs, call.ty_args, ret_ty=call.ty)


@mutator
class ConstantFolder(CallFolder):
    """Evaluates calls whose arguments are all constants; ``unfolded`` names those it could not."""
