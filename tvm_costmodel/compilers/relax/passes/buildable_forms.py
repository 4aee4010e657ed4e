"""Operators in a form that the passes behind and the code generator take.

``ConvertLayout`` runs out of memory at a ``squeeze`` by a negative axis, refuses the tuple that
``dropout`` gives, and moves the axes of an image under a normalisation but not those of its
weights. ``rms_norm`` over several axes reads its weights by one index. LLVM has no hyperbolic
functions, and of float16 no inverse ones.
"""

from __future__ import annotations

import functools
import math
import operator
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
    """Over several axes, or all there are: over one."""
    x, axes = call.args[0], [int(axis) % call.args[0].ty.ndim for axis in call.attrs.axes]
    return call if len(axes) == 1 < x.ty.ndim else _flat_norm(bb, call, axes)


def _layer_norm(bb: BlockBuilder, call: Call) -> Expr:
    """Of an image over its channels, rows and columns: over one axis."""
    rank, axes = call.args[0].ty.ndim, call.attrs.axes
    axes = sorted(int(axis) % rank for axis in axes)
    return call if rank != 4 or len(axes) < 3 else _flat_norm(bb, call, axes)


def _flat_norm(bb: BlockBuilder, call: Call, axes: list[int]) -> Expr:
    """A normalisation over the last axes as one over an axis of all their elements."""
    x, shape = call.args[0], list(call.args[0].ty.shape)
    if axes != list(range(len(shape) - len(axes), len(shape))):
        return call
    count = functools.reduce(operator.mul, shape[axes[0] :])
    flat = bb.emit(relax.op.reshape(x, [*(shape[: axes[0]] or [1]), count]))
    weights = [bb.emit(relax.op.reshape(weight, [count])) for weight in call.args[1:]]
    axis, epsilon = max(axes[0], 1), float(call.attrs.epsilon)
    norm = relax.op.nn.layer_norm if len(weights) > 1 else relax.op.nn.rms_norm
    return relax.op.reshape(bb.emit(norm(flat, *weights, axis, epsilon)), shape)


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


def _in_single(bb: BlockBuilder, call: Call) -> Expr:
    """Of float16 in float32, which alone code generation has the function of."""
    dtype = str(call.args[0].ty.dtype)
    if dtype not in ("float16", "bfloat16"):
        return call
    wide = bb.emit(relax.op.astype(call.args[0], "float32"))
    return relax.op.astype(bb.emit(Call(call.op, [wide], call.attrs)), dtype)


_INVERSE = [f"relax.{name}" for name in "asin acos atan asinh acosh atanh".split()]
_FORMS: dict[str, Callable[[BlockBuilder, Call], Expr]] = {
    "relax.squeeze": _squeeze,
    "relax.nn.dropout": _dropout,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.rms_norm": _rms_norm,
    **dict.fromkeys(_INVERSE, _in_single),
    "relax.cosh": _cosh,
    "relax.sinh": _sinh,
}


@mutator
class _Rewriter(PyExprMutator):
    """Rewrites the calls that `_FORMS` names.

    Attributes:
        changed: Whether there was one to rewrite.
    """

    changed = False

    def visit_call_(self, call: Call) -> Expr:
        """Rewrites one call whose arguments have been rewritten."""
        call = self.visit_expr_post_order(call)
        form = _FORMS.get(operator_name(call))
        written = call if form is None else form(self.builder_, call)
        self.changed |= written is not call
        return written


def buildable_forms(note: Callable[[], None] = lambda: None) -> tvm.transform.Pass:
    """A pass that gives operators a form that can be built; most modules it leaves as they are.

    Args:
        note: Called where it changed the module.
    """

    @tvm.transform.module_pass(opt_level=0, name="BuildableForms")
    def run(mod: tvm.IRModule, _context: tvm.transform.PassContext) -> tvm.IRModule:
        result = mod
        for variable, func in mod.functions_items():
            if isinstance(func, relax.Function) and _has_any(func):
                rewriter = _Rewriter(mod)
                rewritten = rewriter.visit_expr(func)
                if rewriter.changed:
                    result = mod.clone() if result is mod else result
                    result[variable] = rewritten
                    note()
        return result

    return run


def _has_any(func: relax.Function) -> bool:
    found: list[bool] = []

    def visit(expr: Expr) -> None:
        if operator_name(expr) in _FORMS:
            found.append(True)

    relax.analysis.post_order_visit(func, visit)
    return bool(found)
