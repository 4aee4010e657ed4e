"""Convolutions, channels last, by Winograd's minimal filtering: see ``winograd_transforms``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import (
    Axis,
    Contraction,
    match_contraction,
)
from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant, rewrite
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.packing import PACKED_PARAMETERS, Panel, dump_packed
from tvm_costmodel.compilers.cpu_rule.emit.register_tile import TileEmitter, View
from tvm_costmodel.compilers.cpu_rule.emit.statements import (
    PARALLEL,
    SERIAL,
    VECTORISED,
    index_variable,
    loop,
    rebuild,
)
from tvm_costmodel.compilers.cpu_rule.plan.contraction_plan import parameter_of
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Cut, choose_tile
from tvm_costmodel.compilers.cpu_rule.templates.winograd_applicability import (
    WinogradConv,
    match_winograd,
)
from tvm_costmodel.compilers.cpu_rule.templates.winograd_transforms import (
    WinogradWeights,
    transform_data,
    transform_result,
)

# Tiles that weights too large for the level-2 cache should serve each time they are read.
_TILES_PER_READ = 48
_LINE = 16  # float32 values of a cache line


def _block_size(conv: WinogradConv, chosen: int, machine: Machine) -> int:
    """Tiles that go through the three stages together."""
    images, rows, columns = conv.tiles
    tiles = images * rows * columns
    if chosen:
        return min(chosen, tiles)
    channels, filters = conv.channels.extent, conv.filters.extent
    squares = conv.edge**2
    room = 0.75 * machine.l2_bytes
    size = int(room / (4 * squares * (channels + filters)))
    if 4 * squares * channels * filters > room:
        size = max(size, _TILES_PER_READ)
    size = max(16, size)
    if machine.cores > 1:
        size = max(8, min(size, -(-tiles // machine.cores)))
    blocks = -(-tiles // size)
    return -(-tiles // blocks)


def _row(extent: int) -> int:
    """Length of a row of ``extent`` values, an odd number of cache lines."""
    lines = -(-extent // _LINE)
    return _LINE * (lines + 1 - lines % 2)


class _Stages:
    """Builds the three stages for one block of tiles."""

    def __init__(
        self, conv: WinogradConv, size: int, view: View, panel: Var, machine: Machine
    ) -> None:
        self.conv, self.size, self.view, self.panel = conv, size, view, panel
        self.machine = machine
        channels, filters = conv.channels.extent, conv.filters.extent
        squares = conv.edge**2
        self.channel_row, self.filter_row = _row(channels), _row(filters)
        self.data = tirx.decl_buffer((squares, size * self.channel_row), "float32", "data")
        self.sums = tirx.decl_buffer((squares, size * self.filter_row), "float32", "sums")
        self.start = index_variable("start")

    def buffers(self) -> list[Var]:
        """Buffers that the stages pass on."""
        return [self.data, self.sums]

    def build(self, kind: tirx.ForKind) -> list[tirx.Stmt]:
        """The stages; ``kind`` is the kind of their outermost loops."""
        first, last = index_variable("tile"), index_variable("tile")
        entered = self._at_tile(first, self._enter)
        left = self._at_tile(last, self._leave)
        square = index_variable("square")
        return [
            loop(first, self.size, entered, kind),
            loop(square, self.conv.edge**2, self._multiply(square), kind),
            loop(last, self.size, left, kind),
        ]

    def _at_tile(
        self, tile: Var, body: Callable[[Var, tuple[Expr, Expr, Expr]], list[tirx.Stmt]]
    ) -> tirx.Stmt:
        """Statements of one tile, with its first image, row and column in variables."""
        _, rows, columns = self.conv.tiles
        names = [index_variable(n) for n in ("image", "top", "left")]
        number = self.start + tile
        origin: list[Expr] = [
            tirx.FloorDiv(number, constant(rows * columns)),
            tirx.FloorMod(tirx.FloorDiv(number, constant(columns)), constant(rows)),
            tirx.FloorMod(number, constant(columns)),
        ]
        for position in (1, 2):
            extent = self.conv.contraction.spatial[position].extent
            first = origin[position] * constant(self.conv.outputs)
            if extent % self.conv.outputs:
                first = tirx.Min(first, constant(extent - self.conv.outputs))
            origin[position] = first
        bindings = [tirx.Bind(n, v) for n, v in zip(names, origin, strict=True)]
        return tirx.SeqStmt([*bindings, *body(tile, (names[0], names[1], names[2]))])

    def _vectors(self, extent: int, body: Callable[[Expr, int], list[tirx.Stmt]]) -> tirx.Stmt:
        """A loop over vectors of channels; the last one is moved back until it fits."""
        width = self.machine.lanes
        while width > extent:
            width //= 2
        cut = Cut(extent, width, 1)
        piece = index_variable("piece")
        first = cut.start(piece, constant(0))
        return loop(piece, cut.pieces, tirx.SeqStmt(body(first, width)), SERIAL)

    def _enter(self, tile: Var, origin: tuple[Expr, Expr, Expr]) -> list[tirx.Stmt]:
        """Transforms the data of one tile."""
        image, top, left = origin
        edge, outputs = self.conv.edge, self.conv.outputs
        source = self.conv.contraction.left.source

        def body(first: Expr, width: int) -> list[tirx.Stmt]:
            half = tirx.decl_buffer((edge * edge * width,), "float32", "half", scope="local")

            def read(i: int, j: Expr, lane: Var) -> Expr:
                place = [image, top + constant(i), left + j, self._channel(first + lane)]
                return tirx.BufferLoad(source, place)

            def write(j: int, i: Expr, lane: Var) -> tuple[Var, list[Expr]]:
                place = tile * constant(self.channel_row) + first + lane
                return self.data, [i * constant(edge) + constant(j), place]

            lines = _Lines(edge, outputs, width, transform_data)
            return [
                tirx.AllocBuffer(half),
                lines.loop(edge, read, _column_of(half, edge, width)),
                lines.loop(edge, _row_of(half, edge, width), write),
            ]

        return [self._vectors(self.conv.channels.extent, body)]

    def _channel(self, within: Expr) -> Expr:
        """An input channel from its place in its group."""
        group = self.conv.group
        if group is None:
            return within
        return group.var * constant(self.conv.channels.extent) + within

    def _multiply(self, square: Var) -> tirx.Stmt:
        tile, filters = self.view.row, self.view.lane
        channel = self.conv.channels
        accumulator = tirx.decl_buffer((tile.extent, filters.extent), "float32", "sum")
        place = [square, tile.var * constant(self.filter_row) + filters.var]
        contraction = Contraction(
            spatial=(tile, filters),
            reduce=(channel,),
            left=tirx.BufferLoad(
                self.data, [square, tile.var * constant(self.channel_row) + channel.var]
            ),
            right=self.conv.contraction.right,
            dtype="float32",
            store=tirx.BufferStore(
                self.sums, tirx.BufferLoad(accumulator, [tile.var, filters.var]), place
            ),
            accumulator=accumulator,
        )
        panel = self.view.panel
        assert panel is not None
        squares = self.conv.edge**2
        weights_axis = Axis(square, squares)
        bindings: list[tirx.Stmt] = []
        if self.conv.group is not None:
            weights_axis = Axis(index_variable("turn"), squares * self.conv.groups)
            number = self.conv.group.var * constant(squares) + square
            bindings.append(tirx.Bind(weights_axis.var, number))
        view = dataclasses.replace(self.view, panel=dataclasses.replace(panel, group=weights_axis))
        body = TileEmitter(contraction, view, self.panel, 1).build()
        return tirx.SeqStmt([*bindings, body]) if bindings else body

    def _leave(self, tile: Var, origin: tuple[Expr, Expr, Expr]) -> list[tirx.Stmt]:
        """Transforms the sums of one tile and finishes its outputs."""
        edge, outputs = self.conv.edge, self.conv.outputs

        def body(first: Expr, width: int) -> list[tirx.Stmt]:
            half = tirx.decl_buffer((outputs * edge * width,), "float32", "half", scope="local")
            line_outputs = tirx.decl_buffer((outputs * width,), "float32", "done", scope="local")

            def read(i: int, j: Expr, lane: Var) -> Expr:
                place = tile * constant(self.filter_row) + first + lane
                return tirx.BufferLoad(self.sums, [constant(i * edge) + j, place])

            def write(j: int, i: Expr, lane: Var) -> tuple[Var, list[Expr]]:
                return line_outputs, [constant(j * width) + lane]

            def finish(i: Expr) -> list[tirx.Stmt]:
                image, top, left = origin
                return [
                    self._finish(
                        line_outputs, (image, top + i, left + constant(j)), first, j, width
                    )
                    for j in range(outputs)
                ]

            lines = _Lines(edge, outputs, width, transform_result)
            return [
                tirx.AllocBuffer(half),
                tirx.AllocBuffer(line_outputs),
                lines.loop(edge, read, _column_of(half, edge, width)),
                lines.loop(outputs, _row_of(half, edge, width), write, finish),
            ]

        return [self._vectors(self.conv.filters.extent, body)]

    def _finish(
        self,
        line_outputs: Var,
        pixel: tuple[Expr, Expr, Expr],
        first: Expr,
        number: int,
        width: int,
    ) -> tirx.Stmt:
        """Stores the finished channels of one pixel of a line."""
        contraction, lane = self.conv.contraction, index_variable("lane")
        image, row, column = contraction.spatial[:3]
        axes, places = (image, row, column, self.conv.filters), (*pixel, first + lane)
        values = {axis.var: place for axis, place in zip(axes, places, strict=True)}

        def on_load(load: TensorLoad, indices: list[Expr]) -> Expr:
            if load.source.same_as(contraction.accumulator):
                return tirx.BufferLoad(line_outputs, [constant(number * width) + lane])
            return tirx.BufferLoad(load.source, indices)

        store = contraction.store
        stmt = tirx.BufferStore(
            store.buffer,
            rewrite(store.value, values, on_load),
            [rewrite(index, values) for index in store.indices],
        )
        return loop(lane, width, stmt, VECTORISED)


# Value at a place of a line (its number, which may be a variable), and where one is stored.
_Read = Callable[[int, Expr, Var], Expr]
_Write = Callable[[int, Expr, Var], tuple[Var, list[Expr]]]


@dataclasses.dataclass(frozen=True, eq=False)
class _Lines:
    """One-dimensional transforms of the lines (columns or rows) of a tile, in vectors."""

    edge: int
    outputs: int
    width: int
    transform: Callable[[Sequence[Expr], int], list[Expr]]

    def loop(
        self,
        count: int,
        read: _Read,
        write: _Write,
        after: Callable[[Expr], list[tirx.Stmt]] | None = None,
    ) -> tirx.Stmt:
        """A loop over ``count`` lines; unrolled it is no faster and takes LLVM twice as long."""
        line = index_variable("line")
        stores: list[tirx.Stmt] = []
        results = self.edge if self.transform is transform_data else self.outputs
        for position in range(results):
            lane = index_variable("lane")
            values = [read(place, line, lane) for place in range(self.edge)]
            buffer, place = write(position, line, lane)
            store = tirx.BufferStore(buffer, self.transform(values, self.outputs)[position], place)
            stores.append(loop(lane, self.width, store, VECTORISED))
        return loop(line, count, tirx.SeqStmt([*stores, *(after(line) if after else ())]))


def _column_of(buffer: Var, edge: int, width: int) -> _Write:
    def write(i: int, j: Expr, lane: Var) -> tuple[Var, list[Expr]]:
        return buffer, [(constant(i * edge) + j) * constant(width) + lane]

    return write


def _row_of(buffer: Var, edge: int, width: int) -> _Read:
    def read(j: int, i: Expr, lane: Var) -> Expr:
        place = (i * constant(edge) + constant(j)) * constant(width) + lane
        return tirx.BufferLoad(buffer, [place])

    return read


class Winograd:
    """Blocks of tiles through three stages: data transformed, multiplied, results transformed."""

    name = "winograd"

    def apply(
        self, sch: s_tir.Schedule, facts: FunctionFacts, config: CpuRuleConfig, machine: Machine
    ) -> s_tir.Schedule | None:
        """See ``Template``."""
        if not facts.decision.algorithm.startswith("winograd"):
            return None
        contraction = match_contraction(sch, facts)
        if contraction is None or contraction.is_mixed:
            return None
        parameter = parameter_of(sch, contraction.right)
        outputs = int(facts.decision.algorithm.removeprefix("winograd"))
        conv = match_winograd(contraction, outputs, parameter)
        if conv is None or parameter not in facts.constants:
            return None
        size = _block_size(conv, facts.decision.tile_block, machine)
        view, packed = self._view(conv, size, config, machine, facts.decision.weight_dtype)
        assert view.panel is not None
        panel = tirx.decl_buffer(view.panel.shape, packed.dtype, "panel")
        params = list(sch.mod["main"].params)
        params[parameter] = panel
        stages = _Stages(conv, size, view, panel, machine)
        statements = [padding.emit(machine.cores) for padding in contraction.paddings]
        statements += self._blocks(conv, stages, size, machine)
        buffers = [padding.target for padding in contraction.paddings]
        attrs = {PACKED_PARAMETERS: dump_packed([packed])}
        return rebuild(sch, statements, params, buffers, attrs)

    def _view(
        self, conv: WinogradConv, size: int, config: CpuRuleConfig, machine: Machine, dtype: str
    ) -> tuple[View, WinogradWeights]:
        tiles, filters = Axis(index_variable("row"), size), conv.filters
        tile = choose_tile(
            size,
            filters.extent,
            conv.channels.extent,
            vector=machine.lanes,
            registers=machine.registers,
            accumulators=config.accumulators,
            vectors=config.vectors_per_tile,
            store_cost=1.0,
        )
        elements = tuple(tuple(row) for row in tile.lanes.elements())
        packed = WinogradWeights(conv.parameter, conv.outputs, elements, dtype, conv.groups)
        plain = tuple(int(d) for d in conv.contraction.right.source.ty.shape)
        panel = Panel(packed.shape(plain), (conv.channels,), packed)
        # a panel of weights stays in the level-1 cache while all tiles pass it
        first = config.loop_order != "pixels"
        return View(tiles, filters, (), tile, lanes_first=first, panel=panel), packed

    def _blocks(
        self, conv: WinogradConv, stages: _Stages, size: int, machine: Machine
    ) -> list[tirx.Stmt]:
        images, rows, columns = conv.tiles
        tiles = images * rows * columns
        cut = Cut(tiles, 1, size)
        spread = machine.cores > 1 and cut.pieces >= machine.cores
        inner = PARALLEL if machine.cores > 1 and not spread else SERIAL
        block = index_variable("block")
        start = tirx.Bind(stages.start, cut.start(block, constant(0)))
        buffers = [tirx.AllocBuffer(buffer) for buffer in stages.buffers()]
        body = tirx.SeqStmt([start, *buffers, *stages.build(inner)])
        blocks = loop(block, cut.pieces, body, PARALLEL if spread else SERIAL)
        if conv.group is None:
            return [blocks]
        return [loop(conv.group.var, conv.groups, blocks)]


TEMPLATES = (Winograd(),)
