"""Contractions (sums of products): the operands of convolutions and matmuls, axis by axis."""

from __future__ import annotations

import dataclasses

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    is_variable,
    loads,
    rewrite,
    simplify,
    uses,
)
from tvm_costmodel.compilers.cpu_rule.analysis.padding import Padding, match_padding
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import BlockFacts, FunctionFacts


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """One axis of a contraction.

    Attributes:
        var: Its variable in the expressions of ``Contraction``.
        extent: How many values it takes.
    """

    var: Var
    extent: int


@dataclasses.dataclass(frozen=True, eq=False)
class Contraction:
    """``output[spatial] = epilogue(sum over reduce of left * right)``.

    Attributes:
        spatial: Axes of the output, in its order; their extents are the output's shape.
        reduce: Axes summed over, in source order, those of extent 1 left out.
        left: The data operand, indexed by spatial and reduce axes.
        right: The weight operand.
        dtype: Type of the sum; operands of another are converted as they are read.
        store: The finished output's store with ``accumulator`` in place of the sum.
        accumulator: The buffer that ``store`` reads the sum from, indexed by the spatial axes.
        paddings: Zero-padding stages that must run first.
    """

    spatial: tuple[Axis, ...]
    reduce: tuple[Axis, ...]
    left: TensorLoad
    right: TensorLoad
    dtype: str
    store: tirx.BufferStore
    accumulator: Var
    paddings: tuple[Padding, ...] = ()

    @property
    def ranges(self) -> dict[Var, int]:
        """Extent of every axis by its variable."""
        return {axis.var: axis.extent for axis in (*self.spatial, *self.reduce)}

    @property
    def is_mixed(self) -> bool:
        """Whether an operand is of another type than the sum."""
        return any(str(o.source.ty.dtype) != self.dtype for o in (self.left, self.right))

    @property
    def steps(self) -> int:
        """Multiply-adds for one output element."""
        total = 1
        for axis in self.reduce:
            total *= axis.extent
        return total


def match_contraction(sch: s_tir.Schedule, facts: FunctionFacts) -> Contraction | None:
    """Recognises a function with one sum of products and element-wise work after it.

    Inlines what can be inlined on the way; zero-padding stages become
    ``Contraction.paddings``.

    Returns:
        The contraction, or None where the function is something else.
    """
    if len(facts.reductions) != 1 or not facts.is_static or len(facts.outputs) != 1:
        return None
    (block,) = facts.reductions
    if not _multiplies(block) or not block.plain_loops:
        return None
    paddings = []
    for other in facts.blocks:
        if other.name in facts.outputs or other is block:
            continue
        padding = match_padding(sch, other.name)
        if padding is not None:
            paddings.append(padding)
        else:
            sch.compute_inline(other.name)
    contraction = _contraction(sch, block, facts.outputs[0])
    return (
        None if contraction is None else dataclasses.replace(contraction, paddings=tuple(paddings))
    )


def _multiplies(block: BlockFacts) -> bool:
    if block.store is None or not set(block.kinds) <= {"S", "R"}:
        return False
    value = block.store.value
    return (
        isinstance(value, tirx.Add)
        and isinstance(value.a, TensorLoad)
        and value.a.source.same_as(block.store.buffer)
        and isinstance(value.b, tirx.Mul)
        and isinstance(_uncast(value.b.a), TensorLoad)
        and isinstance(_uncast(value.b.b), TensorLoad)
    )


def _uncast(expr: Expr) -> Expr:
    return expr.value if isinstance(expr, tirx.Cast) else expr


def _contraction(sch: s_tir.Schedule, block: BlockFacts, output: str) -> Contraction | None:
    stmt = sch.get(sch.get_sblock(block.name))
    value = stmt.body.value.b
    dtype = str(stmt.body.buffer.ty.dtype)
    operands = [_uncast(value.a), _uncast(value.b)]
    if any(str(o.source.ty.dtype) not in (dtype, "float16") for o in operands):
        return None
    axes = [Axis(iv.var, extent) for iv, extent in zip(stmt.iter_vars, block.extents, strict=True)]
    spatial = tuple(a for a, kind in zip(axes, block.kinds, strict=True) if kind == "S")
    reduce = tuple(a for a, kind in zip(axes, block.kinds, strict=True) if kind == "R")
    indices = stmt.body.indices
    if len(indices) != len(spatial) or not all(
        is_variable(index, axis.var) for index, axis in zip(indices, spatial, strict=True)
    ):
        return None
    ranges = {axis.var: axis.extent for axis in axes}
    ones = {axis.var: tirx.IntImm("int64", 0) for axis in reduce if axis.extent == 1}
    left, right = (_tidy(load, ones, ranges) for load in operands)
    if output == block.name:
        buffer = stmt.body.buffer
        load = tirx.BufferLoad(buffer, [axis.var for axis in spatial])
        store = tirx.BufferStore(buffer, load, [axis.var for axis in spatial])
    else:
        epilogue = _epilogue(sch, output, stmt.body.buffer, spatial)
        if epilogue is None:
            return None
        store = epilogue
    return Contraction(
        spatial,
        tuple(axis for axis in reduce if axis.extent > 1),
        left,
        right,
        dtype,
        store,
        stmt.body.buffer,
    )


def _tidy(load: TensorLoad, values: dict[Var, Expr], ranges: dict[Var, int]) -> TensorLoad:
    indices = [simplify(rewrite(index, values), ranges) for index in load.indices]
    return tirx.BufferLoad(load.source, indices)


def _epilogue(
    sch: s_tir.Schedule, name: str, accumulator: Var, spatial: tuple[Axis, ...]
) -> tirx.BufferStore | None:
    """Expresses the output block in the contraction's own axes."""
    stmt = sch.get(sch.get_sblock(name))
    if not isinstance(stmt.body, tirx.BufferStore):
        return None
    extents = [int(iv.dom.extent) for iv in stmt.iter_vars]
    if extents != [axis.extent for axis in spatial]:
        return None
    values = {iv.var: axis.var for iv, axis in zip(stmt.iter_vars, spatial, strict=True)}
    ranges = {axis.var: axis.extent for axis in spatial}
    value = rewrite(stmt.body.value, values)
    indices = [simplify(rewrite(index, values), ranges) for index in stmt.body.indices]
    for load in loads(value):
        if load.source.same_as(accumulator) and not _reads_own_element(load, spatial, ranges):
            return None
    return tirx.BufferStore(stmt.body.buffer, value, indices)


def _reads_own_element(load: TensorLoad, spatial: tuple[Axis, ...], ranges: dict[Var, int]) -> bool:
    for index, axis in zip(load.indices, spatial, strict=True):
        if axis.extent == 1:
            continue
        if not is_variable(simplify(index, ranges), axis.var):
            return False
    return True


def depends(load: TensorLoad, axis: Axis) -> bool:
    """Whether an operand's address changes along an axis."""
    return any(uses(index, axis.var) for index in load.indices)


def unit_stride(load: TensorLoad, axis: Axis) -> bool:
    """Whether an operand's neighbours in memory are neighbours along an axis."""
    *outer, last = load.indices
    if any(uses(index, axis.var) for index in outer) or not uses(last, axis.var):
        return False
    step = rewrite(last, {axis.var: axis.var + 1}) - last
    difference = simplify(step)
    return isinstance(difference, tirx.IntImm) and int(difference.value) == 1
