"""Convolutions and matrix products as register tiles, channels last or first."""

from __future__ import annotations

import dataclasses

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.analysis.contraction import (
    Axis,
    Contraction,
    depends,
    match_contraction,
    unit_stride,
)
from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.packing import PackedParameter, Panel
from tvm_costmodel.compilers.cpu_rule.emit.register_tile import View, emit
from tvm_costmodel.compilers.cpu_rule.plan.contraction_plan import (
    choose_rows,
    constant_panel,
    copied_panel,
    fuse_rows,
    group_size,
    lanes_first,
    panels_first,
    parameter_of,
    split_groups,
)
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.plan.tiling import Cut, Tile, choose_tile, cycles

# Cycles to store one vector whose lanes are not adjacent in memory: an extract and a store each.
_SCATTER_COST_PER_LANE = 1.5
# Accumulators of a tile whose stores scatter: more of them make LLVM spill around the stores.
_SCATTER_ACCUMULATORS = 16
# How much slower a step is whose data vectors are put together from single elements.
_GATHER_SLOWDOWN = 8.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Inputs:
    """The inputs that the templates of this file share."""

    sch: s_tir.Schedule
    constants: frozenset[int]
    config: CpuRuleConfig
    machine: Machine
    weight_dtype: str = "float32"

    def tile(
        self, row: Axis, lane: Axis, steps: int, store_cost: float = 2.0, most: int = 0
    ) -> Tile:
        """Chooses a register tile for two axes, of ``most`` accumulators where that is not zero."""
        return choose_tile(
            row.extent,
            lane.extent,
            steps,
            vector=self.machine.lanes,
            registers=self.machine.registers,
            accumulators=self.config.accumulators or most,
            vectors=self.config.vectors_per_tile,
            store_cost=store_cost,
        )

    def panel(
        self,
        plain: Contraction,
        axis: Axis,
        cut: Cut,
        group: Axis | None = None,
        by_rows: bool = False,
    ) -> Panel | None:
        """Plans packed weights where they are constants and packing is on."""
        parameter = parameter_of(self.sch, plain.right)
        if not self.config.pack_weights or parameter not in self.constants:
            return None
        panel = constant_panel(plain, axis, cut, parameter, group, by_rows)
        if panel is None or self.weight_dtype == "float32":
            return panel
        assert isinstance(panel.packed, PackedParameter)
        packed = dataclasses.replace(panel.packed, dtype=self.weight_dtype)
        return dataclasses.replace(panel, packed=packed)


def _outer(contraction: Contraction, group: Axis | None, *inner: Axis) -> tuple[Axis, ...]:
    rest = [a for a in contraction.spatial if a is not group and not any(a is b for b in inner)]
    return tuple([group, *rest] if group is not None else rest)


def _split(plain: Contraction, axis: Axis) -> tuple[Contraction, Axis | None, Axis]:
    size = group_size(plain, axis)
    if not size or size == axis.extent:
        return plain, None, axis
    return split_groups(plain, axis, size)


class ChannelsLast:
    """Tiles of pixels by output channels, where these lie side by side in the output.

    Takes channels-last convolutions with or without groups, and (batched) matrix products, with
    the right operand as it is, transposed, or packed.
    """

    name = "channels_last"

    def apply(
        self, sch: s_tir.Schedule, facts: FunctionFacts, config: CpuRuleConfig, machine: Machine
    ) -> s_tir.Schedule | None:
        """See ``Template``."""
        plain = match_contraction(sch, facts)
        if plain is None:
            return None
        inputs = _Inputs(sch, facts.constants, config, machine, facts.decision.weight_dtype)
        whole = plain.spatial[-1]
        contraction, group, lane = _split(plain, whole)
        if depends(contraction.left, lane):
            return None
        if lane.extent > 1 and not depends(contraction.right, lane):
            return None
        if lane.extent == 1 and any(depends(contraction.right, a) for a in contraction.spatial):
            return None  # one pixel, channels first
        contraction = fuse_rows(contraction, (group, lane), sch.mod["main"].params)
        row = choose_rows(contraction, lane, contraction.left, contraction.right)
        if row is lane:
            return None
        tile = inputs.tile(row, lane, contraction.steps)
        panel = inputs.panel(plain, whole, tile.lanes, group)
        if panel is None and lane.extent > 1 and not unit_stride(contraction.right, lane):
            panel = copied_panel(contraction, lane, tile.lanes)
        view = View(
            row=row,
            lane=lane,
            outer=_outer(contraction, group, row, lane),
            tile=tile,
            lanes_first=panels_first(contraction, tile, config),
            panel=panel,
        )
        return emit(sch, contraction, view, machine.cores)


