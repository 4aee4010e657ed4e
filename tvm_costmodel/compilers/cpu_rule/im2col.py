"""Convolutions, channels last, as a copy of all windows and a matrix product."""

from __future__ import annotations

import dataclasses

from tvm import s_tir, tirx
from tvm.ir import Expr, Var

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.decision import KernelDecision
from tvm_costmodel.compilers.cpu_rule.expression import constant, is_variable, rewrite
from tvm_costmodel.compilers.cpu_rule.facts import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.machine import Machine
from tvm_costmodel.compilers.cpu_rule.packing import (
    PACKED_PARAMETERS,
    PackedParameter,
    Panel,
    dump_packed,
)
from tvm_costmodel.compilers.cpu_rule.planning import parameter_of, substitute
from tvm_costmodel.compilers.cpu_rule.product import Axis, Product, match_product
from tvm_costmodel.compilers.cpu_rule.register_tile import TileEmitter, View
from tvm_costmodel.compilers.cpu_rule.statements import (
    PARALLEL,
    SERIAL,
    index_variable,
    loop,
    nest,
    rebuild,
)
from tvm_costmodel.compilers.cpu_rule.tiling import Cut, Tile, choose_tile


@dataclasses.dataclass(frozen=True, eq=False)
class _Windows:
    """A convolution whose windows are to be copied.

    Attributes:
        product: Its sum of products; spatial axes image, row, column, filter.
        size: Pixels that are copied and multiplied together.
        tile: Register tile of the matrix product, pixels by filters.
        packed: How the weights are stored.
    """

    product: Product
    size: int
    tile: Tile
    packed: PackedParameter

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        total = 1
        for axis in self.product.spatial[:3]:
            total *= axis.extent
        return total


def _is_convolution(product: Product) -> bool:
    """Whether weights are indexed by window, channels and filters, and data not by filters."""
    if len(product.spatial) != 4 or product.dtype != "float32" or len(product.reduce) < 2:
        return False
    axes = (*product.reduce, product.spatial[3])
    shape = [int(d) for d in product.right.source.ty.shape]
    indices = [i for i, extent in zip(product.right.indices, shape, strict=True) if extent > 1]
    return len(indices) == len(axes) and all(
        is_variable(index, axis.var) for index, axis in zip(indices, axes, strict=True)
    )


