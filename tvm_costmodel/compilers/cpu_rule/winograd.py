"""Convolutions, channels last, by Winograd's minimal filtering: see ``minimal_filtering``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from tvm import s_tir, tirx
from tvm.ir import Expr, Var
from tvm.ir.expr import TensorLoad

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.expression import constant, rewrite
from tvm_costmodel.compilers.cpu_rule.facts import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.machine import Machine
from tvm_costmodel.compilers.cpu_rule.minimal_filtering import (
    FilteringWeights,
    transform_data,
    transform_result,
)
from tvm_costmodel.compilers.cpu_rule.packing import PACKED_PARAMETERS, Panel, dump_packed
from tvm_costmodel.compilers.cpu_rule.planning import parameter_of
from tvm_costmodel.compilers.cpu_rule.product import Axis, Product, match_product
from tvm_costmodel.compilers.cpu_rule.register_tile import TileEmitter, View
from tvm_costmodel.compilers.cpu_rule.statements import (
    PARALLEL,
    SERIAL,
    VECTORISED,
    index_variable,
    loop,
    rebuild,
)
from tvm_costmodel.compilers.cpu_rule.tiling import Cut, choose_tile
from tvm_costmodel.compilers.cpu_rule.winograd_window import Window, match_window

# Tiles that weights too large for the level-2 cache should serve each time they are read.
_TILES_PER_READ = 48
_LINE = 16  # float32 values of a cache line


def _block_size(window: Window, decided: int, machine: Machine) -> int:
    """Tiles that go through the three stages together."""
    images, rows, columns = window.tiles
    tiles = images * rows * columns
    if decided:
        return min(decided, tiles)
    channels, filters = window.channels.extent, window.filters.extent
    products = window.products**2
    room = 0.75 * machine.l2_bytes
    size = int(room / (4 * products * (channels + filters)))
    if 4 * products * channels * filters > room:
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

    def __init__(self, window: Window, size: int, view: View, panel: Var, machine: Machine) -> None:
        self.window, self.size, self.view, self.panel = window, size, view, panel
        self.machine = machine
        channels, filters = window.channels.extent, window.filters.extent
        squares = window.products**2
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
            loop(square, self.window.products**2, self._multiply(square), kind),
            loop(last, self.size, left, kind),
        ]

    def _at_tile(
        self, tile: Var, body: Callable[[Var, tuple[Expr, Expr, Expr]], list[tirx.Stmt]]
    ) -> tirx.Stmt:
        """Statements of one tile, with its first image, row and column in variables."""
        _, rows, columns = self.window.tiles
        names = [index_variable(n) for n in ("image", "top", "left")]
        number = self.start + tile
        where: list[Expr] = [
            tirx.FloorDiv(number, constant(rows * columns)),
            tirx.FloorMod(tirx.FloorDiv(number, constant(columns)), constant(rows)),
            tirx.FloorMod(number, constant(columns)),
        ]
        for position in (1, 2):
            extent = self.window.product.spatial[position].extent
            first = where[position] * constant(self.window.outputs)
            if extent % self.window.outputs:
                first = tirx.Min(first, constant(extent - self.window.outputs))
            where[position] = first
        bindings = [tirx.Bind(n, v) for n, v in zip(names, where, strict=True)]
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

    def _enter(self, tile: Var, where: tuple[Expr, Expr, Expr]) -> list[tirx.Stmt]:
        """Transforms the data of one tile."""
        image, top, left = where
        edge, outputs = self.window.products, self.window.outputs
        source = self.window.product.left.source

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

        return [self._vectors(self.window.channels.extent, body)]

    def _channel(self, within: Expr) -> Expr:
        """An input channel from its place in its group."""
        group = self.window.group
        if group is None:
            return within
        return group.var * constant(self.window.channels.extent) + within

    def _multiply(self, square: Var) -> tirx.Stmt:
        tile, filters = self.view.row, self.view.lane
        channel = self.window.channels
        accumulator = tirx.decl_buffer((tile.extent, filters.extent), "float32", "sum")
        place = [square, tile.var * constant(self.filter_row) + filters.var]
        product = Product(
            spatial=(tile, filters),
            reduce=(channel,),
            left=tirx.BufferLoad(
                self.data, [square, tile.var * constant(self.channel_row) + channel.var]
            ),
            right=self.window.product.right,
            dtype="float32",
            store=tirx.BufferStore(
                self.sums, tirx.BufferLoad(accumulator, [tile.var, filters.var]), place
            ),
            accumulator=accumulator,
        )
        panel = self.view.panel
        assert panel is not None
        squares = self.window.products**2
        turn = Axis(square, squares)
        bindings: list[tirx.Stmt] = []
        if self.window.group is not None:
            turn = Axis(index_variable("turn"), squares * self.window.groups)
            number = self.window.group.var * constant(squares) + square
            bindings.append(tirx.Bind(turn.var, number))
        view = dataclasses.replace(self.view, panel=dataclasses.replace(panel, group=turn))
        body = TileEmitter(product, view, self.panel, 1).build()
        return tirx.SeqStmt([*bindings, body]) if bindings else body

    def _leave(self, tile: Var, where: tuple[Expr, Expr, Expr]) -> list[tirx.Stmt]:
        """Transforms the sums of one tile and finishes its outputs."""
        edge, outputs = self.window.products, self.window.outputs

        def body(first: Expr, width: int) -> list[tirx.Stmt]:
            half = tirx.decl_buffer((outputs * edge * width,), "float32", "half", scope="local")
            done = tirx.decl_buffer((outputs * width,), "float32", "done", scope="local")

            def read(i: int, j: Expr, lane: Var) -> Expr:
                place = tile * constant(self.filter_row) + first + lane
                return tirx.BufferLoad(self.sums, [constant(i * edge) + j, place])

            def write(j: int, i: Expr, lane: Var) -> tuple[Var, list[Expr]]:
                return done, [constant(j * width) + lane]

            def finish(i: Expr) -> list[tirx.Stmt]:
                image, top, left = where
                return [
                    self._finish(done, (image, top + i, left + constant(j)), first, j, width)
                    for j in range(outputs)
                ]

            lines = _Lines(edge, outputs, width, transform_result)
            return [
                tirx.AllocBuffer(half),
                tirx.AllocBuffer(done),
                lines.loop(edge, read, _column_of(half, edge, width)),
                lines.loop(outputs, _row_of(half, edge, width), write, finish),
            ]

        return [self._vectors(self.window.filters.extent, body)]

    def _finish(
        self, done: Var, pixel: tuple[Expr, Expr, Expr], first: Expr, number: int, width: int
    ) -> tirx.Stmt:
        """Stores the finished channels of one pixel of a line."""
        product, lane = self.window.product, index_variable("lane")
        image, row, column = product.spatial[:3]
        axes, places = (image, row, column, self.window.filters), (*pixel, first + lane)
        values = {axis.var: place for axis, place in zip(axes, places, strict=True)}

        def on_load(load: TensorLoad, indices: list[Expr]) -> Expr:
            if load.source.same_as(product.accumulator):
                return tirx.BufferLoad(done, [constant(number * width) + lane])
            return tirx.BufferLoad(load.source, indices)

        store = product.store
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
        made: list[tirx.Stmt] = []
        results = self.edge if self.transform is transform_data else self.outputs
        for position in range(results):
            lane = index_variable("lane")
            values = [read(place, line, lane) for place in range(self.edge)]
            buffer, place = write(position, line, lane)
            store = tirx.BufferStore(buffer, self.transform(values, self.outputs)[position], place)
            made.append(loop(lane, self.width, store, VECTORISED))
        return loop(line, count, tirx.SeqStmt([*made, *(after(line) if after else ())]))


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
        product = match_product(sch, facts)
        if product is None or product.is_mixed:
            return None
        parameter = parameter_of(sch, product.right)
        outputs = int(facts.decision.algorithm.removeprefix("winograd"))
        window = match_window(product, outputs, parameter)
        if window is None or parameter not in facts.constants:
            return None
        size = _block_size(window, facts.decision.tile_block, machine)
        view, packed = self._view(window, size, config, machine, facts.decision.weight_dtype)
        assert view.panel is not None
        panel = tirx.decl_buffer(view.panel.shape, packed.dtype, "panel")
        params = list(sch.mod["main"].params)
        params[parameter] = panel
        stages = _Stages(window, size, view, panel, machine)
        statements = [padding.emit(machine.cores) for padding in product.paddings]
        statements += self._blocks(window, stages, size, machine)
        buffers = [padding.target for padding in product.paddings]
        attrs = {PACKED_PARAMETERS: dump_packed([packed])}
        return rebuild(sch, statements, params, buffers, attrs)

    def _view(
        self, window: Window, size: int, config: CpuRuleConfig, machine: Machine, dtype: str
    ) -> tuple[View, FilteringWeights]:
        tiles, filters = Axis(index_variable("row"), size), window.filters
        tile = choose_tile(
            size,
            filters.extent,
            window.channels.extent,
            vector=machine.lanes,
            registers=machine.registers,
            accumulators=config.accumulators,
            vectors=config.vectors_per_tile,
            store_cost=1.0,
        )
        elements = tuple(tuple(row) for row in tile.lanes.elements())
        packed = FilteringWeights(window.parameter, window.outputs, elements, dtype, window.groups)
        plain = tuple(int(d) for d in window.product.right.source.ty.shape)
        panel = Panel(packed.shape(plain), (window.channels,), packed)
        # a panel of weights stays in the level-1 cache while all tiles pass it
        first = config.loop_order != "pixels"
        return View(tiles, filters, (), tile, lanes_first=first, panel=panel), packed

    def _blocks(
        self, window: Window, stages: _Stages, size: int, machine: Machine
    ) -> list[tirx.Stmt]:
        images, rows, columns = window.tiles
        tiles = images * rows * columns
        cut = Cut(tiles, 1, size)
        spread = machine.cores > 1 and cut.pieces >= machine.cores
        inner = PARALLEL if machine.cores > 1 and not spread else SERIAL
        block = index_variable("block")
        start = tirx.Bind(stages.start, cut.start(block, constant(0)))
        buffers = [tirx.AllocBuffer(buffer) for buffer in stages.buffers()]
        body = tirx.SeqStmt([start, *buffers, *stages.build(inner)])
        blocks = loop(block, cut.pieces, body, PARALLEL if spread else SERIAL)
        if window.group is None:
            return [blocks]
        return [loop(window.group.var, window.groups, blocks)]


TEMPLATES = (Winograd(),)
