"""Functions that reduce: every block of a row after the other, in strips of vectors.

A function such as a softmax, a pooling or a layer norm is a sequence of blocks that agree on their
leading axes. All blocks run for one point of those axes, a row, before the next row begins;
what they hand to each other lives in a row-sized buffer that stays in the level-1 cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from tvm import s_tir, tirx
from tvm.ir import Call, Expr, Var
from tvm.ir.expr import TensorLoad
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, For, ForKind, Stmt

from tvm_costmodel.compilers.cpu_rule import nests
from tvm_costmodel.compilers.cpu_rule.elementwise import Computed, can_inline, inline
from tvm_costmodel.compilers.cpu_rule.expression import (
    constant,
    loads,
    rewrite,
    simplify,
    uses,
    walk,
)
from tvm_costmodel.compilers.cpu_rule.facts import BlockFacts, FunctionFacts
from tvm_costmodel.compilers.cpu_rule.nests import Axis, Ranges
from tvm_costmodel.compilers.cpu_rule.machine import Machine

_STRIP = 4  # vectors that one strip of a reduction keeps in registers
_COSTLY = ("exp", "tanh", "erf", "log", "pow", "sigmoid", "sqrt", "rsqrt")


@dataclasses.dataclass(frozen=True, eq=False)
class Window:
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
        windows: Bounds outside which a reduction's operand is its start value.
    """

    axes: tuple[Axis, ...]
    kinds: str
    store: BufferStore
    initial: Expr | None = None
    combine: type = tirx.Add
    windows: tuple[Window, ...] = ()


def padded_value(expr: Expr) -> tuple[Expr, tuple[Window, ...], float] | None:
    """Takes a padded value apart: the value inside, its bounds, and the value outside."""
    if not (
        isinstance(expr, Call)
        and getattr(expr.op, "name", "").endswith("if_then_else")
        and isinstance(expr.args[2], tirx.FloatImm)
    ):
        return None
    windows = []
    stack = [expr.args[0]]
    while stack:
        node = stack.pop()
        if isinstance(node, tirx.And):
            stack += [node.a, node.b]
        elif isinstance(node, Call) and getattr(node.op, "name", "").endswith("likely"):
            stack.append(node.args[0])
        elif isinstance(node, tirx.LE) and isinstance(node.a, tirx.IntImm):
            windows.append(Window(node.b, int(node.a.value), None))
        elif isinstance(node, tirx.LT) and isinstance(node.b, tirx.IntImm):
            windows.append(Window(node.a, None, int(node.b.value)))
        else:
            return None
    return expr.args[1], tuple(windows), float(expr.args[2].value)


def _reduction_step(
    sch: s_tir.Schedule, block: BlockFacts, axes: tuple[Axis, ...], value: Expr
) -> Step | None:
    """Reads ``out = combine(out, operand)`` and its start value."""
    store = block.store
    init = sch.get(sch.get_sblock(block.name)).init
    if store is None or not isinstance(init, BufferStore):
        return None
    if not isinstance(value, tirx.Add | tirx.Max | tirx.Min):
        return None
    if not nests.is_load_of(value.a, store.buffer):
        return None
    if any(load.source.same_as(store.buffer) for load in loads(value.b)):
        return None
    operand, windows = value.b, ()
    padded = padded_value(operand)
    if padded is not None and isinstance(init.value, tirx.FloatImm):
        if padded[2] == float(init.value.value):
            operand, windows = padded[0], padded[1]
    return Step(
        axes,
        block.kinds,
        BufferStore(store.buffer, operand, store.indices),
        init.value,
        type(value),
        windows,
    )


def _is_costly(expr: Expr) -> bool:
    names = (getattr(node.op, "name", "") for node in walk(expr) if isinstance(node, Call))
    return any(name.split(".")[-1] in _COSTLY for name in names)


def steps_of(sch: s_tir.Schedule, facts: FunctionFacts) -> list[Step] | None:
    """Turns a function's blocks into steps; cheap element-wise blocks dissolve into readers."""
    computed: dict[Var, Computed] = {}
    steps = []
    for block in facts.blocks:
        if block.store is None or "?" in block.kinds:
            return None
        axes = tuple(
            Axis(var, extent) for var, extent in zip(block.axes, block.extents, strict=True)
        )
        value = inline(block.store.value, computed)
        if block.is_reduction:
            step = _reduction_step(sch, block, axes, value)
            if step is None:
                return None
            steps.append(step)
            continue
        if block.name not in facts.outputs and can_inline(block) and not _is_costly(value):
            computed[block.store.buffer] = Computed(block.axes, block.axes, value)
            continue
        steps.append(
            Step(axes, block.kinds, BufferStore(block.store.buffer, value, block.store.indices))
        )
    return steps


