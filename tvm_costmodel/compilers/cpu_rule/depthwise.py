"""Depthwise convolutions, channels last: every channel its own filter."""

from __future__ import annotations

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.facts import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.machine import Machine
from tvm_costmodel.compilers.cpu_rule.planning import pick_rows
from tvm_costmodel.compilers.cpu_rule.product import match_product, unit_stride
from tvm_costmodel.compilers.cpu_rule.register_tile import View, emit
from tvm_costmodel.compilers.cpu_rule.tiling import Tile, cuts, lane_widths

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
        product = match_product(sch, facts)
        if product is None:
            return None
        lane = product.spatial[-1]
        if not (unit_stride(product.left, lane) and unit_stride(product.right, lane)):
            return None
        row = pick_rows(product, lane, product.left, product.right)
        if row is lane:
            return None
        width = lane_widths(lane.extent, machine.lanes)[0]
        lanes = cuts(lane.extent, width, config.vectors_per_tile or 2)[-1]
        most = max(1, (config.accumulators or machine.registers // 2) // lanes.vectors)
        rows = min(cuts(row.extent, 1, most), key=lambda cut: (cut.pieces, cut.vectors))
        columns = product.reduce[-1:]
        unrolled = tuple(a for a in columns if a.extent <= _LONGEST_UNROLLED_FILTER)
        view = View(
            row=row,
            lane=lane,
            outer=tuple(a for a in product.spatial if a is not row and a is not lane),
            tile=Tile(rows, lanes),
            lanes_first=config.loop_order == "channels",
            unrolled=unrolled,
        )
        return emit(sch, product, view, machine.cores)


TEMPLATES = (DepthwiseChannelsLast(),)
