"""Loops around a register tile, built from a contraction's axes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import Axis, Contraction
from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant, rewrite
from tvm_costmodel.compilers.cpu_rule.emit.packing import PACKED_PARAMETERS, Panel, dump_packed
from tvm_costmodel.compilers.cpu_rule.emit.statements import (
    SERIAL,
    UNROLLED,
    VECTORISED,
    index_variable,
    loop,
    nest,
    rebuild,
    spread,
)
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Tile


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """How a register tile uses a contraction's axes.

    Attributes:
        row: Axis cut into single elements.
        lane: Axis cut into vectors.
        outer: The other spatial axes, outermost first.
        tile: The register tile.
        lanes_first: Whether the loop over lane pieces is outside the other spatial loops.
        unrolled: Reduction axes to unroll.
        panel: How the right operand is read, where not in place.
        staged: Whether sums go through memory to a loop that finishes one vector after the other.
            Unrolled, long arithmetic of all vectors is interleaved, and its values are spilled.
    """

    row: Axis
    lane: Axis
    outer: tuple[Axis, ...]
    tile: Tile
    lanes_first: bool = True
    unrolled: tuple[Axis, ...] = ()
    panel: Panel | None = None
    staged: bool = False


class TileEmitter:
    """Builds the statements of one register-tiled contraction."""

    def __init__(self, contraction: Contraction, view: View, panel: Var | None, cores: int) -> None:
        self.contraction, self.view, self.panel, self.cores = contraction, view, panel, cores
        tile = view.tile
        self.row_piece, self.lane_piece = index_variable("rows"), index_variable("lanes")
        shape = (tile.rows.vectors, tile.lanes.size)
        self.accumulators = tirx.decl_buffer(shape, contraction.dtype, "held", scope="local")

    def build(self) -> tirx.Stmt:
        """Returns the loops that compute the whole output."""
        tile, view = self.view.tile, self.view
        finish = [self._tile_loops(lambda *place: self._finish(self.accumulators, *place))]
        if view.staged:
            held = self.accumulators
            staged = tirx.decl_buffer(held.ty.shape, str(held.ty.dtype), "staged", scope="local")

            def stage(*indices: Var) -> tirx.Stmt:
                place = self._place(*indices)
                return tirx.BufferStore(staged, tirx.BufferLoad(held, place), place)

            finish = [
                tirx.AllocBuffer(staged),
                self._tile_loops(stage),
                self._tile_loops(lambda *place: self._finish(staged, *place), SERIAL),
            ]
        body = tirx.SeqStmt(
            [
                tirx.AllocBuffer(self.accumulators),
                self._tile_loops(self._zero),
                self._reduction(),
                *finish,
            ]
        )
        lanes = (self.lane_piece, tile.lanes.pieces)
        rows = (self.row_piece, tile.rows.pieces)
        others = [(axis.var, axis.extent) for axis in view.outer]
        levels = [lanes, *others, rows] if view.lanes_first else [*others, rows, lanes]
        return spread(levels, body, self.cores) if self.cores > 1 else nest(levels, body)

    def copy_panel(self) -> tirx.Stmt:
        """Returns loops that fill the panel buffer from the right operand."""
        view, tile, panel = self.view, self.view.tile, self.view.panel
        assert panel is not None
        vector, lane = index_variable("vector"), index_variable("lane")
        lead = {axis.var: index_variable("lead") for axis in panel.lead}
        steps = {axis.var: index_variable("step") for axis in panel.axes}
        piece = index_variable("piece")
        cut, axis = (tile.rows, view.row) if panel.by_rows else (tile.lanes, view.lane)
        values: dict[Var, Expr] = {**lead, **steps, axis.var: cut.start(piece, vector) + lane}
        place = [*lead.values(), piece, *steps.values(), vector * constant(cut.width) + lane]
        body: tirx.Stmt = tirx.BufferStore(
            self.panel, rewrite(self.contraction.right, values), place
        )
        body = nest([(vector, cut.vectors), (lane, cut.width)], body)
        body = nest([(steps[a.var], a.extent) for a in panel.axes], body)
        levels = [*((lead[a.var], a.extent) for a in panel.lead), (piece, cut.pieces)]
        return spread(levels, body, self.cores) if self.cores > 1 else nest(levels, body)

    def _tile_loops(
        self, statement: Callable[[Var, Var, Var], tirx.Stmt], kind: tirx.ForKind = UNROLLED
    ) -> tirx.Stmt:
        tile = self.view.tile
        row, vector, lane = (index_variable(n) for n in ("row", "vector", "lane"))
        body = statement(row, vector, lane)
        body = loop(lane, tile.lanes.width, body, VECTORISED if tile.lanes.width > 1 else SERIAL)
        body = loop(vector, tile.lanes.vectors, body, kind)
        return loop(row, tile.rows.vectors, body, kind)

    def _place(self, row: Var, vector: Var, lane: Var) -> list[Expr]:
        return [row, vector * constant(self.view.tile.lanes.width) + lane]

    def _values(self, row: Var, vector: Var, lane: Var) -> dict[Var, Expr]:
        tile = self.view.tile
        return {
            self.view.row.var: tile.rows.start(self.row_piece, row),
            self.view.lane.var: tile.lanes.start(self.lane_piece, vector) + lane,
        }

    def _zero(self, row: Var, vector: Var, lane: Var) -> tirx.Stmt:
        zero = tirx.FloatImm(self.contraction.dtype, 0.0)
        return tirx.BufferStore(self.accumulators, zero, self._place(row, vector, lane))

    def _add(self, row: Var, vector: Var, lane: Var) -> tirx.Stmt:
        values = self._values(row, vector, lane)
        place = self._place(row, vector, lane)
        plain = (
            self.contraction.right if self.panel is None else self._panel_load(row, vector, lane)
        )
        left = self._widened(rewrite(self.contraction.left, values), self.contraction.left.source)
        right = self._widened(rewrite(plain, values), plain.source)
        return tirx.BufferStore(
            self.accumulators, tirx.BufferLoad(self.accumulators, place) + left * right, place
        )

    def _widened(self, operand: Expr, source: Var) -> Expr:
        """An operand in the type of the sum."""
        same = str(source.ty.dtype) == self.contraction.dtype
        return operand if same else tirx.Cast(self.contraction.dtype, operand)

    def _panel_load(self, row: Var, vector: Var, lane: Var) -> TensorLoad:
        tile, panel = self.view.tile, self.view.panel
        assert panel is not None
        piece: Expr = self.lane_piece
        pieces, last = tile.lanes.pieces, vector * constant(tile.lanes.width) + lane
        if panel.by_rows:
            piece, pieces, last = self.row_piece, tile.rows.pieces, row
        if panel.group is not None:
            piece = panel.group.var * constant(pieces) + piece
        lead = [axis.var for axis in panel.lead]
        return tirx.BufferLoad(self.panel, [*lead, piece, *(a.var for a in panel.axes), last])

    def _reduction(self) -> tirx.Stmt:
        body = self._tile_loops(self._add)
        for axis in reversed(self.contraction.reduce):
            kind = UNROLLED if axis in self.view.unrolled else SERIAL
            body = loop(axis.var, axis.extent, body, kind)
        return body

    def _finish(self, sums: Var, row: Var, vector: Var, lane: Var) -> tirx.Stmt:
        values = self._values(row, vector, lane)
        place = self._place(row, vector, lane)

        def on_load(load: TensorLoad, indices: list[Expr]) -> Expr:
            if load.source.same_as(self.contraction.accumulator):
                return tirx.BufferLoad(sums, place)
            return tirx.BufferLoad(load.source, indices)

        store = self.contraction.store
        return tirx.BufferStore(
            store.buffer,
            rewrite(store.value, values, on_load),
            [rewrite(index, values) for index in store.indices],
        )


def _panel_dtype(contraction: Contraction, panel: Panel) -> str:
    if panel.packed is not None and panel.packed.dtype == "float16":
        return "float16"
    return str(contraction.right.source.ty.dtype)


def emit(sch: s_tir.Schedule, contraction: Contraction, view: View, cores: int) -> s_tir.Schedule:
    """Replaces a function by its paddings and register-tiled loops.

    Args:
        sch: The function's schedule.
        contraction: What it computes.
        view: The tile and how the axes map to it.
        cores: Cores to spread the outer loops over.

    Returns:
        A schedule of the new function.
    """
    params = list(sch.mod["main"].params)
    buffers = [padding.target for padding in contraction.paddings]
    statements = [padding.emit(cores) for padding in contraction.paddings]
    attrs: dict[str, str] = {}
    panel = None
    if view.panel is not None:
        panel = tirx.decl_buffer(view.panel.shape, _panel_dtype(contraction, view.panel), "panel")
        if view.panel.packed is not None:
            params[view.panel.packed.parameter] = panel
            attrs[PACKED_PARAMETERS] = dump_packed([view.panel.packed])
        else:
            buffers.append(panel)
    emitter = TileEmitter(contraction, view, panel, cores)
    if view.panel is not None and view.panel.packed is None:
        statements.append(emitter.copy_panel())
    return rebuild(sch, [*statements, emitter.build()], params, buffers, attrs)
