"""One reduction as a nest of loops, in vectors where its operand lies contiguous.

There are three forms: *columns* keep one accumulator per output element, side by side in vectors;
*strips* run along the reduced axis itself, lanes holding partial results that are combined at the
end; *scalars* compute one element at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tvm import tirx
from tvm.ir import Expr, Var
from tvm.tirx import BufferLoad, BufferStore, For, ForKind, Stmt

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    constant,
    loads,
    rewrite,
    simplify,
    uses,
)
from tvm_costmodel.compilers.cpu_rule.emit import loop_nests, store_access
from tvm_costmodel.compilers.cpu_rule.emit.store_access import Axis

_STRIP = 4  # vectors of accumulators that one strip keeps in registers
_ZERO = constant(0)

Allocate = Callable[[tuple[int, ...], str], Var]


@dataclasses.dataclass(frozen=True, eq=False)
class Bound:
    """Bounds of an expression, ``low <= expr < high``, that hold where a value is not padding."""

    expr: Expr
    low: int | None
    high: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One block of a row program.

    Attributes:
        axes: Block axes, those of the row first.
        kinds: ``S`` or ``R`` for each axis.
        store: What it stores: the value itself, or for a reduction what is combined.
        initial: Start value of a reduction, None for an element-wise step.
        combine: ``tirx.Add``, ``tirx.Max`` or ``tirx.Min`` of a reduction.
        bounds: Bounds outside which a reduction's operand is its start value.
    """

    axes: tuple[Axis, ...]
    kinds: str
    store: BufferStore
    initial: Expr | None = None
    combine: type = tirx.Add
    bounds: tuple[Bound, ...] = ()


