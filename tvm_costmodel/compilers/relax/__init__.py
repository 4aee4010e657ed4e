"""Compiling Relax modules for CPUs, for TVM from 0.20 on: the public names of this package.

It has what `tvm_costmodel.compilers.relay` has. Names load when they are first used, so that
importing this package needs no TVM; where TVM or its Relax is missing, those that need it say so.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tvm_costmodel.compilers.build_result import Difference, KernelUse, compare_outputs
from tvm_costmodel.tvm_version import require_relax

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.cpu_rule import RULE_VERSION, CpuRuleConfig
    from tvm_costmodel.compilers.relax.build_module import BuildResult, build, lower, pipeline
    from tvm_costmodel.compilers.relax.config import PIPELINE_VERSION, PipelineConfig
    from tvm_costmodel.compilers.relax.target import cpu_target, has_half_arithmetic
    from tvm_costmodel.compilers.relax.verification import (
        input_specs,
        random_inputs,
        run,
        verify,
    )

_MODULES = {
    "PIPELINE_VERSION": "relax.config",
    "RULE_VERSION": "cpu_rule",
    "BuildResult": "relax.build_module",
    "CpuRuleConfig": "cpu_rule",
    "PipelineConfig": "relax.config",
    "build": "relax.build_module",
    "cpu_target": "relax.target",
    "has_half_arithmetic": "relax.target",
    "input_specs": "relax.verification",
    "lower": "relax.build_module",
    "pipeline": "relax.build_module",
    "random_inputs": "relax.verification",
    "run": "relax.verification",
    "verify": "relax.verification",
}
"""Module of `tvm_costmodel.compilers` that each lazily loaded name is taken from."""

__all__ = [
    "PIPELINE_VERSION",
    "RULE_VERSION",
    "BuildResult",
    "CpuRuleConfig",
    "Difference",
    "KernelUse",
    "PipelineConfig",
    "build",
    "compare_outputs",
    "cpu_target",
    "default_config",
    "has_half_arithmetic",
    "input_specs",
    "lower",
    "pipeline",
    "random_inputs",
    "run",
    "verify",
]


def default_config(mod: tvm.IRModule, target: tvm.target.Target) -> PipelineConfig:
    """Returns the graph-level decisions that serve most networks on the target.

    Args:
        mod: The network.
        target: What it will run on.
    """
    from tvm_costmodel.compilers.relax.config import PipelineConfig

    del mod, target  # channels-last wins on every network and CPU measured so far
    return PipelineConfig()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_relax()
    value = getattr(importlib.import_module(f"tvm_costmodel.compilers.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