def shared_axes(steps: Sequence[Step]) -> int:
    """How many leading axes all steps share: spatial, of one extent, and indexed alike."""
    produced = [step.store.buffer for step in steps]
    count = 0
    while all(_shares(step, count, steps[0], produced) for step in steps):
        count += 1
    return count


def column_axis(step: Step) -> int:
    """Position of the spatial axis along which a reduction reads contiguous elements."""
    ranges = {axis.var: axis.extent for axis in step.axes}
    if step.initial is not None:
        for position, axis in enumerate(step.axes):
            if step.kinds[position] == "S" and axis.extent > 1:
                if nests.is_contiguous(step.store, axis, ranges):
                    return position
    return len(step.axes)


def _shares(step: Step, position: int, first: Step, produced: Sequence[Var]) -> bool:
    if position >= len(step.axes) or step.kinds[position] != "S":
        return False
    axis = step.axes[position]
    if axis.extent != first.axes[position].extent or position >= len(step.store.indices):
        return False
    places = [step.store.indices]
    places += [
        load.indices
        for load in loads(step.store.value)
        if any(load.source.same_as(buffer) for buffer in produced)
    ]
    return all(
        position < len(indices) and _is_axis(indices[position], axis) for indices in places
    )


def _is_axis(index: Expr, axis: Axis) -> bool:
    if axis.extent == 1:
        return not isinstance(index, tirx.IntImm) or int(index.value) == 0
    return index.same_as(axis.var)


