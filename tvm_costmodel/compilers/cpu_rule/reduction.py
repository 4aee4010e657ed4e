"""Templates for reductions and what is built of them: mean, softmax, layer norm."""

from __future__ import annotations

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.facts import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.machine import Machine
from tvm_costmodel.compilers.cpu_rule.rows import schedule_rows


class RowReduction:
    """Runs every block of a row after the other, see ``rows``."""

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
