"""Turns a product into the form that register tiles want: groups split off, pixels in one axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.expression import (
    constant,
    is_variable,
    loads,
    rewrite,
    simplify,
    uses,
    walk,
)
from tvm_costmodel.compilers.cpu_rule.machine import Machine
from tvm_costmodel.compilers.cpu_rule.packing import PackedParameter, Panel, plain_dimensions
from tvm_costmodel.compilers.cpu_rule.product import Axis, Product, depends
from tvm_costmodel.compilers.cpu_rule.tiling import Cut, Tile


def substitute(
    product: Product, values: dict[Var, Expr], spatial: Sequence[Axis], reduce: Sequence[Axis]
) -> Product:
    """Rewrites a product in new axes.

    Args:
        product: The product.
        values: What each axis that goes becomes, in the new axes' variables.
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

    store = product.store
    return dataclasses.replace(
        product,
        spatial=tuple(spatial),
        reduce=tuple(reduce),
        left=move(product.left),
        right=move(product.right),
        store=tirx.BufferStore(
            store.buffer,
            rewrite(store.value, values, on_load),
            [simplify(rewrite(i, values), ranges) for i in store.indices],
        ),
    )


def group_size(product: Product, lane: Axis) -> int:
    """Lanes that share their data in a grouped convolution; 0 where there are no groups."""
    for index in product.left.indices:
        for node in walk(index):
            if isinstance(node, tirx.FloorDiv) and uses(node.a, lane.var):
                if is_variable(node.a, lane.var) and isinstance(node.b, tirx.IntImm):
                    return int(node.b.value)
    return 0


def split_groups(product: Product, lane: Axis, size: int) -> tuple[Product, Axis, Axis]:
    """Splits an axis into groups and lanes within a group.

    Returns:
        The product in the new axes, the group axis, and the axis within a group.
    """
    group = Axis(tirx.Var("group", "int64"), lane.extent // size)
    inner = Axis(tirx.Var("within", "int64"), size)
    values = {lane.var: group.var * constant(size) + inner.var}
    spatial: list[Axis] = []
    for axis in product.spatial:
        spatial.extend([group, inner] if axis is lane else [axis])
    return substitute(product, values, spatial, product.reduce), group, inner


def fuse_rows(product: Product, fixed: Sequence[Axis | None], parameters: Sequence[Var]) -> Product:
    """Joins neighbouring spatial axes that every operand walks as one.

    The joined axis runs past the end of the inner dimension and so into the next outer one, which
    is where the next element lies in a compact buffer.
    """
    position = 0
    while position + 1 < len(product.spatial):
        outer, inner = product.spatial[position], product.spatial[position + 1]
        if (
            outer not in fixed
            and inner not in fixed
            and _walk_as_one(product, outer, inner, parameters)
        ):
            joined = Axis(inner.var, outer.extent * inner.extent)
            spatial = list(product.spatial)
            spatial[position : position + 2] = [joined]
            product = substitute(product, {outer.var: constant(0)}, spatial, product.reduce)
        else:
            position += 1
    return product


def _walk_as_one(product: Product, outer: Axis, inner: Axis, parameters: Sequence[Var]) -> bool:
    if outer.extent == 1:
        return True
    store = product.store
    accesses = [(product.left.source, product.left.indices)]
    accesses.append((product.right.source, product.right.indices))
    accesses.append((store.buffer, store.indices))
    for load in loads(store.value):
        if not load.source.same_as(product.accumulator):
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


def pick_rows(product: Product, lane: Axis, operand: TensorLoad, other: TensorLoad) -> Axis:
    """Picks the axis whose elements share the panel: the longest that only ``operand`` follows."""
    others = [a for a in product.spatial if a is not lane]
    followed = [a for a in others if depends(operand, a)]
    alone = [a for a in others if not depends(other, a)]
    chosen = [a for a in followed if a in alone] or alone or followed or [lane]
    return max(reversed(chosen), key=lambda axis: axis.extent)


def lanes_first(
    product: Product,
    tile: Tile,
    lane_operand: TensorLoad,
    row_operand: TensorLoad,
    config: CpuRuleConfig,
    machine: Machine,
) -> bool:
    """Decides whether the loop over lane pieces goes outside the loops over rows.

    Whichever operand is read again and again should be the one that fits in the level-2 cache.
    """
    if config.loop_order != "auto":
        return config.loop_order == "channels"
    lane_bytes, row_bytes = _bytes(lane_operand), _bytes(row_operand)
    room = 0.6 * machine.l2_bytes
    row_turns = tile.rows.pieces
    for axis in product.spatial:
        if depends(row_operand, axis) and not depends(lane_operand, axis):
            row_turns = max(row_turns, axis.extent)
    outside = lane_bytes + row_bytes * (tile.lanes.pieces if row_bytes > room else 1)
    inside = row_bytes + lane_bytes * (row_turns if lane_bytes > room else 1)
    return outside <= inside


def _bytes(load: TensorLoad) -> int:
    total = 4
    for extent in load.source.ty.shape:
        total *= int(extent)
    return total


def constant_panel(
    product: Product,
    cut_axis: Axis,
    cut: Cut,
    parameter: int,
    group: Axis | None = None,
    by_rows: bool = False,
) -> Panel | None:
    """Plans the packed form of constant weights.

    Args:
        product: The product before any group was split off.
        cut_axis: The axis along which panels are cut.
        cut: How it (or, with groups, each group of it) is cut.
        parameter: Index of the function's parameter that holds the weights.
        group: The axis of groups that was split off ``cut_axis``, if any.
        by_rows: Whether the panels follow the tile's rows.

    Returns:
        The panel, or None where the weights' indices are not plain axes.
    """
    axes = (*product.spatial, *product.reduce)
    dimensions = plain_dimensions(product.right, axes)
    if dimensions is None:
        return None
    place = {axis: dimension for dimension, axis in dimensions.items()}
    cut_position = axes.index(cut_axis)
    panel_axes = tuple(a for a in product.reduce if axes.index(a) in place)
    if cut_position not in place or len(panel_axes) + 1 != len(place):
        return None
    groups = group.extent if group else 1
    size = cut_axis.extent // groups
    elements = tuple(
        tuple(turn * size + element for element in row)
        for turn in range(groups)
        for row in cut.elements()
    )
    order = tuple(place[axes.index(a)] for a in panel_axes)
    packed = PackedParameter(parameter, place[cut_position], elements, order)
    shape = packed.shape(tuple(int(d) for d in product.right.source.ty.shape))
    return Panel(shape, panel_axes, packed, by_rows, group)


def copied_panel(product: Product, axis: Axis, cut: Cut, by_rows: bool = False) -> Panel:
    """Plans panels that the function fills by itself, for weights that are not constants."""
    lead = tuple(a for a in product.spatial if a is not axis and depends(product.right, a))
    steps = tuple(a for a in product.reduce if depends(product.right, a))
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
