"""Vector arithmetic in place of library calls: exp, tanh, erf and small powers.

LLVM turns ``exp`` of a vector into one call of the C library per element. The replacements are
polynomials over the whole vector, accurate to a few units in the last place of float32
(Cephes' expf; tanh and erf as rational functions, as in Eigen).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import s_tir, tirx
from tvm.ir import Call, Expr
from tvm.ir.expr import TensorLoad
from tvm.tirx import Let, Stmt, Var

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    UnsupportedExpression,
    children,
    walk,
)

_VECTOR_FORMS = ("tirx.exp", "tirx.tanh", "tirx.erf", "tirx.sigmoid", "tirx.pow")
# Arguments are clamped to these; beyond them exp is 0 and infinite in any case.
_EXP_LOW, _EXP_HIGH = -87.5, 89.0
_LOG2E = 1.44269504088896341
# ln 2 in two parts, so that n * ln 2 is exact enough
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_TANH_TOP = (
    -2.76076847742355e-16,
    2.00018790482477e-13,
    -8.60467152213735e-11,
    5.12229709037114e-08,
    1.48572235717979e-05,
    6.37261928875436e-04,
    4.89352455891786e-03,
)
_TANH_BOTTOM = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_ERF_TOP = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
_ERF_BOTTOM = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)


def _real(value: float) -> tirx.FloatImm:
    return tirx.FloatImm("float32", value)


def _bound(value: Expr, make: Callable[[Expr], Expr], dtype: str = "float32") -> Expr:
    """An expression that reads a value several times and computes it once."""
    var = Var("x", dtype)
    return Let(var, value, make(var))


def _horner(x: Expr, coefficients: tuple[float, ...]) -> Expr:
    result: Expr = _real(coefficients[0])
    for coefficient in coefficients[1:]:
        result = result * x + _real(coefficient)
    return result


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """A value (read several times) within bounds; NaN stays NaN, as no comparison holds for it."""
    above = tirx.Select(tirx.LT(x, _real(low)), _real(low), x)
    return _bound(above, lambda x: tirx.Select(tirx.GT(x, _real(high)), _real(high), x))


def _integer(value: int) -> tirx.IntImm:
    return tirx.IntImm("int32", value)


def exp(x: Expr) -> Expr:
    """The exponential, as a power of two times that of a remainder within half of ln 2.

    Results below 1.7e-38 (twice the least normal number, less rounding) are 0, those that overflow
    are infinite, and NaN stays NaN.
    """

    def scaled(x: Expr) -> Expr:
        def reduced(n: Expr) -> Expr:
            r = x - n * _real(_LN2_HIGH) - n * _real(_LN2_LOW)

            def polynomial(r: Expr) -> Expr:
                value = _horner(r, _EXP) * (r * r) + r + _real(1.0)
                # 2**128 is no float32: half of the power, in the exponent's bits, times twice the
                # rest. The bits are 0 at the lower clamp, and so is the product.
                half = (tirx.Cast("int32", n) + _integer(126)) << _integer(23)
                return _bound(value, lambda v: (v + v) * tirx.reinterpret("float32", half))

            return _bound(r, polynomial)

        return _bound(tirx.floor(x * _real(_LOG2E) + _real(0.5)), reduced)

    return _bound(x, lambda x: _bound(_clamp(x, _EXP_LOW, _EXP_HIGH), scaled))


def _rational(top: tuple[float, ...], bottom: tuple[float, ...]) -> Callable[[Expr], Expr]:
    def value(x: Expr) -> Expr:
        return _bound(x * x, lambda s: x * _horner(s, top) / _horner(s, bottom))

    return value


def tanh(x: Expr) -> Expr:
    """The hyperbolic tangent, clamped where float32 rounds it to one."""
    value = _rational(_TANH_TOP, _TANH_BOTTOM)
    return _bound(x, lambda x: _bound(_clamp(x, -9.0, 9.0), value))


def erf(x: Expr) -> Expr:
    """The error function, clamped where float32 rounds it to one."""
    value = _rational(_ERF_TOP, _ERF_BOTTOM)
    return _bound(x, lambda x: _bound(_clamp(x, -4.0, 4.0), value))


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + exp(-x))."""
    return _real(1.0) / (_real(1.0) + exp(_real(0.0) - x))


def power(x: Expr, exponent: Expr) -> Expr | None:
    """x**exponent for the exponents that multiplications and square roots make."""
    if not isinstance(exponent, tirx.FloatImm):
        return None
    value = float(exponent.value)
    if value == 0.5:
        return tirx.sqrt(x)
    if value == 0.75:
        return _bound(tirx.sqrt(x), lambda r: r * tirx.sqrt(r))
    if value == 2.0:
        return _bound(x, lambda x: x * x)
    if value == 3.0:
        return _bound(x, lambda x: x * x * x)
    return None