class ReductionNest:
    """Emits one reduction step.

    Args:
        step: The reduction; axes of extent 1 may be among its axes.
        outer: Extents of the row's variables.
        lanes: Lanes of a vector.
        allocate: Makes a buffer of a shape and dtype that lives as long as the function.
    """

    def __init__(
        self, step: Step, outer: Mapping[Var, int], lanes: int, allocate: Allocate
    ) -> None:
        spatial = [a for a, k in zip(step.axes, step.kinds, strict=True) if k == "S"]
        reduced = [a for a, k in zip(step.axes, step.kinds, strict=True) if k == "R"]
        unit = {a.var: constant(0) for a in (*spatial, *reduced) if a.extent == 1}
        self.spatial = [a for a in spatial if a.extent > 1]
        self.reduced = [a for a in reduced if a.extent > 1]
        self.ranges = {**outer, **{a.var: a.extent for a in (*self.spatial, *self.reduced)}}
        store = store_access.simplify_store(
            store_access.substitute_store(step.store, unit), self.ranges
        )
        bounds = tuple(
            dataclasses.replace(b, expr=simplify(rewrite(b.expr, unit), self.ranges))
            for b in step.bounds
        )
        self.step = dataclasses.replace(step, store=store, bounds=bounds)
        self.dtype = str(step.store.buffer.ty.dtype)
        self.lanes = lanes
        self.allocate = allocate

    def emit(self) -> Stmt:
        """Makes the nest in the best form that fits."""
        if self.spatial and self._is_column(self.spatial[-1]):
            return self._bounded_columns()
        axis = self._strip_axis()
        if axis is not None:
            return self._strips(axis)
        return self._scalars(self.step, self.spatial)

    def _combined(self, old: Expr, operand: Expr) -> Expr:
        return self.step.combine(old, operand)

    def _is_column(self, axis: Axis) -> bool:
        return (
            axis.extent >= 4
            and store_access.is_contiguous(self.step.store, axis, self.ranges)
            and all(
                store_access.coefficient(bound.expr, axis.var, self.ranges) in (0, 1)
                for bound in self.step.bounds
            )
        )

    def _bounded_columns(self) -> Stmt:
        """Columns where every bound holds; element by element at the borders."""
        step, last = self.step, self.spatial[-1]
        along = [bound for bound in step.bounds if uses(bound.expr, last.var)]
        if not along:
            return self._columns(step, self.spatial)
        inside = self._inside(last, along)
        if inside is None or inside[1] - inside[0] < self.lanes:
            return self._scalars(step, self.spatial)
        low, high = inside
        others = tuple(b for b in step.bounds if not any(b is other for other in along))
        stmts = []
        for start, end in ((0, low), (low, high), (high, last.extent)):
            if start >= end:
                continue
            whole = (start, end) == inside
            part, axes = self._part(start, end, others if whole else step.bounds)
            stmts.append(self._columns(part, axes) if whole else self._scalars(part, axes))
        return loop_nests.sequence(stmts)

    def _inside(self, axis: Axis, bounds: Sequence[Bound]) -> tuple[int, int] | None:
        """The part of an axis in which the bounds hold for the whole reduction."""
        low, high = 0, axis.extent
        for bound in bounds:
            first = {a.var: constant(0) for a in (axis, *self.reduced)}
            final = {**first, **{a.var: constant(a.extent - 1) for a in self.reduced}}
            least, most = (simplify(rewrite(bound.expr, v)) for v in (first, final))
            if not (isinstance(least, tirx.IntImm) and isinstance(most, tirx.IntImm)):
                return None
            if bound.low is not None:
                low = max(low, bound.low - int(least.value))
            if bound.high is not None:
                high = min(high, bound.high - int(most.value))
        return low, high

    def _part(self, start: int, end: int, bounds: Sequence[Bound]) -> tuple[Step, list[Axis]]:
        """The step for a part of its innermost spatial axis, on variables of its own."""
        *outer, last = self.spatial
        part = Axis(store_access.variable("s"), end - start)
        values: dict[Var, Expr] = {last.var: part.var + constant(start)}
        axes = [Axis(store_access.variable("r"), axis.extent) for axis in outer]
        values.update({a.var: b.var for a, b in zip(outer, axes, strict=True)})
        step = dataclasses.replace(
            self.step,
            store=store_access.substitute_store(self.step.store, values),
            bounds=tuple(dataclasses.replace(b, expr=rewrite(b.expr, values)) for b in bounds),
        )
        return step, [*axes, part]

    def _columns(self, step: Step, spatial: Sequence[Axis]) -> Stmt:
        last = spatial[-1]
        width, whole, tail = loop_nests.strips(last.extent, self.lanes)
        full = whole // _STRIP
        stmts: list[Stmt] = []
        if full:
            size = constant(width * _STRIP)

            def strip(i: Expr) -> Stmt:
                starts = [i * size + constant(u * width) for u in range(_STRIP)]
                return self._column_strip(step, last, starts, width)

            stmts.append(loop_nests.serial("c", full, strip))
        rest: list[Expr] = [constant(u * width) for u in range(full * _STRIP, whole)]
        if tail is not None:
            rest.append(constant(tail))
        if rest:
            stmts.append(self._column_strip(step, last, rest, width))
        return loop_nests.nest(spatial[:-1], loop_nests.sequence(stmts))

    def _column_strip(self, step: Step, last: Axis, starts: Sequence[Expr], width: int) -> Stmt:
        partial = self.allocate((len(starts), width), self.dtype)

        def vectors(make: Callable[[Expr, Var, Expr], Stmt]) -> Stmt:
            stmts = []
            for unit, start in enumerate(starts):
                lane = store_access.variable("l")
                body = make(constant(unit), lane, start + lane)
                stmts.append(For(lane, _ZERO, constant(width), ForKind.VECTORIZED, body))
            return loop_nests.sequence(stmts)

        def initialise(unit: Expr, lane: Var, _position: Expr) -> Stmt:
            return BufferStore(partial, step.initial, [unit, lane])

        def updates(renamed: Mapping[Var, Expr]) -> Stmt:
            def update(unit: Expr, lane: Var, position: Expr) -> Stmt:
                operand = rewrite(step.store.value, {**renamed, last.var: position})
                pair = self._combined(BufferLoad(partial, [unit, lane]), operand)
                return BufferStore(partial, pair, [unit, lane])

            return vectors(update)

        def finish(unit: Expr, lane: Var, position: Expr) -> Stmt:
            indices = [rewrite(index, {last.var: position}) for index in step.store.indices]
            return BufferStore(step.store.buffer, BufferLoad(partial, [unit, lane]), indices)

        looped = bounded_loops(self.reduced, step.bounds, updates)
        return loop_nests.sequence([vectors(initialise), looped, vectors(finish)])

    def _strip_axis(self) -> Axis | None:
        """The reduced axis along which the operand is contiguous and long enough."""
        flat = [store_access.flat_index(x.source, x.indices) for x in loads(self.step.store.value)]
        for axis in reversed(self.reduced):
            if any(uses(bound.expr, axis.var) for bound in self.step.bounds):
                continue
            growth = [store_access.coefficient(index, axis.var, self.ranges) for index in flat]
            if axis.extent >= 2 * self.lanes and 1 in growth and all(g in (0, 1) for g in growth):
                return axis
        return None

    def _strips(self, axis: Axis) -> Stmt:
        step = self.step
        units = min(_STRIP, axis.extent // self.lanes)
        while axis.extent // self.lanes % units and units > 1:
            units -= 1
        partial = self.allocate((units, self.lanes), self.dtype)
        total = self.allocate((1,), self.dtype)
        others = [a for a in self.reduced if a is not axis]

        def initialise(unit: Expr, lane: Var) -> Stmt:
            return BufferStore(partial, step.initial, [unit, lane])

        def along(renamed: Mapping[Var, Expr]) -> Stmt:
            return self._along(axis, renamed, partial, total)

        body: list[Stmt] = [
            self._vectors(units, initialise),
            BufferStore(total, step.initial, [_ZERO]),
            bounded_loops(others, step.bounds, along),
            *self._folds(partial, total, units),
            BufferStore(step.store.buffer, BufferLoad(total, [_ZERO]), step.store.indices),
        ]
        return loop_nests.nest(self.spatial, loop_nests.sequence(body))

    def _vectors(self, units: int, make: Callable[[Expr, Var], Stmt]) -> Stmt:
        stmts = []
        for unit in range(units):
            lane = store_access.variable("l")
            body = make(constant(unit), lane)
            stmts.append(For(lane, _ZERO, constant(self.lanes), ForKind.VECTORIZED, body))
        return loop_nests.sequence(stmts)

    def _along(self, axis: Axis, renamed: Mapping[Var, Expr], partial: Var, total: Var) -> Stmt:
        """Reduces one run of contiguous elements: whole strips into lanes, the rest one by one."""
        units = int(partial.ty.shape[0])
        block = units * self.lanes
        whole, rest = axis.extent // block, axis.extent % block

        def operand(position: Expr) -> Expr:
            return rewrite(self.step.store.value, {**renamed, axis.var: position})

        def at(index: Expr) -> Stmt:
            def update(unit: Expr, lane: Var) -> Stmt:
                position = index * constant(block) + unit * constant(self.lanes) + lane
                pair = self._combined(BufferLoad(partial, [unit, lane]), operand(position))
                return BufferStore(partial, pair, [unit, lane])

            return self._vectors(units, update)

        stmts = [loop_nests.serial("k", whole, at)]
        if rest:
            start = constant(whole * block)
            stmts.append(
                loop_nests.serial("t", rest, lambda i: self._added(total, operand(start + i)))
            )
        return loop_nests.sequence(stmts)

    def _folds(self, partial: Var, total: Var, units: int) -> list[Stmt]:
        """Combines the lanes' partial results into one."""
        stmts: list[Stmt] = []
        for unit in range(1, units):
            lane = store_access.variable("l")
            pair = (BufferLoad(partial, [constant(u), lane]) for u in (0, unit))
            fold = BufferStore(partial, self._combined(*pair), [_ZERO, lane])
            stmts.append(For(lane, _ZERO, constant(self.lanes), ForKind.VECTORIZED, fold))

        def add(i: Expr) -> Stmt:
            return self._added(total, BufferLoad(partial, [_ZERO, i]))

        return [*stmts, loop_nests.serial("h", self.lanes, add, ForKind.UNROLLED)]

    def _added(self, total: Var, operand: Expr) -> Stmt:
        return BufferStore(total, self._combined(BufferLoad(total, [_ZERO]), operand), [_ZERO])

    def _scalars(self, step: Step, spatial: Sequence[Axis]) -> Stmt:
        total = self.allocate((1,), self.dtype)

        def update(renamed: Mapping[Var, Expr]) -> Stmt:
            return self._added(total, rewrite(step.store.value, renamed))

        body = [
            BufferStore(total, step.initial, [_ZERO]),
            bounded_loops(self.reduced, step.bounds, update),
            BufferStore(step.store.buffer, BufferLoad(total, [_ZERO]), step.store.indices),
        ]
        return loop_nests.nest(spatial, loop_nests.sequence(body))


def bounded_loops(
    axes: Sequence[Axis],
    bounds: Sequence[Bound],
    make: Callable[[Mapping[Var, Expr]], Stmt],
) -> Stmt:
    """Loops over reduction axes, each cut short to where its bounds hold.

    A bound must be ``axis + other`` with a step of one; others become conditions. ``make`` gets
    the variables of this nest in place of the axes' own, as one axis has a loop in every strip.
    """
    renamed = {axis.var: store_access.variable(axis.var.name) for axis in axes}
    axes = [Axis(renamed[axis.var], axis.extent) for axis in axes]
    body = make(renamed)
    pending = [dataclasses.replace(b, expr=rewrite(b.expr, renamed)) for b in bounds]
    for axis in reversed(axes):
        low: Expr = constant(0)
        high: Expr = constant(axis.extent)
        for bound in list(pending):
            if not uses(bound.expr, axis.var):
                continue
            base = simplify(rewrite(bound.expr, {axis.var: constant(0)}))
            step = simplify(bound.expr - base)
            if not step.same_as(axis.var):
                continue
            if any(uses(base, other.var) for other in axes if other is not axis):
                continue
            pending.remove(bound)
            if bound.low is not None:
                low = tirx.Max(low, constant(bound.low) - base)
            if bound.high is not None:
                high = tirx.Min(high, constant(bound.high) - base)
        body = For(axis.var, simplify(low), simplify(high - low), ForKind.SERIAL, body)
    for bound in pending:
        if bound.low is not None:
            body = tirx.IfThenElse(tirx.LE(constant(bound.low), bound.expr), body)
        if bound.high is not None:
            body = tirx.IfThenElse(tirx.LT(bound.expr, constant(bound.high)), body)
    return body