class ChannelsFirst:
    """Tiles for convolutions whose pixels lie side by side in the output.

    Either the pixels of a row are the lanes and output channels the rows of the tile, or, where
    rows of pixels are short or strided, the other way round, with stores that scatter.
    """

    name = "channels_first"

    def apply(
        self, sch: s_tir.Schedule, facts: FunctionFacts, config: CpuRuleConfig, machine: Machine
    ) -> s_tir.Schedule | None:
        """See ``Template``."""
        plain = match_contraction(sch, facts)
        if plain is None or depends(plain.right, plain.spatial[-1]):
            return None
        inputs = _Inputs(sch, facts.constants, config, machine, facts.decision.weight_dtype)
        channels = [a for a in plain.spatial if depends(plain.right, a)]
        if len(channels) > 1:
            return None
        whole = channels[0] if channels else plain.spatial[1 if len(plain.spatial) > 2 else 0]
        contraction, group, channel = _split(plain, whole)
        contraction = fuse_rows(contraction, (group, channel), sch.mod["main"].params)
        views = [
            self._pixel_lanes(inputs, plain, contraction, group, channel, whole),
            self._channel_lanes(inputs, plain, contraction, group, channel, whole),
        ]
        candidates = [view for view in views if view is not None]
        if not candidates:
            return None
        _, view = min(candidates, key=lambda pair: pair[0])
        return emit(sch, contraction, view, machine.cores)

    def _pixel_lanes(
        self,
        inputs: _Inputs,
        plain: Contraction,
        contraction: Contraction,
        group: Axis | None,
        channel: Axis,
        whole: Axis,
    ) -> tuple[float, View] | None:
        lane = contraction.spatial[-1]
        if lane is channel:
            return None
        shared = not depends(contraction.left, channel)
        row = (
            channel
            if shared
            else choose_rows(contraction, lane, contraction.left, contraction.right)
        )
        if row is lane:
            return None
        tile = inputs.tile(row, lane, contraction.steps)
        outer = _outer(contraction, group, row, lane)
        panel = inputs.panel(plain, whole, tile.rows, group, by_rows=True) if shared else None
        view = View(
            row=row,
            lane=lane,
            outer=outer,
            tile=tile,
            lanes_first=not shared
            or lanes_first(
                contraction,
                tile,
                contraction.left,
                contraction.right,
                inputs.config,
                inputs.machine,
            ),
            panel=panel,
        )
        cost = cycles(tile, contraction.steps, 2.0) * _iterations(outer)
        if not unit_stride(contraction.left, lane):
            cost *= _GATHER_SLOWDOWN
        return cost, view

    def _channel_lanes(
        self,
        inputs: _Inputs,
        plain: Contraction,
        contraction: Contraction,
        group: Axis | None,
        channel: Axis,
        whole: Axis,
    ) -> tuple[float, View] | None:
        if depends(contraction.left, channel):
            return None
        row = choose_rows(contraction, channel, contraction.left, contraction.right)
        if row is channel:
            return None
        store_cost = _SCATTER_COST_PER_LANE * inputs.machine.lanes
        tile = inputs.tile(row, channel, contraction.steps, store_cost, _SCATTER_ACCUMULATORS)
        panel = inputs.panel(plain, whole, tile.lanes, group)
        if panel is None:
            panel = copied_panel(contraction, channel, tile.lanes)
        outer = _outer(contraction, group, row, channel)
        view = View(
            row=row,
            lane=channel,
            outer=outer,
            tile=tile,
            lanes_first=lanes_first(
                contraction,
                tile,
                contraction.right,
                contraction.left,
                inputs.config,
                inputs.machine,
            ),
            panel=panel,
        )
        return cycles(tile, contraction.steps, store_cost) * _iterations(outer), view


def _iterations(axes: tuple[Axis, ...]) -> int:
    total = 1
    for axis in axes:
        total *= axis.extent
    return total


TEMPLATES = (ChannelsLast(), ChannelsFirst())
