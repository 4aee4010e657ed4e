"""Templates, to come."""

from tvm_costmodel.compilers.cpu_rule.template import Template

TEMPLATES: tuple[Template, ...] = ()