class RowProgram:
    """Emits the steps of a row program.

    Args:
        steps: Steps in order; the last ones write the function's parameters.
        rows: Leading axes that make up a row.
        parameters: The function's parameters; what else is written gets a row buffer.
        machine: The CPU.
    """

    def __init__(
        self, steps: Sequence[Step], rows: int, parameters: Sequence[Var], machine: Machine
    ) -> None:
        self.rows = rows
        self.machine = machine
        self.lanes = machine.lanes
        self.axes = [Axis(nests.variable("r"), axis.extent) for axis in steps[0].axes[:rows]]
        self.ranges: dict[Var, int] = {axis.var: axis.extent for axis in self.axes}
        self.buffers: list[Var] = []
        self.local: dict[Var, Var] = {}
        for step in steps:
            buffer = step.store.buffer
            if not any(buffer.same_as(parameter) for parameter in parameters):
                shape = tuple(int(extent) for extent in buffer.ty.shape)[rows:] or (1,)
                self.local[buffer] = tirx.decl_buffer(shape, str(buffer.ty.dtype), "row")
        self.steps = [self._in_row(step) for step in steps]

    def _in_row(self, step: Step) -> Step:
        """Renames the row's axes and moves intermediate buffers into the row."""
        values = {
            axis.var: row.var if row.extent > 1 else constant(0)
            for axis, row in zip(step.axes, self.axes, strict=False)
        }

        def indices_in_row(indices: Sequence[Expr]) -> list[Expr]:
            return list(indices)[self.rows :] or [constant(0)]

        def on_load(load: TensorLoad, indices: list[Expr]) -> Expr:
            if load.source in self.local:
                return BufferLoad(self.local[load.source], indices_in_row(indices))
            return BufferLoad(load.source, indices)

        value = rewrite(step.store.value, values, on_load)
        indices = [rewrite(index, values) for index in step.store.indices]
        buffer = step.store.buffer
        if buffer in self.local:
            buffer, indices = self.local[buffer], indices_in_row(indices)
        windows = tuple(
            Window(rewrite(window.expr, values), window.low, window.high)
            for window in step.windows
        )
        return dataclasses.replace(
            step,
            axes=step.axes[self.rows :],
            kinds=step.kinds[self.rows :],
            store=BufferStore(buffer, value, indices),
            windows=windows,
        )

    def emit(self) -> Stmt:
        """Makes the statement of the whole program."""
        body = [self._step(step) for step in self.steps]
        held = [*self.local.values(), *self.buffers]
        rows = [axis for axis in self.axes if axis.extent > 1]
        if self.machine.cores > 1 and rows:
            body = [*(AllocBuffer(buffer) for buffer in held), *body]
            self.held: list[Var] = []
        else:
            self.held = held
        return nests.nest(rows, nests.sequence(body), self.machine.cores)

    def _step(self, step: Step) -> Stmt:
        if step.initial is None:
            cores = 1 if any(axis.extent > 1 for axis in self.axes) else self.machine.cores
            return nests.elementwise(step.axes, step.store, self.lanes, cores, self.ranges)
        spatial = [a for a, k in zip(step.axes, step.kinds, strict=True) if k == "S"]
        reduced = [a for a, k in zip(step.axes, step.kinds, strict=True) if k == "R"]
        unit = {a.var: constant(0) for a in (*spatial, *reduced) if a.extent == 1}
        spatial = [a for a in spatial if a.extent > 1]
        reduced = [a for a in reduced if a.extent > 1]
        ranges = {**self.ranges, **{a.var: a.extent for a in (*spatial, *reduced)}}
        store = nests.simplify_store(nests.substitute_store(step.store, unit), ranges)
        windows = tuple(
            Window(simplify(rewrite(w.expr, unit), ranges), w.low, w.high) for w in step.windows
        )
        step = dataclasses.replace(step, store=store, windows=windows)
        if spatial and self._is_column(step, spatial[-1], ranges):
            return self._windowed_columns(step, spatial, reduced, ranges)
        axis = self._strip_axis(step, reduced, ranges)
        if axis is not None:
            return self._strips(step, spatial, reduced, axis, ranges)
        return self._scalars(step, spatial, reduced)

    # A reduction whose innermost spatial axis is contiguous: one accumulator per element.

    def _is_column(self, step: Step, axis: Axis, ranges: Ranges) -> bool:
        return (
            axis.extent >= 4
            and nests.is_contiguous(step.store, axis, ranges)
            and all(
                nests.coefficient(window.expr, axis.var, ranges) in (0, 1)
                for window in step.windows
            )
        )

    def _windowed_columns(
        self, step: Step, spatial: list[Axis], reduced: list[Axis], ranges: Ranges
    ) -> Stmt:
        """Columns where the whole window is inside; element by element at the borders."""
        last = spatial[-1]
        along = [window for window in step.windows if uses(window.expr, last.var)]
        if not along:
            return self._columns(step, spatial, reduced)
        low, high = 0, last.extent
        for window in along:
            first = {a.var: constant(0) for a in (last, *reduced)}
            final = {**first, **{a.var: constant(a.extent - 1) for a in reduced}}
            least, most = (simplify(rewrite(window.expr, v)) for v in (first, final))
            if not (isinstance(least, tirx.IntImm) and isinstance(most, tirx.IntImm)):
                return self._scalars(step, spatial, reduced)
            if window.low is not None:
                low = max(low, window.low - int(least.value))
            if window.high is not None:
                high = min(high, window.high - int(most.value))
        if high - low < self.lanes:
            return self._scalars(step, spatial, reduced)
        inside = [window for window in step.windows if not any(window is w for w in along)]
        stmts = []
        for start, end in ((0, low), (low, high), (high, last.extent)):
            if start >= end:
                continue
            part = Axis(nests.variable("s"), end - start)
            moved = {last.var: part.var + constant(start)}
            others = [Axis(nests.variable("r"), axis.extent) for axis in spatial[:-1]]
            moved.update({a.var: b.var for a, b in zip(spatial[:-1], others, strict=True)})
            windows = inside if start == low and end == high else step.windows
            piece = dataclasses.replace(
                step,
                store=nests.substitute_store(step.store, moved),
                windows=tuple(
                    dataclasses.replace(w, expr=rewrite(w.expr, moved)) for w in windows
                ),
            )
            make = self._columns if windows is inside else self._scalars
            stmts.append(make(piece, [*others, part], reduced))
        return nests.sequence(stmts)

    def _columns(self, step: Step, spatial: list[Axis], reduced: list[Axis]) -> Stmt:
        last = spatial[-1]
        width, whole, tail = nests.strips(last.extent, self.lanes)
        full = whole // _STRIP
        stmts: list[Stmt] = []

        def strip(starts: Sequence[Expr]) -> Stmt:
            return self._column_strip(step, last, reduced, starts, width)

        if full:
            size = constant(width * _STRIP)
            stmts.append(
                nests.serial(
                    "c",
                    full,
                    lambda i: strip([i * size + constant(u * width) for u in range(_STRIP)]),
                )
            )
        rest: list[Expr] = [constant(u * width) for u in range(full * _STRIP, whole)]
        if tail is not None:
            rest.append(constant(tail))
        if rest:
            stmts.append(strip(rest))
        return nests.nest(spatial[:-1], nests.sequence(stmts))

    def _column_strip(
        self, step: Step, last: Axis, reduced: list[Axis], starts: Sequence[Expr], width: int
    ) -> Stmt:
        count = len(starts)
        partial = self._accumulator((count, width), str(step.store.buffer.ty.dtype))

        def lanes(make: Callable[[Expr, Var, Expr], Stmt]) -> Stmt:
            stmts = []
            for unit, start in enumerate(starts):
                lane = nests.variable("l")
                stmts.append(
                    For(lane, constant(0), constant(width), ForKind.VECTORIZED,
                        make(constant(unit), lane, start + lane))
                )
            return nests.sequence(stmts)

        def begin(unit: Expr, lane: Var, _position: Expr) -> Stmt:
            return BufferStore(partial, step.initial, [unit, lane])

        def updates(fresh: Mapping[Var, Expr]) -> Stmt:
            def update(unit: Expr, lane: Var, position: Expr) -> Stmt:
                operand = rewrite(step.store.value, {**fresh, last.var: position})
                old = BufferLoad(partial, [unit, lane])
                return BufferStore(partial, step.combine(old, operand), [unit, lane])

            return lanes(update)

        def finish(unit: Expr, lane: Var, position: Expr) -> Stmt:
            indices = [rewrite(index, {last.var: position}) for index in step.store.indices]
            return BufferStore(step.store.buffer, BufferLoad(partial, [unit, lane]), indices)

        return nests.sequence(
            [lanes(begin), windowed(reduced, step.windows, updates), lanes(finish)]
        )

    # A reduction along contiguous elements: lanes hold partial results, combined at the end.

    def _strip_axis(self, step: Step, reduced: list[Axis], ranges: Ranges) -> Axis | None:
        flat = [nests.flat_index(x.source, x.indices) for x in loads(step.store.value)]
        for axis in reversed(reduced):
            if any(uses(window.expr, axis.var) for window in step.windows):
                continue
            growth = [nests.coefficient(index, axis.var, ranges) for index in flat]
            if axis.extent >= 2 * self.lanes and 1 in growth and all(g in (0, 1) for g in growth):
                return axis
        return None

    def _strips(
        self,
        step: Step,
        spatial: list[Axis],
        reduced: list[Axis],
        axis: Axis,
        ranges: Ranges,
    ) -> Stmt:
        dtype = str(step.store.buffer.ty.dtype)
        units = min(_STRIP, axis.extent // self.lanes)
        while axis.extent // self.lanes % units and units > 1:
            units -= 1
        block = units * self.lanes
        whole, rest = axis.extent // block, axis.extent % block
        partial = self._accumulator((units, self.lanes), dtype)
        total = self._accumulator((1,), dtype)
        others = [a for a in reduced if a is not axis]
        zero = constant(0)

        def vectors(make: Callable[[Expr, Var], Stmt]) -> Stmt:
            stmts = []
            for unit in range(units):
                lane = nests.variable("l")
                stmts.append(
                    For(lane, zero, constant(self.lanes), ForKind.VECTORIZED,
                        make(constant(unit), lane))
                )
            return nests.sequence(stmts)

        def begin(unit: Expr, lane: Var) -> Stmt:
            return BufferStore(partial, step.initial, [unit, lane])

        def fold(unit: Expr, lane: Var) -> Stmt:
            pair = step.combine(BufferLoad(partial, [zero, lane]), BufferLoad(partial, [unit, lane]))
            return BufferStore(partial, pair, [zero, lane])

        def add(operand: Expr) -> Stmt:
            return BufferStore(total, step.combine(BufferLoad(total, [zero]), operand), [zero])

        def inner(fresh: Mapping[Var, Expr]) -> Stmt:
            def operand(position: Expr) -> Expr:
                return rewrite(step.store.value, {**fresh, axis.var: position})

            def at(index: Expr) -> Stmt:
                def update(unit: Expr, lane: Var) -> Stmt:
                    position = index * constant(block) + unit * constant(self.lanes) + lane
                    old = BufferLoad(partial, [unit, lane])
                    pair = step.combine(old, operand(position))
                    return BufferStore(partial, pair, [unit, lane])

                return vectors(update)

            stmts = [nests.serial("k", whole, at)]
            if rest:
                start = constant(whole * block)
                stmts.append(nests.serial("t", rest, lambda i: add(operand(start + i))))
            return nests.sequence(stmts)

        body: list[Stmt] = [
            vectors(begin),
            BufferStore(total, step.initial, [zero]),
            windowed(others, step.windows, inner),
        ]
        for unit in range(1, units):
            lane = nests.variable("l")
            body.append(
                For(lane, zero, constant(self.lanes), ForKind.VECTORIZED, fold(constant(unit), lane))
            )
        body += [
            nests.serial("h", self.lanes, lambda i: add(BufferLoad(partial, [zero, i])), ForKind.UNROLLED),
            BufferStore(step.store.buffer, BufferLoad(total, [zero]), step.store.indices),
        ]
        return nests.nest(spatial, nests.sequence(body))

    def _scalars(self, step: Step, spatial: list[Axis], reduced: list[Axis]) -> Stmt:
        total = self._accumulator((1,), str(step.store.buffer.ty.dtype))
        zero = [constant(0)]

        def update(fresh: Mapping[Var, Expr]) -> Stmt:
            pair = step.combine(BufferLoad(total, zero), rewrite(step.store.value, fresh))
            return BufferStore(total, pair, zero)

        body = [
            BufferStore(total, step.initial, zero),
            windowed(reduced, step.windows, update),
            BufferStore(step.store.buffer, BufferLoad(total, zero), step.store.indices),
        ]
        return nests.nest(spatial, nests.sequence(body))

    def _accumulator(self, shape: tuple[int, ...], dtype: str) -> Var:
        buffer = tirx.decl_buffer(shape, dtype, "partial", scope="local")
        self.buffers.append(buffer)
        return buffer


def windowed(
    axes: Sequence[Axis],
    windows: Sequence[Window],
    make: Callable[[Mapping[Var, Expr]], Stmt],
) -> Stmt:
    """Loops over reduction axes, each cut short to where its windows hold.

    A window must be ``axis + other`` with a step of one; others become conditions. ``make`` gets
    the variables of this nest in place of the axes' own, as one axis has a loop in every strip.
    """
    fresh = {axis.var: nests.variable(axis.var.name) for axis in axes}
    axes = [Axis(fresh[axis.var], axis.extent) for axis in axes]
    body = make(fresh)
    left = [dataclasses.replace(w, expr=rewrite(w.expr, fresh)) for w in windows]
    for axis in reversed(axes):
        low: Expr = constant(0)
        high: Expr = constant(axis.extent)
        for window in list(left):
            if not uses(window.expr, axis.var):
                continue
            base = simplify(rewrite(window.expr, {axis.var: constant(0)}))
            step = simplify(window.expr - base)
            if not step.same_as(axis.var):
                continue
            if any(uses(base, other.var) for other in axes if other is not axis):
                continue
            left.remove(window)
            if window.low is not None:
                low = tirx.Max(low, constant(window.low) - base)
            if window.high is not None:
                high = tirx.Min(high, constant(window.high) - base)
        body = For(axis.var, simplify(low), simplify(high - low), ForKind.SERIAL, body)
    for window in left:
        if window.low is not None:
            body = tirx.IfThenElse(tirx.LE(constant(window.low), window.expr), body)
        if window.high is not None:
            body = tirx.IfThenElse(tirx.LT(window.expr, constant(window.high)), body)
    return body


def schedule_rows(
    sch: s_tir.Schedule, facts: FunctionFacts, machine: Machine
) -> s_tir.Schedule | None:
    """Schedules a function of reductions row by row.

    Args:
        sch: A fresh schedule.
        facts: What it computes.
        machine: The CPU.

    Returns:
        The schedule, or None where the blocks are not of that kind.
    """
    if not facts.reductions or not facts.is_static or not facts.outputs:
        return None
    steps = steps_of(sch, facts)
    if not steps:
        return None
    rows = min(shared_axes(steps), *(column_axis(step) for step in steps))
    func = sch.mod["main"]
    program = RowProgram(steps, rows, list(func.params), machine)
    body = program.emit()
    return nests.root_function(func, body, program.held)

