"""Template for reductions and operators built from them: mean, softmax, layer norm."""

from __future__ import annotations

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.emit.row_reductions import schedule_rows
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine


class RowReduction:
    """Runs every block of a row after the other, see ``row_reductions``."""

    name = "row_reduction"

    def apply(
        self,
        sch: s_tir.Schedule,
        facts: FunctionFacts,
        config: CpuRuleConfig,
        machine: Machine,
    ) -> s_tir.Schedule | None:
        """See Template."""
        return schedule_rows(sch, facts, machine)


TEMPLATES = (RowReduction(),)
