"""A schedule rule for CPUs: good loops for every kernel of a network, without search."""

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.rule import RULE_VERSION, CpuScheduleRule, Unscheduled
from tvm_costmodel.compilers.cpu_rule.schedule_pass import schedule_module

__all__ = ["RULE_VERSION", "CpuRuleConfig", "CpuScheduleRule", "Unscheduled", "schedule_module"]
