"""Template for pooling."""

from __future__ import annotations

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.row_reductions import schedule_rows
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine


class Pooling:
    """Slides a window: strips of channels stay in registers, padding shortens the window's loops.

    Channels-first pooling reduces each output element on its own.
    """

    name = "pooling"

    def apply(
        self,
        sch: s_tir.Schedule,
        facts: FunctionFacts,
        config: CpuRuleConfig,
        machine: Machine,
    ) -> s_tir.Schedule | None:
        """See Template."""
        if len(facts.reductions) != 1:
            return None
        kinds = facts.reductions[0].kinds
        if not kinds.startswith("SSS") or not kinds.endswith("RR"):
            return None
        return schedule_rows(sch, facts, machine)


TEMPLATES = (Pooling(),)
