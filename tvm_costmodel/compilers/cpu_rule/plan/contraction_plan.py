"""Brings a contraction into the form of register tiles: groups split off, pixels in one axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import Axis, Contraction, depends
from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    constant,
    is_variable,
    loads,
    rewrite,
    simplify,
    uses,
    walk,
)
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.packing import PackedParameter, Panel, plain_dimensions
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Cut, Tile


def substitute(
    contraction: Contraction,
    values: dict[Var, Expr],
    spatial: Sequence[Axis],
    reduce: Sequence[Axis],
) -> Contraction:
    """Rewrites a contraction in new axes.

    Args:
        contraction: The contraction.
        values: Each removed axis's variable in terms of the new axes' variables.
        spatial: The new spatial axes. The accumulator keeps its old indices; nothing reads them.
        reduce: The new reduction axes.
    """
    ranges = {axis.var: axis.extent for axis in (*spatial, *reduce)}

    def move(load: TensorLoad) -> TensorLoad:
        return tirx.BufferLoad(
            load.source, [simplify(rewrite(i, values), ranges) for i in load.indices]
        )

    def on_load(load: TensorLoad, indices: list[Expr]) -> Expr:
        return tirx.BufferLoad(load.source, [simplify(i, ranges) for i in indices])

    store = contraction.store
    return dataclasses.replace(
        contraction,
        spatial=tuple(spatial),
        reduce=tuple(reduce),
        left=move(contraction.left),
        right=move(contraction.right),
        store=tirx.BufferStore(
            store.buffer,
            rewrite(store.value, values, on_load),
            [simplify(rewrite(i, values), ranges) for i in store.indices],
        ),
    )


def group_size(contraction: Contraction, lane: Axis) -> int:
    """Lanes that share their data in a grouped convolution; 0 where there are no groups."""
    for index in contraction.left.indices:
        for node in walk(index):
            divided = isinstance(node, tirx.FloorDiv) and is_variable(node.a, lane.var)
            if divided and isinstance(node.b, tirx.IntImm):
                return int(node.b.value)
    return 0


def split_groups(contraction: Contraction, lane: Axis, size: int) -> tuple[Contraction, Axis, Axis]:
    """Splits an axis into groups and lanes within a group.

    Returns:
        The contraction in the new axes, the group axis, and the axis within a group.
    """
    group = Axis(tirx.Var("group", "int64"), lane.extent // size)
    inner = Axis(tirx.Var("within", "int64"), size)
    values = {lane.var: group.var * constant(size) + inner.var}
    spatial: list[Axis] = []
    for axis in contraction.spatial:
        spatial.extend([group, inner] if axis is lane else [axis])
    return substitute(contraction, values, spatial, contraction.reduce), group, inner


def fuse_rows(
    contraction: Contraction, fixed: Sequence[Axis | None], parameters: Sequence[Var]
) -> Contraction:
    """Fuses neighbouring spatial axes that every operand walks as one.

    The fused axis runs past the end of the inner dimension and so into the next outer one, which
    is where the next element lies in a compact buffer.
    """
    position = 0
    while position + 1 < len(contraction.spatial):
        outer, inner = contraction.spatial[position], contraction.spatial[position + 1]
        if (
            outer not in fixed
            and inner not in fixed
            and _walk_as_one(contraction, outer, inner, parameters)
        ):
            fused = Axis(inner.var, outer.extent * inner.extent)
            spatial = list(contraction.spatial)
            spatial[position : position + 2] = [fused]
            contraction = substitute(
                contraction, {outer.var: constant(0)}, spatial, contraction.reduce
            )
        else:
            position += 1
    return contraction


def _walk_as_one(
    contraction: Contraction, outer: Axis, inner: Axis, parameters: Sequence[Var]
) -> bool:
    if outer.extent == 1:
        return True
    store = contraction.store
    accesses = [(contraction.left.source, contraction.left.indices)]
    accesses.append((contraction.right.source, contraction.right.indices))
    accesses.append((store.buffer, store.indices))
    for load in loads(store.value):
        if not load.source.same_as(contraction.accumulator):
            accesses.append((load.source, load.indices))
    for buffer, indices in accesses:
        used = [d for d, i in enumerate(indices) if uses(i, outer.var) or uses(i, inner.var)]
        if not used:
            continue
        if len(used) != 2 or used[1] != used[0] + 1:
            return False
        if not (
            is_variable(indices[used[0]], outer.var) and is_variable(indices[used[1]], inner.var)
        ):
            return False
        if int(buffer.ty.shape[used[1]]) != inner.extent:
            return False
        if not any(buffer.same_as(parameter) for parameter in parameters):
            return False
    return True


def choose_rows(
    contraction: Contraction, lane: Axis, operand: TensorLoad, other: TensorLoad
) -> Axis:
    """The axis whose elements share the panel: the longest that only ``operand`` follows."""
    others = [a for a in contraction.spatial if a is not lane]
    followed = [a for a in others if depends(operand, a)]
    alone = [a for a in others if not depends(other, a)]
    chosen = [a for a in followed if a in alone] or alone or followed or [lane]
    return max(reversed(chosen), key=lambda axis: axis.extent)


# Measured on matrix products and convolutions: a byte of rows that is read again, from as many
# places as the tile has rows, costs as much as so many of a panel, which is read in order.
_ROWS_OVER_PANELS = 4.0
# Weights come from memory; where every panel is used before the next, most of that is hidden.
_FIRST_PASS = 8


def panels_first(contraction: Contraction, tile: Tile, config: CpuRuleConfig) -> bool:
    """Whether each panel of the right operand is used for all rows before the next panel.

    Of the two orders, the one that re-reads less is taken.
    """
    if config.loop_order != "auto":
        return config.loop_order == "channels"
    left, right = contraction.left, contraction.right
    shared, others = 1, 1
    for axis in contraction.spatial:
        if depends(left, axis) and depends(right, axis):
            shared *= axis.extent
        elif depends(left, axis):
            others *= axis.extent
    passes = max(1, others // tile.rows.extent) * tile.rows.pieces
    rows, panels = _bytes(left) // shared, _bytes(right) // shared
    return _ROWS_OVER_PANELS * rows * tile.lanes.pieces <= panels * (passes + _FIRST_PASS)


def lanes_first(
    contraction: Contraction,
    tile: Tile,
    lane_operand: TensorLoad,
    row_operand: TensorLoad,
    config: CpuRuleConfig,
    machine: Machine,
) -> bool:
    """Whether the loop over lane pieces goes outside the loops over rows.

    Whichever operand is read again and again should be the one that fits in the level-2 cache.
    """
    if config.loop_order != "auto":
        return config.loop_order == "channels"
    lane_bytes, row_bytes = _bytes(lane_operand), _bytes(row_operand)
    room = 0.6 * machine.l2_bytes
    row_iterations = tile.rows.pieces
    for axis in contraction.spatial:
        if depends(row_operand, axis) and not depends(lane_operand, axis):
            row_iterations = max(row_iterations, axis.extent)
    outside = lane_bytes + row_bytes * (tile.lanes.pieces if row_bytes > room else 1)
    inside = row_bytes + lane_bytes * (row_iterations if lane_bytes > room else 1)
    return outside <= inside


def _bytes(load: TensorLoad) -> int:
    total = 4
    for extent in load.source.ty.shape:
        total *= int(extent)
    return total


def constant_panel(
    contraction: Contraction,
    cut_axis: Axis,
    cut: Cut,
    parameter: int,
    group: Axis | None = None,
    by_rows: bool = False,
) -> Panel | None:
    """Plans the packed form of constant weights.

    Args:
        contraction: The contraction before any group was split off.
        cut_axis: The axis along which panels are cut.
        cut: How it (or, with groups, each group of it) is cut.
        parameter: Index of the function's parameter that holds the weights.
        group: The axis of groups that was split off ``cut_axis``, if any.
        by_rows: Whether the panels follow the tile's rows.

    Returns:
        The panel, or None where the weights' indices are not plain axes.
    """
    axes = (*contraction.spatial, *contraction.reduce)
    dimensions = plain_dimensions(contraction.right, axes)
    if dimensions is None:
        return None
    place = {axis: dimension for dimension, axis in dimensions.items()}
    cut_position = axes.index(cut_axis)
    panel_axes = tuple(a for a in contraction.reduce if axes.index(a) in place)
    if cut_position not in place or len(panel_axes) + 1 != len(place):
        return None
    groups = group.extent if group else 1
    size = cut_axis.extent // groups
    elements = tuple(
        tuple(number * size + element for element in row)
        for number in range(groups)
        for row in cut.elements()
    )
    order = tuple(place[axes.index(a)] for a in panel_axes)
    packed = PackedParameter(parameter, place[cut_position], elements, order)
    shape = packed.shape(tuple(int(d) for d in contraction.right.source.ty.shape))
    return Panel(shape, panel_axes, packed, by_rows, group)


def copied_panel(contraction: Contraction, axis: Axis, cut: Cut, by_rows: bool = False) -> Panel:
    """Plans panels that the function fills by itself, for weights that are not constants."""
    lead = tuple(a for a in contraction.spatial if a is not axis and depends(contraction.right, a))
    steps = tuple(a for a in contraction.reduce if depends(contraction.right, a))
    shape = (
        *(a.extent for a in lead),
        cut.pieces,
        *(a.extent for a in steps),
        cut.size,
    )
    return Panel(shape, steps, None, by_rows, None, lead)


def parameter_of(sch: s_tir.Schedule, load: TensorLoad) -> int:
    """Index of the parameter that an operand reads, -1 if it is an intermediate buffer."""
    params = sch.mod["main"].params
    return next((i for i, p in enumerate(params) if p.same_as(load.source)), -1)
