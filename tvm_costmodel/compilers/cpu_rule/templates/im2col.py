"""Convolutions, channels last, as a copy of all input patches and a matrix product (im2col)."""

from __future__ import annotations

import dataclasses

from tvm import s_tir, tirx
from tvm.ir import Expr, Var

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import (
    Axis,
    Contraction,
    match_contraction,
)
from tvm_costmodel.compilers.cpu_rule.analysis.expression import constant, is_variable, rewrite
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.packing import (
    PACKED_PARAMETERS,
    PackedParameter,
    Panel,
    dump_packed,
)
from tvm_costmodel.compilers.cpu_rule.emit.register_tile import TileEmitter, View
from tvm_costmodel.compilers.cpu_rule.emit.statements import (
    PARALLEL,
    SERIAL,
    index_variable,
    loop,
    nest,
    rebuild,
)
from tvm_costmodel.compilers.cpu_rule.plan.contraction_plan import parameter_of, substitute
from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import KernelDecision
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Cut, Tile, choose_tile


@dataclasses.dataclass(frozen=True, eq=False)
class _Im2colPlan:
    """A convolution whose input patches are copied.

    Attributes:
        contraction: Its sum of products; spatial axes image, row, column, filter.
        size: Pixels that are copied and multiplied together.
        tile: Register tile of the matrix product, pixels by filters.
        packed: How the weights are stored.
    """

    contraction: Contraction
    size: int
    tile: Tile
    packed: PackedParameter

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        total = 1
        for axis in self.contraction.spatial[:3]:
            total *= axis.extent
        return total


def _is_convolution(contraction: Contraction) -> bool:
    """Whether weights are indexed by kernel, channels and filters, and data not by filters."""
    if (
        len(contraction.spatial) != 4
        or contraction.dtype != "float32"
        or len(contraction.reduce) < 2
    ):
        return False
    axes = (*contraction.reduce, contraction.spatial[3])
    shape = [int(d) for d in contraction.right.source.ty.shape]
    indices = [i for i, extent in zip(contraction.right.indices, shape, strict=True) if extent > 1]
    return len(indices) == len(axes) and all(
        is_variable(index, axis.var) for index, axis in zip(indices, axes, strict=True)
    )


def _block_size(pixels: int, steps: int, chosen: int, machine: Machine) -> int:
    size = chosen or max(32, int(0.5 * machine.l2_bytes / (4 * steps)))
    if machine.cores > 1:
        size = min(size, max(8, -(-pixels // machine.cores)))
    blocks = -(-pixels // min(size, pixels))
    return -(-pixels // blocks)


def _plan(
    contraction: Contraction,
    parameter: int,
    decision: KernelDecision,
    config: CpuRuleConfig,
    machine: Machine,
) -> _Im2colPlan:
    pixels = 1
    for axis in contraction.spatial[:3]:
        pixels *= axis.extent
    size = _block_size(pixels, contraction.steps, decision.tile_block, machine)
    tile = choose_tile(
        size,
        contraction.spatial[3].extent,
        contraction.steps,
        vector=machine.lanes,
        registers=machine.registers,
        accumulators=config.accumulators,
        vectors=config.vectors_per_tile,
    )
    shape = [int(d) for d in contraction.right.source.ty.shape]
    elements = tuple(tuple(row) for row in tile.lanes.elements())
    order = tuple(d for d in range(len(shape) - 1) if shape[d] > 1)
    packed = PackedParameter(
        parameter, len(shape) - 1, elements, order, decision.weight_dtype, flat=True
    )
    return _Im2colPlan(contraction, size, tile, packed)


class _Blocks:
    """Builds the loops over blocks of pixels."""

    def __init__(self, plan: _Im2colPlan, panel: Var, machine: Machine) -> None:
        self.plan, self.panel, self.machine = plan, panel, machine
        contraction = plan.contraction
        self.data = tirx.decl_buffer((plan.size, contraction.steps), "float32", "windows")
        self.first = index_variable("first")

    def build(self) -> tirx.Stmt:
        """The copy and the matrix product, one block of pixels after the other."""
        cut = Cut(self.plan.pixels, 1, self.plan.size)
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
        image, row, column = self.plan.contraction.spatial[:3]
        number = self.first + pixel
        return {
            image.var: tirx.FloorDiv(number, constant(row.extent * column.extent)),
            row.var: tirx.FloorMod(
                tirx.FloorDiv(number, constant(column.extent)), constant(row.extent)
            ),
            column.var: tirx.FloorMod(number, constant(column.extent)),
        }

    def _copy(self) -> tirx.Stmt:
        contraction, pixel = self.plan.contraction, index_variable("pixel")
        names = {
            axis: index_variable(n)
            for axis, n in zip(contraction.spatial[:3], ("image", "row", "column"), strict=True)
        }
        pixel_axes = self._place(pixel)
        bindings = [tirx.Bind(names[axis], pixel_axes[axis.var]) for axis in names]
        steps = {axis: index_variable("step") for axis in contraction.reduce}
        values: dict[Var, Expr] = {axis.var: v for axis, v in {**names, **steps}.items()}
        flat: Expr = constant(0)
        for axis, step in steps.items():
            flat = flat * constant(axis.extent) + step
        store = tirx.BufferStore(self.data, rewrite(contraction.left, values), [pixel, flat])
        copy = nest([(step, axis.extent) for axis, step in steps.items()], store)
        return loop(pixel, self.plan.size, tirx.SeqStmt([*bindings, copy]))

    def _multiply(self) -> tirx.Stmt:
        contraction, size = self.plan.contraction, self.plan.size
        pixel, step = (
            Axis(index_variable("pixel"), size),
            Axis(index_variable("step"), contraction.steps),
        )
        filters = contraction.spatial[3]
        flattened = substitute(
            contraction, self._place(pixel.var), (pixel, filters), contraction.reduce
        )
        flat = dataclasses.replace(
            flattened,
            reduce=(step,),
            left=tirx.BufferLoad(self.data, [pixel.var, step.var]),
            paddings=(),
        )
        panel = Panel(tuple(int(d) for d in self.panel.ty.shape), (step,), self.plan.packed)
        view = View(pixel, filters, (), self.plan.tile, lanes_first=True, panel=panel)
        return TileEmitter(flat, view, self.panel, 1).build()


class Im2col:
    """Blocks of pixels: their input patches copied into a buffer, then a matrix product."""

    name = "im2col"

    def apply(
        self, sch: s_tir.Schedule, facts: FunctionFacts, config: CpuRuleConfig, machine: Machine
    ) -> s_tir.Schedule | None:
        """See ``Template``."""
        if facts.decision.algorithm != self.name:
            return None
        contraction = match_contraction(sch, facts)
        if contraction is None or contraction.is_mixed or not _is_convolution(contraction):
            return None
        parameter = parameter_of(sch, contraction.right)
        if parameter not in facts.constants:
            return None
        plan = _plan(contraction, parameter, facts.decision, config, machine)
        plain = tuple(int(d) for d in contraction.right.source.ty.shape)
        panel = tirx.decl_buffer(plan.packed.shape(plain), plan.packed.dtype, "panel")
        params = list(sch.mod["main"].params)
        params[parameter] = panel
        statements = [padding.emit(machine.cores) for padding in contraction.paddings]
        statements.append(_Blocks(plan, panel, machine).build())
        buffers = [padding.target for padding in contraction.paddings]
        attrs = {PACKED_PARAMETERS: dump_packed([plan.packed])}
        return rebuild(sch, statements, params, buffers, attrs)


TEMPLATES = (Im2col(),)