def _block_size(pixels: int, steps: int, decided: int, machine: Machine) -> int:
    size = decided or max(32, int(0.5 * machine.l2_bytes / (4 * steps)))
    if machine.cores > 1:
        size = min(size, max(8, -(-pixels // machine.cores)))
    blocks = -(-pixels // min(size, pixels))
    return -(-pixels // blocks)


def _plan(
    product: Product,
    parameter: int,
    decision: KernelDecision,
    config: CpuRuleConfig,
    machine: Machine,
) -> _Windows:
    pixels = 1
    for axis in product.spatial[:3]:
        pixels *= axis.extent
    size = _block_size(pixels, product.steps, decision.tile_block, machine)
    tile = choose_tile(
        size,
        product.spatial[3].extent,
        product.steps,
        vector=machine.lanes,
        registers=machine.registers,
        accumulators=config.accumulators,
        vectors=config.vectors_per_tile,
    )
    shape = [int(d) for d in product.right.source.ty.shape]
    elements = tuple(tuple(row) for row in tile.lanes.elements())
    order = tuple(d for d in range(len(shape) - 1) if shape[d] > 1)
    packed = PackedParameter(
        parameter, len(shape) - 1, elements, order, decision.weight_dtype, flat=True
    )
    return _Windows(product, size, tile, packed)


class _Blocks:
    """Builds the loops over blocks of pixels."""

    def __init__(self, windows: _Windows, panel: Var, machine: Machine) -> None:
        self.windows, self.panel, self.machine = windows, panel, machine
        product = windows.product
        self.data = tirx.decl_buffer((windows.size, product.steps), "float32", "windows")
        self.first = index_variable("first")

    def build(self) -> tirx.Stmt:
        """The copy and the product, one block of pixels after the other."""
        cut = Cut(self.windows.pixels, 1, self.windows.size)
        block = index_variable("block")
        body = tirx.SeqStmt(
            [
                tirx.Bind(self.first, cut.start(block, constant(0))),
                tirx.AllocBuffer(self.data),
                self._copy(),
                self._multiply(),
            ]
        )
        parallel = self.machine.cores > 1 and cut.pieces > 1
        return loop(block, cut.pieces, body, PARALLEL if parallel else SERIAL)

    def _place(self, pixel: Expr) -> dict[Var, Expr]:
        """Image, row and column of a pixel of the block."""
        image, row, column = self.windows.product.spatial[:3]
        number = self.first + pixel
        return {
            image.var: tirx.FloorDiv(number, constant(row.extent * column.extent)),
            row.var: tirx.FloorMod(
                tirx.FloorDiv(number, constant(column.extent)), constant(row.extent)
            ),
            column.var: tirx.FloorMod(number, constant(column.extent)),
        }

    def _copy(self) -> tirx.Stmt:
        product, pixel = self.windows.product, index_variable("pixel")
        names = {
            axis: index_variable(n)
            for axis, n in zip(product.spatial[:3], ("image", "row", "column"), strict=True)
        }
        where = self._place(pixel)
        bindings = [tirx.Bind(names[axis], where[axis.var]) for axis in names]
        steps = {axis: index_variable("step") for axis in product.reduce}
        values: dict[Var, Expr] = {axis.var: v for axis, v in {**names, **steps}.items()}
        flat: Expr = constant(0)
        for axis, step in steps.items():
            flat = flat * constant(axis.extent) + step
        store = tirx.BufferStore(self.data, rewrite(product.left, values), [pixel, flat])
        copy = nest([(step, axis.extent) for axis, step in steps.items()], store)
        return loop(pixel, self.windows.size, tirx.SeqStmt([*bindings, copy]))

    def _multiply(self) -> tirx.Stmt:
        product, size = self.windows.product, self.windows.size
        pixel, step = (
            Axis(index_variable("pixel"), size),
            Axis(index_variable("step"), product.steps),
        )
        filters = product.spatial[3]
        moved = substitute(product, self._place(pixel.var), (pixel, filters), product.reduce)
        flat = dataclasses.replace(
            moved,
            reduce=(step,),
            left=tirx.BufferLoad(self.data, [pixel.var, step.var]),
            paddings=(),
        )
        panel = Panel(tuple(int(d) for d in self.panel.ty.shape), (step,), self.windows.packed)
        view = View(pixel, filters, (), self.windows.tile, lanes_first=True, panel=panel)
        return TileEmitter(flat, view, self.panel, 1).build()


class Im2col:
    """Blocks of pixels: their windows side by side in a buffer, then a matrix product."""

    name = "im2col"

    def apply(
        self, sch: s_tir.Schedule, facts: FunctionFacts, config: CpuRuleConfig, machine: Machine
    ) -> s_tir.Schedule | None:
        """See ``Template``."""
        if facts.decision.algorithm != self.name:
            return None
        product = match_product(sch, facts)
        if product is None or product.is_mixed or not _is_convolution(product):
            return None
        parameter = parameter_of(sch, product.right)
        if parameter not in facts.constants:
            return None
        windows = _plan(product, parameter, facts.decision, config, machine)
        plain = tuple(int(d) for d in product.right.source.ty.shape)
        panel = tirx.decl_buffer(windows.packed.shape(plain), windows.packed.dtype, "panel")
        params = list(sch.mod["main"].params)
        params[parameter] = panel
        statements = [padding.emit(machine.cores) for padding in product.paddings]
        statements.append(_Blocks(windows, panel, machine).build())
        buffers = [padding.target for padding in product.paddings]
        attrs = {PACKED_PARAMETERS: dump_packed([windows.packed])}
        return rebuild(sch, statements, params, buffers, attrs)


TEMPLATES = (Im2col(),)
