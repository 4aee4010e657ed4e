"""Plain vector and parallel loops for functions that no template fits."""

from __future__ import annotations

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import (
    BlockFacts,
    FunctionFacts,
    constant_extent,
)
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine


def extent_of(sch: s_tir.Schedule, loop: s_tir.LoopRV) -> int:
    """Returns a loop's extent, -1 if it is not a constant."""
    return constant_extent(sch.get(loop).extent)


def vectorise_innermost(sch: s_tir.Schedule, loop: s_tir.LoopRV, lanes: int) -> None:
    """Splits off and vectorises the widest power-of-two part of a loop, where there is one."""
    extent = extent_of(sch, loop)
    width = lanes
    while width > 1 and (extent < width or extent % width):
        width //= 2
    if width < 2:
        return
    if extent > width:
        _, loop = sch.split(loop, [None, width])
    sch.vectorize(loop)


def parallel_outer(sch: s_tir.Schedule, loops: list[s_tir.LoopRV], machine: Machine) -> None:
    """Fuses outer spatial loops into one and runs it on all cores."""
    if machine.cores == 1 or not loops:
        return
    sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])


def schedule_plain(
    sch: s_tir.Schedule, facts: FunctionFacts, machine: Machine
) -> s_tir.Schedule | None:
    """Vectorises each element-wise block's last axis and runs outer spatial loops in parallel.

    Returns:
        The schedule, or None where a primitive refused and the function stays as it was.
    """
    for block in facts.blocks:
        if block.plain_loops and "?" not in block.kinds and block.is_static:
            _schedule_block(sch, block, machine)
    return sch


def _schedule_block(sch: s_tir.Schedule, block: BlockFacts, machine: Machine) -> None:
    loops = sch.get_loops(sch.get_sblock(block.name))
    outer = 0
    while outer < len(loops) and block.kinds[outer] == "S":
        outer += 1
    if outer == len(loops) and outer:
        vectorise_innermost(sch, loops[-1], machine.lanes)
        outer -= 1
    parallel_outer(sch, loops[:outer], machine)
