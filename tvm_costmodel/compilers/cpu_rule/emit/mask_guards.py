"""Keeps LLVM from vectorising loops whose variables are masked in an index, see ``periods``.

Most such loops are cut into affine ones before. What remains (odd reshapes, plain loops, fused
parallel loops) gets a prefetch of the output into its body, which the loop vectoriser does not
touch and which costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.tirx import Bind, BufferStore, For, ForKind, Stmt

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    UnsupportedExpression,
    constant,
    walk,
)
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import constant_extent
from tvm_costmodel.compilers.cpu_rule.emit.periods import PERIOD, is_power_of_two, remainders

_LOOPS = (ForKind.SERIAL, ForKind.PARALLEL)

Ranges = Mapping[Var, int]


def guard_masks(func: tirx.PrimFunc) -> tuple[tirx.PrimFunc, bool]:
    """Guards every loop of a scheduled function whose variable an index masks.

    Returns:
        The function, and whether it has such loops or ones that were cut to have none.
    """
    buffers = [p for p in func.params if getattr(p.ty, "shape", None) is not None]
    if not buffers:
        return func, False
    guards = _Guards(buffers[-1])
    body, _ = guards.visit(func.body, {})
    if not body.same_as(func.body):
        func = tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
    return func, guards.is_periodic


class _Guards:
    """Rewrites statements; each visit also returns the variables that still need a guard."""

    def __init__(self, output: Var) -> None:
        self.output = output
        self.is_periodic = False

    def visit(self, stmt: Stmt, ranges: Ranges) -> tuple[Stmt, set[Var]]:
        """Rewrites a statement below loops of the given extents."""
        if isinstance(stmt, BufferStore):
            return stmt, _masked(lambda: remainders(stmt, ranges))
        if isinstance(stmt, Bind):
            return stmt, _masked(lambda: walk(stmt.value))
        if isinstance(stmt, For):
            return self._loop(stmt, ranges)
        if isinstance(stmt, tirx.SeqStmt):
            parts = [self.visit(part, ranges) for part in stmt.seq]
            masked = set().union(*(variables for _, variables in parts))
            if all(new.same_as(old) for (new, _), old in zip(parts, stmt.seq, strict=True)):
                return stmt, masked
            return tirx.SeqStmt([part for part, _ in parts]), masked
        if isinstance(stmt, tirx.IfThenElse):
            return self._condition(stmt, ranges)
        if isinstance(stmt, s_tir.stmt.SBlockRealize):
            return self._block(stmt, ranges)
        return stmt, set()

    def _loop(self, loop: For, ranges: Ranges) -> tuple[Stmt, set[Var]]:
        extent = constant_extent(loop.extent)
        self.is_periodic |= loop.loop_var.name == PERIOD
        within = ranges if extent < 0 else {**ranges, loop.loop_var: extent}
        body, masked = self.visit(loop.body, within)
        if loop.loop_var in masked and loop.kind in _LOOPS and extent != 1:
            body = tirx.SeqStmt([self._guard(), body])
            self.is_periodic = True
        masked.discard(loop.loop_var)
        if body.same_as(loop.body):
            return loop, masked
        kept = (loop.loop_var, loop.min, loop.extent, loop.kind)
        return For(*kept, body, loop.thread_binding, loop.annotations), masked

    def _condition(self, stmt: tirx.IfThenElse, ranges: Ranges) -> tuple[Stmt, set[Var]]:
        then, masked = self.visit(stmt.then_case, ranges)
        other = stmt.else_case
        if other is not None:
            other, more = self.visit(other, ranges)
            masked = masked | more
        same = then.same_as(stmt.then_case) and (other is None or other.same_as(stmt.else_case))
        return (stmt if same else tirx.IfThenElse(stmt.condition, then, other)), masked

    def _block(self, stmt: s_tir.stmt.SBlockRealize, ranges: Ranges) -> tuple[Stmt, set[Var]]:
        block = stmt.block
        body, masked = self.visit(block.body, ranges)
        # A block's own variables stand for what they are bound to.
        for axis, value in zip(block.iter_vars, stmt.iter_values, strict=True):
            if axis.var in masked:
                masked = (masked - {axis.var}) | _variables(value)
        if body.same_as(block.body):
            return stmt, masked
        new = s_tir.stmt.SBlock(
            block.iter_vars,
            block.reads,
            block.writes,
            block.name_hint,
            body,
            block.init,
            block.alloc_buffers,
            block.match_buffers,
            block.annotations,
        )
        return s_tir.stmt.SBlockRealize(stmt.iter_values, stmt.predicate, new), masked

    def _guard(self) -> Stmt:
        first = tirx.BufferLoad(self.output, [constant(0)] * len(self.output.ty.shape))
        flags = [tirx.IntImm("int32", value) for value in (1, 3, 1)]  # to write, near, of data
        address = tirx.address_of(first)
        return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, *flags))


def _masked(nodes: Callable[[], Iterable[Expr]]) -> set[Var]:
    """The variables of which some expressions take remainders of powers of two."""
    try:
        masks = [node for node in nodes() if isinstance(node, tirx.FloorMod) and _is_mask(node)]
        return {var for node in masks for var in _variables(node.a)}
    except UnsupportedExpression:
        return set()


def _is_mask(node: tirx.FloorMod) -> bool:
    return isinstance(node.b, tirx.IntImm) and is_power_of_two(int(node.b.value))


def _variables(expr: Expr) -> set[Var]:
    return {node for node in walk(expr) if isinstance(node, Var)}
