"""Reads that repeat along an axis (tile, merged axes): the axis is cut so that they are affine.

A read such as ``x[v % 4]`` leaves LLVM with a mask, ``v & 3``. Its loop vectoriser (LLVM 22) may
take such an index for a consecutive one: it assumes that the masked variable does not wrap around
and drops the check of it where another check, of a wider type, seems to imply it. So no loop may
index by a remainder of a power of two. Where one must stay, see ``mask_guards``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tvm import tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferStore

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    children,
    constant,
    rewrite,
    simplify,
    uses,
)
from tvm_costmodel.compilers.cpu_rule.emit.store_access import (
    Axis,
    accesses,
    coefficient,
    is_contiguous,
    simplify_store,
    substitute_store,
    variable,
)

PERIOD = "period"
"""Name of the variable of a loop over the periods of an axis."""

_WIDEST_INTERLEAVE = 16

Ranges = Mapping[Var, int]


def remainders(store: BufferStore, ranges: Ranges) -> Iterator[tirx.FloorMod]:
    """The remainders left in a store's flat indices once those are simplified."""
    for index in accesses(store):
        if any(isinstance(node, tirx.FloorMod) for node in _nodes(index)):
            for node in _nodes(simplify(index, ranges)):
                if isinstance(node, tirx.FloorMod) and isinstance(node.b, tirx.IntImm):
                    yield node


def _nodes(expr: Expr) -> Iterator[Expr]:
    """An index and what is below it, but not what it reads: that is an access of its own."""
    yield expr
    if not isinstance(expr, TensorLoad):
        for child in children(expr):
            yield from _nodes(child)


def is_power_of_two(value: int) -> bool:
    """Whether a remainder by a number is a mask of bits."""
    return value > 1 and value & (value - 1) == 0


def split_period(
    axes: Sequence[Axis], store: BufferStore, ranges: Ranges
) -> tuple[list[Axis], BufferStore] | None:
    """Splits one axis into periods and the place within a period.

    Args:
        axes: Loops around the store, outermost first.
        store: Target and value in terms of the axes' variables.
        ranges: Extents of the axes' and all other variables.

    Returns:
        The axes and the store with one remainder less; None where no axis is to be split.
    """
    for node in remainders(store, ranges):
        for position, axis in enumerate(axes):
            period = _period(node, axis, ranges)
            if period is None:
                continue
            outer = Axis(variable(PERIOD), axis.extent // period)
            inner = Axis(variable(axis.var.name), period)
            whole = outer.var * constant(period) + inner.var
            split = substitute_store(store, {axis.var: whole})
            within = {**ranges, outer.var: outer.extent, inner.var: inner.extent}
            split = simplify_store(split, within)
            last = position == len(axes) - 1
            if last and not _is_worth_it(node, axis, split, inner, within):
                continue
            return [*axes[:position], outer, inner, *axes[position + 1 :]], split
    return None


def _is_worth_it(
    node: tirx.FloorMod, axis: Axis, split: BufferStore, inner: Axis, ranges: Ranges
) -> bool:
    """Whether to split the innermost axis instead of writing a period side by side."""
    factor = int(node.b.value)
    interleaved = factor <= _WIDEST_INTERLEAVE and axis.extent % factor == 0
    if is_contiguous(split, inner, ranges):
        return True
    return is_power_of_two(factor) and not interleaved


def _period(node: tirx.FloorMod, axis: Axis, ranges: Ranges) -> int | None:
    """The shortest part of an axis after which a remainder comes again."""
    if not uses(node.a, axis.var):
        return None
    outer, inner = variable(PERIOD), variable("i")
    for period in range(2, axis.extent):
        if axis.extent % period:
            continue
        whole = rewrite(node, {axis.var: outer * constant(period) + inner})
        local = {**ranges, outer: axis.extent // period, inner: period}
        if not uses(simplify(whole, local), outer):
            return period
    return None


def crossings(axes: Sequence[Axis], store: BufferStore, ranges: Ranges) -> tuple[Axis, int] | None:
    """An axis, and a place at which to cut it so that remainders come closer to `split_period`.

    That is where ``(v + c) % n`` first begins anew, or for an axis that begins so where its last
    whole period ends.
    """
    for node in remainders(store, ranges):
        modulus = int(node.b.value)
        for axis in axes:
            if not is_power_of_two(modulus) or coefficient(node.a, axis.var, ranges) != 1:
                continue
            offset = simplify(rewrite(node.a, {axis.var: constant(0)}), ranges)
            if not isinstance(offset, tirx.IntImm):
                continue
            first = -int(offset.value) % modulus
            place = first or axis.extent - axis.extent % modulus
            if 0 < place < axis.extent:
                return axis, place
    return None