def expand(call: Call) -> Expr | None:
    """Returns the replacement of a call, or None where the call stays."""
    name = getattr(call.op, "name", "")
    if str(call.ty.dtype if hasattr(call.ty, "dtype") else call.ty) != "float32":
        return None
    if name == "tirx.pow":
        return power(call.args[0], call.args[1])
    vector_form = {
        "tirx.exp": exp,
        "tirx.tanh": tanh,
        "tirx.erf": erf,
        "tirx.sigmoid": sigmoid,
    }.get(name)
    return vector_form(call.args[0]) if vector_form else None


def expand_expression(expr: Expr, replaced: set[str]) -> Expr:
    """Replaces every library call in an expression that has a vector form.

    Args:
        expr: The expression.
        replaced: Grows by the names of the replaced functions, such as ``exp``.
    """
    below = children(expr)
    if not below:
        return expr
    new = [expand_expression(child, replaced) for child in below]
    if all(a is b or a.same_as(b) for a, b in zip(new, below, strict=True)):
        result = expr
    elif isinstance(expr, TensorLoad):
        result = tirx.BufferLoad(expr.source, new)
    elif isinstance(expr, Call):
        result = Call(expr.op, new, expr.attrs, ret_ty=expr.ty)
    elif isinstance(expr, tirx.Cast):
        result = tirx.Cast(expr.ty, new[0])
    else:
        result = type(expr)(*new)
    vector_form = expand(result) if isinstance(result, Call) else None
    if vector_form is None:
        return result
    replaced.add(result.op.name.removeprefix("tirx."))
    return vector_form


def expand_statement(stmt: Stmt, replaced: set[str]) -> Stmt:
    """Replaces library calls in every store below a statement; arguments as above."""
    if isinstance(stmt, tirx.BufferStore):
        value = expand_expression(stmt.value, replaced)
        return stmt if value is stmt.value else tirx.BufferStore(stmt.buffer, value, stmt.indices)
    if isinstance(stmt, tirx.SeqStmt):
        return tirx.SeqStmt([expand_statement(part, replaced) for part in stmt.seq])
    if isinstance(stmt, tirx.For):
        body = expand_statement(stmt.body, replaced)
        if body is stmt.body:
            return stmt
        return tirx.For(
            stmt.loop_var,
            stmt.min,
            stmt.extent,
            stmt.kind,
            body,
            stmt.thread_binding,
            stmt.annotations,
        )
    if isinstance(stmt, tirx.IfThenElse):
        other = expand_statement(stmt.else_case, replaced) if stmt.else_case is not None else None
        return tirx.IfThenElse(stmt.condition, expand_statement(stmt.then_case, replaced), other)
    if isinstance(stmt, s_tir.stmt.SBlockRealize):
        block = expand_statement(stmt.block, replaced)
        return s_tir.stmt.SBlockRealize(stmt.iter_values, stmt.predicate, block)
    if isinstance(stmt, s_tir.stmt.SBlock):
        return s_tir.stmt.SBlock(
            stmt.iter_vars,
            stmt.reads,
            stmt.writes,
            stmt.name_hint,
            expand_statement(stmt.body, replaced),
            expand_statement(stmt.init, replaced) if stmt.init is not None else None,
            stmt.alloc_buffers,
            stmt.match_buffers,
            stmt.annotations,
        )
    return stmt


def calls_library(expr: Expr, names: Sequence[str] = _VECTOR_FORMS) -> bool:
    """Whether an expression calls something that has a vector form."""
    calls = (node for node in walk(expr) if isinstance(node, Call))
    return any(getattr(node.op, "name", "") in names for node in calls)


def has_library_calls(stmt: Stmt) -> bool:
    """Whether a store below a statement calls something that has a vector form."""
    if isinstance(stmt, tirx.BufferStore):
        return calls_library(stmt.value)
    if isinstance(stmt, tirx.SeqStmt):
        return any(has_library_calls(part) for part in stmt.seq)
    if isinstance(stmt, s_tir.stmt.SBlockRealize):
        return has_library_calls(stmt.block.body)
    return isinstance(stmt, tirx.For) and has_library_calls(stmt.body)


def expand_function(func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, frozenset[str]]:
    """Replaces library calls in a scheduled function; unknown ones stay.

    Returns:
        The function, and the names of the functions that were replaced in it, such as ``exp``.
    """
    replaced: set[str] = set()
    try:
        body = expand_statement(func.body, replaced)
    except UnsupportedExpression:
        return func, frozenset()
    return tirx.PrimFunc(func.params, body, func.ret_type, func.attrs), frozenset(replaced)
