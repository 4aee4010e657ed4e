"""The interface of schedule templates."""

from __future__ import annotations

from typing import Protocol

from tvm import s_tir

from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import FunctionFacts
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine


class Template(Protocol):
    """Schedules one kind of PrimFunc."""

    name: str

    def apply(
        self,
        sch: s_tir.Schedule,
        facts: FunctionFacts,
        config: CpuRuleConfig,
        machine: Machine,
    ) -> s_tir.Schedule | None:
        """Schedules the function, or declines.

        Args:
            sch: A fresh schedule of the function; it belongs to this call and may be left
                half-changed when the template declines or raises.
            facts: What the function computes.
            config: Tile parameters.
            machine: The CPU to schedule for.

        Returns:
            The finished schedule (``sch`` or another one), or None where the template does not fit.

        Raises:
            tvm.error.TVMError: A schedule primitive refused; the rule takes that as "does not fit"
                and reports the text if no other template fits.
        """
        ...
