"""Rewriting and inspection of TIR expressions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import tvm
from tvm import tirx
from tvm.ir import Call, Expr, Var
from tvm.ir.expr import TensorLoad
from tvm.ir.prim import expr as prim

_BINARY = (
    tirx.Add,
    tirx.Sub,
    tirx.Mul,
    tirx.Div,
    tirx.FloorDiv,
    tirx.FloorMod,
    tirx.Max,
    tirx.Min,
    tirx.EQ,
    tirx.NE,
    tirx.LT,
    tirx.LE,
    tirx.GT,
    tirx.GE,
    tirx.And,
    tirx.Or,
    tirx.Mod,
    prim.BitwiseAnd,
    prim.BitwiseOr,
    prim.BitwiseXor,
    prim.LShift,
    prim.RShift,
)

LoadRewrite = Callable[[TensorLoad, list[Expr]], Expr]


class UnsupportedExpression(ValueError):
    """An expression holds a node that the rewriting does not know."""


def constant(value: int) -> tirx.IntImm:
    """Returns an int64 constant, the type of all indices here."""
    return tirx.IntImm("int64", value)


def children(expr: Expr) -> tuple[Expr, ...]:
    """Returns an expression's direct operands."""
    if isinstance(expr, Var | tirx.IntImm | tirx.FloatImm):
        return ()
    if isinstance(expr, _BINARY):
        return (expr.a, expr.b)
    if isinstance(expr, TensorLoad):
        return tuple(expr.indices)
    if isinstance(expr, Call):
        return tuple(expr.args)
    if isinstance(expr, tirx.Cast):
        return (expr.value,)
    if isinstance(expr, tirx.Not | prim.BitwiseNot):
        return (expr.a,)
    if isinstance(expr, tirx.Select):
        return (expr.condition, expr.true_value, expr.false_value)
    raise UnsupportedExpression(f"expression node {type(expr).__name__}")


def walk(expr: Expr) -> Iterator[Expr]:
    """Yields an expression and everything below it."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def loads(expr: Expr) -> list[TensorLoad]:
    """Returns every buffer access in an expression."""
    return [node for node in walk(expr) if isinstance(node, TensorLoad)]


def uses(expr: Expr, variable: Var) -> bool:
    """Whether a variable appears in an expression."""
    return any(node.same_as(variable) for node in walk(expr))


def is_variable(expr: Expr, variable: Var) -> bool:
    """Whether an expression is that variable alone."""
    return bool(expr.same_as(variable))


def rewrite(expr: Expr, values: Mapping[Var, Expr], on_load: LoadRewrite | None = None) -> Expr:
    """Replaces variables, and buffer accesses where asked.

    Args:
        expr: The expression.
        values: New value of each variable to replace.
        on_load: Called with each buffer access and its rewritten indices; returns what takes its
            place.

    Raises:
        UnsupportedExpression: A node is of a kind not handled here.
    """
    if isinstance(expr, Var):
        return values.get(expr, expr)
    below = children(expr)
    if not below and not isinstance(expr, TensorLoad):  # a load of a scalar has no indices
        return expr
    new = [rewrite(child, values, on_load) for child in below]
    if isinstance(expr, TensorLoad):
        return on_load(expr, new) if on_load else tirx.BufferLoad(expr.source, new)
    if isinstance(expr, Call):
        return Call(expr.op, new, expr.attrs, ret_ty=expr.ty) if new else expr
    if isinstance(expr, tirx.Cast):
        return tirx.Cast(expr.ty, new[0])
    return type(expr)(*new)


def simplify(expr: Expr, ranges: Mapping[Var, int] | None = None) -> Expr:
    """Simplifies an index expression, given each variable's extent."""
    analyzer = tvm.sym.Analyzer()
    for variable, extent in (ranges or {}).items():
        analyzer.bind(variable, tvm.ir.Range(constant(0), constant(extent)))
    return analyzer.simplify(expr)
