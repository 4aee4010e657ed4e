"""The schedule rule: tries templates in order, and records the functions that none of them fits."""

from __future__ import annotations

import dataclasses
import logging

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base.schedule_rule import ScheduleRule

from tvm_costmodel.compilers.cpu_rule.analysis.prim_func import (
    FUNCTION_NAME,
    FunctionFacts,
    analyse,
)
from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
from tvm_costmodel.compilers.cpu_rule.templates import (
    conv,
    depthwise,
    elementwise,
    im2col,
    pooling,
    reduction,
    winograd,
)
from tvm_costmodel.compilers.cpu_rule.templates.base import Template
from tvm_costmodel.compilers.cpu_rule.templates.fallback import schedule_plain
from tvm_costmodel.errors import BuildError

logger = logging.getLogger(__name__)

# Part of ``PipelineConfig.key``, which names the format of that key: it stays. What code is made is
# versioned by template, see ``tvm_costmodel.compilers.components``.
RULE_VERSION = 1

# In the order in which they are tried.
TEMPLATES: tuple[Template, ...] = (
    *winograd.TEMPLATES,
    *im2col.TEMPLATES,
    *depthwise.TEMPLATES,
    *conv.TEMPLATES,
    *pooling.TEMPLATES,
    *reduction.TEMPLATES,
    *elementwise.TEMPLATES,
)


@dataclasses.dataclass(frozen=True)
class Unscheduled:
    """A function that no template fits.

    Attributes:
        name: The function's name.
        reason: Why the templates do not fit.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


class CpuScheduleRule(ScheduleRule):
    """Schedules PrimFuncs for a CPU without search.

    Use it through ``schedule_module``, or with ``tvm.s_tir.dlight.ApplyDefaultSchedule`` after
    ``FuseTIR`` inside a target's scope; the latter cannot pack constant weights.

    Attributes:
        config: Tile parameters.
        unscheduled: Functions that no template fits, in the order they came; they got plain vector
            and parallel loops where possible.
        template_of: For each function, the name of the template that scheduled it.
        vector_math_of: Names of the functions that vector arithmetic replaced in a function.
        periodic: Functions with reads that repeat along a loop, see ``emit.periods``.
    """

    def __init__(self, config: CpuRuleConfig | None = None) -> None:
        self.config = config or CpuRuleConfig()
        self.unscheduled: list[Unscheduled] = []
        self.template_of: dict[str, str] = {}
        self.vector_math_of: dict[str, frozenset[str]] = {}
        self.periodic: set[str] = set()

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | None:
        """Schedules one function.

        Args:
            func: A PrimFunc made of blocks.
            target: An LLVM target.
            tunable: Ignored; the rule makes one schedule.

        Returns:
            The schedule; None only where not even plain loops are possible.
        """
        if not isinstance(func, tirx.PrimFunc) or target.kind.name != "llvm":
            return None
        try:
            base = s_tir.Schedule(func, error_render_level="fast")
            facts = analyse(base, self._name(func))
        except Exception as error:  # a function without a root block, e.g. already lowered
            self._report(self._name(func), f"not made of blocks ({_first_line(error)})")
            return None
        config = facts.decision.config(self.config)
        machine = Machine.from_target(target, config)
        reasons = []
        untouched = base.mod["main"]
        for template in TEMPLATES:
            try:
                sch = template.apply(base, facts, config, machine)
            except Exception as error:
                reasons.append(f"{template.name}: {type(error).__name__}: {_first_line(error)}")
                sch = None
            if sch is not None:
                self.template_of[facts.name] = template.name
                _check_decision(facts, template.name, reasons)
                return sch
            if not base.mod["main"].same_as(untouched):
                base = s_tir.Schedule(func, error_render_level="fast")
                untouched = base.mod["main"]
        return self._plain(base, facts, machine, "; ".join(reasons) or "no template fits")

    def _plain(
        self, sch: s_tir.Schedule, facts: FunctionFacts, machine: Machine, reason: str
    ) -> s_tir.Schedule | None:
        self._report(facts.name, reason)
        try:
            return schedule_plain(sch, facts, machine)
        except Exception as error:
            logger.debug("plain loops refused for %s: %s", facts.name, error)
            return None

    def _report(self, name: str, reason: str) -> None:
        self.unscheduled.append(Unscheduled(name, reason))
        logger.warning("no schedule template takes %s (%s)", name, reason)

    def _name(self, func: tirx.PrimFunc) -> str:
        attrs = func.attrs or {}
        name = attrs.get("global_symbol") or attrs.get(FUNCTION_NAME)
        return str(name) if name else f"function_{len(self.template_of) + len(self.unscheduled)}"


def _check_decision(facts: FunctionFacts, template: str, reasons: list[str]) -> None:
    """Refuses a schedule that does not follow the decision.

    Raises:
        BuildError: The kernel runs another algorithm than the decision names.
    """
    algorithm = facts.decision.algorithm
    if algorithm != "direct" and not algorithm.startswith(template):
        reason = "; ".join(reasons) or "its kernel size or stride does not fit"
        raise BuildError(
            f"{facts.name} cannot run as {algorithm} ({reason}); "
            "leave the algorithm of this operator at direct"
        )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
