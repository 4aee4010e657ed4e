"""Small builders of loop statements."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Var

from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant

SERIAL = tirx.ForKind.SERIAL
PARALLEL = tirx.ForKind.PARALLEL
UNROLLED = tirx.ForKind.UNROLLED
VECTORISED = tirx.ForKind.VECTORIZED

# A parallel loop should give every core this many iterations, so that uneven ones even out.
_ITERATIONS_PER_CORE = 4


def index_variable(name: str) -> Var:
    """Returns a fresh loop variable."""
    return tirx.Var(name, "int64")


def loop(variable: Var, extent: int, body: tirx.Stmt, kind: tirx.ForKind = SERIAL) -> tirx.Stmt:
    """Returns a loop from zero; lowering removes one of a single step."""
    return tirx.For(variable, constant(0), constant(extent), kind, body)


def nest(levels: Sequence[tuple[Var, int]], body: tirx.Stmt) -> tirx.Stmt:
    """Wraps a statement in serial loops, the first outermost."""
    for variable, extent in reversed(levels):
        body = loop(variable, extent, body)
    return body


def spread(levels: Sequence[tuple[Var, int]], body: tirx.Stmt, cores: int) -> tirx.Stmt:
    """Wraps a statement in loops, enough of the outermost fused into one parallel loop."""
    body = nest([level for level in levels if level[1] == 1], body)
    levels = [level for level in levels if level[1] > 1]
    if not levels:
        return body
    fused, iterations = 0, 1
    while fused < len(levels) and iterations < _ITERATIONS_PER_CORE * cores:
        iterations *= levels[fused][1]
        fused += 1
    body = nest(levels[fused:], body)
    iteration = index_variable("turn")
    bindings: list[tirx.Stmt] = []
    rest: Expr = iteration
    for variable, extent in reversed(levels[1:fused]):
        bindings.append(tirx.Bind(variable, tirx.FloorMod(rest, constant(extent))))
        rest = tirx.FloorDiv(rest, constant(extent))
    bindings.append(tirx.Bind(levels[0][0], rest))
    return loop(iteration, iterations, tirx.SeqStmt([*bindings, body]), PARALLEL)


def rebuild(
    sch: s_tir.Schedule,
    statements: Sequence[tirx.Stmt],
    params: Sequence[Var],
    buffers: Sequence[Var],
    attrs: dict[str, str] | None = None,
) -> s_tir.Schedule:
    """Returns a schedule of a function with the same attributes and another body.

    Args:
        sch: The old function's schedule.
        statements: The new body, in order.
        params: The new function's parameters.
        buffers: Buffers that the body needs besides the parameters.
        attrs: Attributes to add.
    """
    func = sch.mod["main"]
    body = tirx.SeqStmt(list(statements)) if len(statements) > 1 else statements[0]
    root = s_tir.SBlock([], [], [], "root", body, alloc_buffers=list(buffers))
    result = tirx.PrimFunc(
        list(params), s_tir.SBlockRealize([], True, root), func.ret_type, func.attrs
    )
    for key, value in (attrs or {}).items():
        result = result.with_attr(key, value)
    return s_tir.Schedule(result, error_render_level="fast")
