"""Operators in a form that the passes behind and the code generator take.

``ConvertLayout`` runs out of memory at a ``squeeze`` by a negative axis and refuses the tuple that
``dropout`` gives, ``rms_norm`` over every axis makes a function that reads a scalar by an index,
and LLVM has no hyperbolic functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm
from tvm import relax
from tvm.ir import Call
from tvm.relax import BlockBuilder, Expr
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_costmodel.compilers.relax.passes.fold_constants import operator_name


def _squeeze(bb: BlockBuilder, call: Call) -> Expr:
    """Axes counted from the front."""
    x, axes = call.args[0], call.attrs.axis
    if axes is None or min((int(axis) for axis in axes), default=0) >= 0:
        return call
    return relax.op.squeeze(x, [int(axis) % x.ty.ndim for axis in axes])


def _dropout(bb: BlockBuilder, call: Call) -> Expr:
    """Its operand, and a mask of ones: nothing is dropped at inference."""
    x = call.args[0]
    return relax.Tuple([x, bb.emit(relax.op.ones_like(x))])


def _rms_norm(bb: BlockBuilder, call: Call) -> Expr:
    """Over every axis: with an axis of one in front."""
    x, weight, axes = call.args[0], call.args[1], [int(axis) for axis in call.attrs.axes]
    if len(axes) < x.ty.ndim:
        return call
    rank = x.ty.ndim
    framed = bb.emit(relax.op.expand_dims(x, 0))
    shifted = [axis % rank + 1 for axis in axes]
    normed = bb.emit(relax.op.nn.rms_norm(framed, weight, shifted, float(call.attrs.epsilon)))
    return relax.op.squeeze(normed, [0])


def _cosh(bb: BlockBuilder, call: Call) -> Expr:
    """``exp(x - ln 2) + exp(-x - ln 2)``, which overflows no earlier than its value."""
    x = call.args[0]
    shift = relax.const(math.log(2.0), str(x.ty.dtype))
    rising = bb.emit(relax.op.exp(bb.emit(relax.op.subtract(x, shift))))
    negative = bb.emit(relax.op.negative(x))
    falling = bb.emit(relax.op.exp(bb.emit(relax.op.subtract(negative, shift))))
    return relax.op.add(rising, falling)


def _sinh(bb: BlockBuilder, call: Call) -> Expr:
    """``tanh x cosh x``, which loses no digits near 0."""
    cosh = bb.emit(_cosh(bb, call))
    return relax.op.multiply(bb.emit(relax.op.tanh(call.args[0])), cosh)


_FORMS: dict[str, Callable[[BlockBuilder, Call], Expr]] = {
    "relax.squeeze": _squeeze,
    "relax.nn.dropout": _dropout,
    "relax.nn.rms_norm": _rms_norm,
    "relax.cosh": _cosh,
    "relax.sinh": _sinh,
}


@mutator
class _Rewriter(PyExprMutator):
    """Rewrites the calls that `_FORMS` names."""

    def visit_call_(self, call: Call) -> Expr:
        """Rewrites one call whose arguments have been rewritten."""
        call = self.visit_expr_post_order(call)
        form = _FORMS.get(operator_name(call))
        return call if form is None else form(self.builder_, call)


def buildable_forms() -> tvm.transform.Pass:
    """A pass that gives operators a form that can be built; most modules it leaves as they are."""

    @tvm.transform.module_pass(opt_level=0, name="BuildableForms")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        result = mod
        for variable, func in mod.functions_items():
            if isinstance(func, relax.Function) and _has_any(func):
                result = mod.clone() if result is mod else result
                result[variable] = _Rewriter(mod).visit_expr(func)
        return result

    return run


def _has_any(func: relax.Function) -> bool:
    found: list[bool] = []

    def visit(expr: Expr) -> None:
        if operator_name(expr) in _FORMS:
            found.append(True)

    relax.analysis.post_order_visit(func, visit)
    return bool(found)
