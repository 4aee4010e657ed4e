"""Zero padding as row copies: the stage that feeds most convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Call, Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant, is_variable, simplify
from tvm_costmodel.compilers.cpu_rule.emit.statements import index_variable, loop, nest, spread


@dataclasses.dataclass(frozen=True, eq=False)
class Padding:
    """A stage that copies a buffer into a larger one with a constant border.

    Attributes:
        source: The buffer copied.
        target: The buffer written.
        before: Border elements before the copy, per dimension.
        value: What the border holds.
    """

    source: Var
    target: Var
    before: tuple[int, ...]
    value: Expr

    def emit(self, cores: int) -> tirx.Stmt:
        """Returns loops that write the whole target, a contiguous run at a time."""
        source = [int(d) for d in self.source.ty.shape]
        target = [int(d) for d in self.target.ty.shape]
        last = max(d for d in range(len(target)) if source[d] != target[d])
        inner = 1
        for extent in target[last + 1 :]:
            inner *= extent
        outer = [index_variable(f"at{d}") for d in range(last)]

        def place(offset: Expr) -> list[Expr]:
            # Every index within its dimension: lowering cuts a buffer down to what is indexed, so
            # an index that runs on into the next row would leave too short a row behind.
            return [*outer, *_within(offset, target[last:])]

        def fill(start: int, count: int) -> tirx.Stmt:
            i = index_variable("i")
            return loop(
                i, count, tirx.BufferStore(self.target, self.value, place(i + constant(start)))
            )

        head = self.before[last] * inner
        run = source[last] * inner
        rest = target[last] * inner - head - run
        i = index_variable("i")
        shifted = [v - constant(b) for v, b in zip(outer, self.before, strict=False)]
        read = [*shifted, *_within(i, source[last:])]
        copy = loop(
            i,
            run,
            tirx.BufferStore(
                self.target, tirx.BufferLoad(self.source, read), place(i + constant(head))
            ),
        )
        pieces = [copy]
        if head:
            pieces.insert(0, fill(0, head))
        if rest:
            pieces.append(fill(head + run, rest))
        body: tirx.Stmt = tirx.SeqStmt(pieces) if len(pieces) > 1 else copy
        inside: Expr | None = None
        for d, variable in enumerate(outer):
            if source[d] == target[d]:
                continue
            low, high = constant(self.before[d]), constant(self.before[d] + source[d])
            within = tirx.And(tirx.GE(variable, low), tirx.LT(variable, high))
            inside = within if inside is None else tirx.And(inside, within)
        if inside is not None:
            body = tirx.IfThenElse(inside, body, fill(0, target[last] * inner))
        levels = [(v, target[d]) for d, v in enumerate(outer)]
        return spread(levels, body, cores) if cores > 1 and levels else nest(levels, body)


def _within(offset: Expr, extents: Sequence[int]) -> list[Expr]:
    """Indices of the element at a flat offset; the outermost index takes the remainder."""
    indices: list[Expr] = []
    for extent in reversed(extents[1:]):
        indices.append(tirx.FloorMod(offset, constant(extent)))
        offset = tirx.FloorDiv(offset, constant(extent))
    return [offset, *reversed(indices)]


def match_padding(sch: s_tir.Schedule, name: str) -> Padding | None:
    """Recognises a block that pads a buffer on all sides with a constant."""
    stmt = sch.get(sch.get_sblock(name))
    store = stmt.body
    if not isinstance(store, tirx.BufferStore) or not isinstance(store.value, Call):
        return None
    if not getattr(store.value.op, "name", "").endswith("if_then_else"):
        return None
    _, load, value = store.value.args
    if not isinstance(load, TensorLoad) or not isinstance(value, tirx.FloatImm | tirx.IntImm):
        return None
    axes = [iv.var for iv in stmt.iter_vars]
    if len(load.indices) != len(axes) or len(store.indices) != len(axes):
        return None
    before = []
    for axis, written, read in zip(axes, store.indices, load.indices, strict=True):
        shift = simplify(axis - read)
        if not is_variable(written, axis) or not isinstance(shift, tirx.IntImm):
            return None
        before.append(int(shift.value))
    source = [int(d) for d in load.source.ty.shape]
    target = [int(d) for d in store.buffer.ty.shape]
    fits = all(b >= 0 and b + s <= t for b, s, t in zip(before, source, target, strict=True))
    if not fits or source == target:
        return None
    bounds = _bounds(store.value.args[0], axes)
    if bounds is None:
        return None
    always = {bound for d, t in enumerate(target) for bound in ((d, "low", 0), (d, "high", t))}
    expected = {(d, "low", low) for d, low in enumerate(before)}
    expected |= {(d, "high", low + source[d]) for d, low in enumerate(before)}
    if bounds - always != expected - always:
        return None
    return Padding(load.source, store.buffer, tuple(before), value)


def _bounds(condition: Expr, axes: list[Var]) -> set[tuple[int, str, int]] | None:
    """Reads ``low <= axis`` and ``axis < high`` terms; None where there is any other term."""
    if isinstance(condition, tirx.And):
        left, right = _bounds(condition.a, axes), _bounds(condition.b, axes)
        return None if left is None or right is None else left | right
    for d, axis in enumerate(axes):
        a, b = condition.a, condition.b
        if isinstance(condition, tirx.LE) and is_variable(b, axis) and isinstance(a, tirx.IntImm):
            return {(d, "low", int(a.value))}
        if isinstance(condition, tirx.LT) and is_variable(a, axis) and isinstance(b, tirx.IntImm):
            return {(d, "high", int(b.value))}
    return None
