"""Loop nests written directly: one store per element, in vectors along the innermost axis."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence

from tvm import s_tir, tirx
from tvm.ir import Call, Expr, Var
from tvm.ir.expr import TensorLoad
from tvm.tirx import BufferStore, For, ForKind, Stmt

from tvm_costmodel.compilers.cpu_rule.analysis.expression import (
    constant,
    loads,
    rewrite,
    simplify,
    uses,
    walk,
)
from tvm_costmodel.compilers.cpu_rule.emit.periods import (
    PERIOD,
    crossings,
    remainders,
    split_period,
)
from tvm_costmodel.compilers.cpu_rule.emit.store_access import (
    Axis,
    Ranges,
    accesses,
    coefficient,
    flat_index,
    is_contiguous,
    simplify_store,
    substitute_store,
    variable,
)

_MOST_SEGMENTS = 24
_TILE = 16
_COMPARISONS = (tirx.LT, tirx.LE, tirx.GT, tirx.GE)


def serial(
    name: str, extent: int, body: Callable[[Expr], Stmt], kind: ForKind = ForKind.SERIAL
) -> Stmt:
    """A loop around what ``body`` makes of its variable; no loop for one iteration."""
    if extent == 1:
        return body(constant(0))
    var = variable(name)
    return For(var, constant(0), constant(extent), kind, body(var))


def sequence(stmts: Sequence[Stmt]) -> Stmt:
    """One statement of several."""
    return stmts[0] if len(stmts) == 1 else tirx.SeqStmt(list(stmts))


def nest(axes: Sequence[Axis], body: Stmt, cores: int = 1) -> Stmt:
    """Loops around a statement; the outermost runs on all cores."""
    for depth, axis in reversed(list(enumerate(axes))):
        kind = ForKind.PARALLEL if depth == 0 and cores > 1 else ForKind.SERIAL
        body = For(axis.var, constant(0), constant(axis.extent), kind, body)
    return body


def drop_unit_axes(axes: Sequence[Axis], store: BufferStore) -> tuple[list[Axis], BufferStore]:
    """Replaces the variables of axes of extent 1 by zero."""
    unit = {axis.var: constant(0) for axis in axes if axis.extent == 1}
    remaining = [axis for axis in axes if axis.extent != 1]
    return remaining, substitute_store(store, unit) if unit else store


def collapse_axes(axes: Sequence[Axis], store: BufferStore) -> tuple[list[Axis], BufferStore]:
    """Fuses neighbouring axes that every access walks as one, innermost first.

    Two axes fuse while each access's step along the outer one is the inner one's extent times
    its step along the inner one.
    """
    axes = list(axes)
    ranges = {axis.var: axis.extent for axis in axes}
    if any(isinstance(node, _COMPARISONS) for node in walk(store.value)):
        return axes, store
    steps = [[coefficient(i, axis.var, ranges) for axis in axes] for i in accesses(store)]
    while len(axes) > 1:
        outer, inner = axes[-2:]
        if not all(row[-1] is not None and row[-2] == row[-1] * inner.extent for row in steps):
            break
        name = PERIOD if PERIOD in (outer.var.name, inner.var.name) else "f"
        fused = Axis(variable(name), outer.extent * inner.extent)
        extent = constant(inner.extent)
        parts = {
            outer.var: tirx.FloorDiv(fused.var, extent),
            inner.var: tirx.FloorMod(fused.var, extent),
        }
        store = substitute_store(store, parts)
        axes[-2:] = [fused]
        steps = [[*row[:-2], row[-1]] for row in steps]
    return axes, store


def breaks(expr: Expr, axis: Axis, ranges: Ranges) -> list[int]:
    """Positions of an axis at which a comparison in an expression changes its outcome."""
    points = set()
    for node in walk(expr):
        if not isinstance(node, _COMPARISONS):
            continue
        difference = node.a - node.b
        step = coefficient(difference, axis.var, ranges)
        offset = simplify(rewrite(difference, {axis.var: constant(0)}), ranges)
        if step not in (1, -1) or not isinstance(offset, tirx.IntImm):
            continue
        # ``step * v + offset`` changes sign at -offset * step, or one later.
        later = (tirx.LE, tirx.GT) if step == 1 else (tirx.LT, tirx.GE)
        points.add(-int(offset.value) * step + int(isinstance(node, later)))
    return sorted(point for point in points if 0 < point < axis.extent)


def has_padding(expr: Expr) -> bool:
    """Whether an expression pads: a conditional with a constant branch."""
    return any(
        isinstance(node, Call)
        and getattr(node.op, "name", "").endswith("if_then_else")
        and any(isinstance(arg, tirx.FloatImm) for arg in node.args[1:])
        for node in walk(expr)
    )


def strips(extent: int, lanes: int) -> tuple[int, int, int | None]:
    """Cuts an axis into vectors.

    Returns:
        Width of a vector, number of whole vectors, and the start of one more that overlaps the
        last whole one where the extent is not a multiple of the width.
    """
    width = lanes
    while width > extent:
        width //= 2
    return width, extent // width, extent - width if extent % width else None


def vector_loop(store: BufferStore, axis: Axis, lanes: int) -> Stmt:
    """Runs a store over an axis, a vector at a time."""
    width, whole, tail = strips(axis.extent, lanes)

    def vector(base: Expr) -> Stmt:
        if width == 1:
            return substitute_store(store, {axis.var: base})
        lane = variable("l")
        body = substitute_store(store, {axis.var: base + lane})
        return For(lane, constant(0), constant(width), ForKind.VECTORIZED, body)

    stmts = [serial("v", whole, lambda i: vector(i * constant(width)))]
    if tail is not None:
        stmts.append(vector(constant(tail)))
    return sequence(stmts)


def elementwise(
    axes: Sequence[Axis],
    store: BufferStore,
    lanes: int,
    cores: int = 1,
    outer: Ranges | None = None,
) -> Stmt:
    """A loop nest for one store per element.

    Comparisons that split an axis (padding, concatenation) split its loop; axes that every access
    walks as one are fused; axes along which a read repeats are cut into periods; permuted reads
    run in blocks of cache lines.

    Args:
        axes: Loops around the store, outermost first.
        store: Target and value in terms of the axes' variables.
        lanes: Lanes of a vector.
        cores: Cores that the outermost loop may use.
        outer: Extents of other variables that the store reads.
    """
    outer_ranges = dict(outer or {})
    renamed = {axis.var: variable(axis.var.name) for axis in axes}
    axes = [Axis(renamed[axis.var], axis.extent) for axis in axes]
    store = substitute_store(store, renamed)
    ranges = {**outer_ranges, **{axis.var: axis.extent for axis in axes}}
    axes, store = drop_unit_axes(axes, simplify_store(store, ranges))
    axes, store = collapse_axes(axes, store)
    ranges = {**outer_ranges, **{axis.var: axis.extent for axis in axes}}
    if not axes:
        return simplify_store(store, ranges)
    for position, axis in enumerate(axes[:-1]):
        points = breaks(store.value, axis, ranges)
        if 0 < len(points) <= 8 and not has_padding(store.value):
            before, after = axes[:position], axes[position + 1 :]
            return sequence(
                [
                    elementwise([*before, *part_axes, *after], part, lanes, cores, outer_ranges)
                    for part_axes, part in _segments(axis, points, store)
                ]
            )
    points = breaks(store.value, axes[-1], ranges)
    points = points if len(points) <= _MOST_SEGMENTS else []
    parts = _affine_parts(axes, points, store, ranges)
    if parts is not None:
        return sequence([elementwise(*part, lanes, cores, outer_ranges) for part in parts])
    tiled = _transposed(axes, store, cores, ranges) if not points else None
    if tiled is not None:
        return tiled
    body = []
    for part_axes, part in _segments(axes[-1], points, store):
        local = {**ranges, **{axis.var: axis.extent for axis in part_axes}}
        body.append(_innermost(part_axes, simplify_store(part, local), lanes, local))
    return nest(axes[:-1], sequence(body), cores)


def _affine_parts(
    axes: Sequence[Axis], points: Sequence[int], store: BufferStore, ranges: Ranges
) -> list[tuple[list[Axis], BufferStore]] | None:
    """Cuts a nest so that fewer indices hold remainders; None where there is nothing to cut."""
    if not any(True for _ in remainders(store, ranges)):
        return None
    *outer, last = axes
    if points:
        return [([*outer, *part], cut) for part, cut in _segments(last, points, store)]
    split = split_period(axes, store, ranges)
    if split is not None:
        return [split]
    cut_at = crossings(axes, store, ranges)
    if cut_at is None:
        return None
    axis, place = cut_at
    position = next(i for i, other in enumerate(axes) if other is axis)
    before, after = axes[:position], axes[position + 1 :]
    return [([*before, *part, *after], cut) for part, cut in _segments(axis, [place], store)]


def _segments(
    axis: Axis, points: Sequence[int], store: BufferStore
) -> list[tuple[list[Axis], BufferStore]]:
    edges = [0, *points, axis.extent]
    segments: list[tuple[list[Axis], BufferStore]] = []
    for low, high in itertools.pairwise(edges):
        if high - low == 1:
            segments.append(([], substitute_store(store, {axis.var: constant(low)})))
            continue
        part = Axis(variable("s"), high - low)
        segments.append(([part], substitute_store(store, {axis.var: part.var + constant(low)})))
    return segments


def _innermost(axes: Sequence[Axis], store: BufferStore, lanes: int, ranges: Ranges) -> Stmt:
    if not axes:
        return store
    (axis,) = axes
    if is_contiguous(store, axis, ranges):
        return vector_loop(store, axis, lanes)
    factor = _interleave(store.value, axis)
    if factor == 1 or factor > 16:
        return For(axis.var, constant(0), constant(axis.extent), ForKind.SERIAL, store)
    # One strip of output gathers from several of input: walk those and write side by side, which
    # LLVM makes one interleaved store of.
    group = Axis(variable("g"), axis.extent // factor)
    stmts: list[Stmt] = []
    for lane in range(factor):
        position = group.var * constant(factor) + constant(lane)
        part = substitute_store(store, {axis.var: position})
        stmts.append(simplify_store(part, {**ranges, group.var: group.extent}))
    return For(group.var, constant(0), constant(group.extent), ForKind.SERIAL, sequence(stmts))


def _interleave(expr: Expr, axis: Axis) -> int:
    """The factor by which an expression splits an axis, 1 where it does not."""
    for node in walk(expr):
        if isinstance(node, tirx.FloorMod | tirx.FloorDiv) and isinstance(node.b, tirx.IntImm):
            factor = int(node.b.value)
            if factor > 1 and uses(node.a, axis.var) and axis.extent % factor == 0:
                return factor
    return 1


def _transposed(
    axes: Sequence[Axis], store: BufferStore, cores: int, ranges: Ranges
) -> Stmt | None:
    """Blocks of cache lines where a read is contiguous along another axis than the write."""
    last = axes[-1]
    if last.extent < 8 or is_contiguous(store, last, ranges):
        return None
    reads = [flat_index(load.source, load.indices) for load in loads(store.value)]
    for position, axis in enumerate(axes[:-1]):
        if axis.extent < 8 or all(coefficient(i, axis.var, ranges) != 1 for i in reads):
            continue
        tile = next((d for d in range(_TILE, 3, -1) if axis.extent % d == 0), 0)
        if not tile:
            return None
        outer, inner = Axis(variable("to"), axis.extent // tile), Axis(variable("ti"), tile)
        shifted = substitute_store(store, {axis.var: outer.var * constant(tile) + inner.var})
        width, whole, tail = strips(last.extent, _TILE)
        tiles = _Tiles(shifted, inner, last, width)
        blocks = [serial("v", whole, tiles.whole)]
        if tail is not None:
            blocks.append(tiles.at(constant(tail)))
        others = [*axes[:position], *axes[position + 1 : -1], outer]
        return nest(others, sequence(blocks), cores)
    return None


@dataclasses.dataclass(frozen=True, eq=False)
class _Tiles:
    """Tiles of a transposed copy: ``width`` elements side by side, row after row."""

    store: BufferStore
    inner: Axis
    last: Axis
    width: int

    def at(self, start: Expr) -> Stmt:
        lane, row = variable("l"), variable("ti")
        values = {self.last.var: start + lane, self.inner.var: row}
        body = substitute_store(self.store, values)
        lanes = For(lane, constant(0), constant(self.width), ForKind.UNROLLED, body)
        return For(row, constant(0), constant(self.inner.extent), ForKind.SERIAL, lanes)

    def whole(self, index: Expr) -> Stmt:
        return self.at(index * constant(self.width))


def root_function(func: tirx.PrimFunc, body: Stmt, buffers: Sequence[Var] = ()) -> s_tir.Schedule:
    """Wraps a body and the buffers it needs as a function with the parameters of another."""
    root = s_tir.stmt.SBlock([], [], [], "root", body, alloc_buffers=list(buffers))
    whole = s_tir.stmt.SBlockRealize([], True, root)
    result = tirx.PrimFunc(func.params, whole, func.ret_type, func.attrs)
    return s_tir.Schedule(result, error_render_level="fast")


def is_load_of(expr: Expr, buffer: Var) -> bool:
    """Whether an expression reads a buffer directly."""
    return isinstance(expr, TensorLoad) and expr.source.same_as(buffer)
