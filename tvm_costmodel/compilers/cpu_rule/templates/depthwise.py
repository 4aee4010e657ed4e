"""Depthwise convolutions, channels last: every channel its own filter."""

from __future__ import annotations

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import match_contraction, unit_stride
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.register_tile import View, emit
from tvm_costmodel.compilers.cpu_rule.emit.vector_math import calls_library
from tvm_costmodel.compilers.cpu_rule.plan.contraction_plan import choose_rows
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Tile, cuts, lane_widths

# Wider filters than this stay a loop: their unrolled code would be long and they are rare.
_LONGEST_UNROLLED_FILTER = 7


class DepthwiseChannelsLast:
    """Tiles of neighbouring pixels by channels.

    Neighbouring pixels of one filter row share their input: with the filter's columns unrolled,
    each input vector is loaded once.
    """

    name = "depthwise_channels_last"

    def apply(
        self, sch: s_tir.Schedule, facts: FunctionFacts, config: CpuRuleConfig, machine: Machine
    ) -> s_tir.Schedule | None:
        """See ``Template``."""
        contraction = match_contraction(sch, facts)
        if contraction is None:
            return None
        lane = contraction.spatial[-1]
        if not (unit_stride(contraction.left, lane) and unit_stride(contraction.right, lane)):
            return None
        row = choose_rows(contraction, lane, contraction.left, contraction.right)
        if row is lane:
            return None
        width = lane_widths(lane.extent, machine.lanes)[0]
        lanes = cuts(lane.extent, width, config.vectors_per_tile or 2)[-1]
        most = max(1, (config.accumulators or machine.registers // 2) // lanes.vectors)
        rows = min(cuts(row.extent, 1, most), key=lambda cut: (cut.pieces, cut.vectors))
        columns = contraction.reduce[-1:]
        unrolled = tuple(a for a in columns if a.extent <= _LONGEST_UNROLLED_FILTER)
        view = View(
            row=row,
            lane=lane,
            outer=tuple(a for a in contraction.spatial if a is not row and a is not lane),
            tile=Tile(rows, lanes),
            lanes_first=config.loop_order == "channels",
            unrolled=unrolled,
            staged=calls_library(contraction.store.value, ("tirx.exp", "tirx.sigmoid")),
        )
        return emit(sch, contraction, view, machine.cores)


TEMPLATES = (DepthwiseChannelsLast(),)
