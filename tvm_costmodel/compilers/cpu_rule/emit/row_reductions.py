"""Functions that reduce: every block of a row after the other, in strips of vectors.

A function such as a softmax, a pooling or a layer norm is a sequence of blocks that agree on their
leading axes. All blocks run for one point of those axes, a row, before the next row begins;
intermediate results live in a row-sized buffer that stays in the level-1 cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Call, Expr, Var
from tvm.ir.expr import TensorLoad
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, Stmt

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    constant,
    loads,
    rewrite,
    uses,
)
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import BlockFacts, FunctionFacts
from tvm_costmodel.compilers.cpu_rule.emit import loop_nests, store_access
from tvm_costmodel.compilers.cpu_rule.emit.reduction_nest import Bound, ReductionNest, Step
from tvm_costmodel.compilers.cpu_rule.emit.store_access import Axis
from tvm_costmodel.compilers.cpu_rule.emit.vector_math import calls_library
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.templates.elementwise import Computed, can_inline, inline

_COSTLY = tuple(f"tirx.{name}" for name in "exp tanh erf log pow sigmoid sqrt rsqrt".split())


def padded_value(expr: Expr) -> tuple[Expr, tuple[Bound, ...], float] | None:
    """Splits a padded value into the value inside, its bounds, and the value outside."""
    if not (
        isinstance(expr, Call)
        and getattr(expr.op, "name", "").endswith("if_then_else")
        and isinstance(expr.args[2], tirx.FloatImm)
    ):
        return None
    bounds = []
    stack = [expr.args[0]]
    while stack:
        node = stack.pop()
        if isinstance(node, tirx.And):
            stack += [node.a, node.b]
        elif isinstance(node, Call) and getattr(node.op, "name", "").endswith("likely"):
            stack.append(node.args[0])
        elif isinstance(node, tirx.LE) and isinstance(node.a, tirx.IntImm):
            bounds.append(Bound(node.b, int(node.a.value), None))
        elif isinstance(node, tirx.LT) and isinstance(node.b, tirx.IntImm):
            bounds.append(Bound(node.a, None, int(node.b.value)))
        else:
            return None
    return expr.args[1], tuple(bounds), float(expr.args[2].value)


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
    if not loop_nests.is_load_of(value.a, store.buffer):
        return None
    if any(load.source.same_as(store.buffer) for load in loads(value.b)):
        return None
    operand: Expr = value.b
    bounds: tuple[Bound, ...] = ()
    padded = padded_value(operand)
    initial = float(init.value.value) if isinstance(init.value, tirx.FloatImm) else None
    if padded is not None and padded[2] == initial:
        operand, bounds = padded[0], padded[1]
    return Step(
        axes,
        block.kinds,
        BufferStore(store.buffer, operand, store.indices),
        init.value,
        type(value),
        bounds,
    )


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
        if (
            block.name not in facts.outputs
            and can_inline(block)
            and not calls_library(value, _COSTLY)
        ):
            computed[block.store.buffer] = Computed(block.axes, block.axes, value)
            continue
        steps.append(
            Step(axes, block.kinds, BufferStore(block.store.buffer, value, block.store.indices))
        )
    return steps


def with_reciprocals(steps: Sequence[Step]) -> list[Step]:
    """Divides once for each result of a reduction where a step divides whole rows by it.

    A vector division takes as long as ten multiplications; softmax is half as fast with one for
    each element.
    """
    result: list[Step] = []
    reciprocals: dict[Var, Var] = {}
    reduced = {step.store.buffer for step in steps if step.initial is not None}
    for step in steps:
        divisor = step.store.value.b if isinstance(step.store.value, tirx.Div) else None
        if (
            step.initial is None
            and isinstance(divisor, TensorLoad)
            and divisor.source in reduced
            and str(divisor.source.ty.dtype) == "float32"
            and not any(uses(index, step.axes[-1].var) for index in divisor.indices)
        ):
            source = divisor.source
            if source not in reciprocals:
                reciprocals[source] = tirx.decl_buffer(source.ty.shape, "float32", "reciprocal")
                result.append(_reciprocal(source, reciprocals[source]))
            product = step.store.value.a * BufferLoad(reciprocals[source], divisor.indices)
            store = BufferStore(step.store.buffer, product, step.store.indices)
            step = dataclasses.replace(step, store=store)
        result.append(step)
    return result


def _reciprocal(source: Var, target: Var) -> Step:
    axes = tuple(Axis(store_access.variable("i"), int(extent)) for extent in source.ty.shape)
    place = [axis.var for axis in axes]
    value = tirx.FloatImm("float32", 1.0) / BufferLoad(source, place)
    return Step(axes, "S" * len(axes), BufferStore(target, value, place))


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
            spatial = step.kinds[position] == "S" and axis.extent > 1
            if spatial and store_access.is_contiguous(step.store, axis, ranges):
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
    return all(position < len(indices) and _is_axis(indices[position], axis) for indices in places)


def _is_axis(index: Expr, axis: Axis) -> bool:
    if axis.extent == 1:
        return not isinstance(index, tirx.IntImm) or int(index.value) == 0
    return bool(index.same_as(axis.var))


class RowProgram:
    """Emits the steps of a row program.

    Args:
        steps: Steps in order; the last ones write the function's parameters.
        rows: Leading axes that make up a row.
        parameters: The function's parameters; all other written buffers become row buffers.
        machine: The CPU.
    """

    def __init__(
        self, steps: Sequence[Step], rows: int, parameters: Sequence[Var], machine: Machine
    ) -> None:
        self.rows = rows
        self.machine = machine
        self.lanes = machine.lanes
        self.axes = [Axis(store_access.variable("r"), axis.extent) for axis in steps[0].axes[:rows]]
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
        bounds = tuple(
            dataclasses.replace(bound, expr=rewrite(bound.expr, values)) for bound in step.bounds
        )
        return dataclasses.replace(
            step,
            axes=step.axes[self.rows :],
            kinds=step.kinds[self.rows :],
            store=BufferStore(buffer, value, indices),
            bounds=bounds,
        )

    def emit(self) -> Stmt:
        """Makes the statement of the whole program."""
        body = [self._step(step) for step in self.steps]
        buffers = [*self.local.values(), *self.buffers]
        rows = [axis for axis in self.axes if axis.extent > 1]
        if self.machine.cores > 1 and rows:
            body = [*(AllocBuffer(buffer) for buffer in buffers), *body]
            self.root_buffers: list[Var] = []
        else:
            self.root_buffers = buffers
        return loop_nests.nest(rows, loop_nests.sequence(body), self.machine.cores)

    def _step(self, step: Step) -> Stmt:
        if step.initial is not None:
            return ReductionNest(step, self.ranges, self.lanes, self._accumulator).emit()
        cores = 1 if any(axis.extent > 1 for axis in self.axes) else self.machine.cores
        return loop_nests.elementwise(step.axes, step.store, self.lanes, cores, self.ranges)

    def _accumulator(self, shape: tuple[int, ...], dtype: str) -> Var:
        buffer = tirx.decl_buffer(shape, dtype, "partial", scope="local")
        self.buffers.append(buffer)
        return buffer


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
    steps = with_reciprocals(steps)
    rows = min(shared_axes(steps), *(column_axis(step) for step in steps))
    func = sch.mod["main"]
    program = RowProgram(steps, rows, list(func.params), machine)
    body = program.emit()
    return loop_nests.root_function(func, body, program.root_buffers)
