"""Compiling Relay modules for CPUs, for TVM up to 0.19: the public names of this package.

It has what `tvm_costmodel.compilers.relax` has. Names load when they are first used, and where TVM
has no Relay those that need it say so.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tvm_costmodel.compilers.build_result import Difference, KernelUse, compare_outputs
from tvm_costmodel.compilers.relay.config import RELAY_PIPELINE_VERSION, RelayConfig
from tvm_costmodel.tvm_version import require_relay

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.relay.build_module import BuildResult, apply_passes, build
    from tvm_costmodel.compilers.relay.target import cpu_target, load_library
    from tvm_costmodel.compilers.relay.verification import input_specs, random_inputs, run, verify

PIPELINE_VERSION = RELAY_PIPELINE_VERSION
RULE_VERSION = 0
"""There is no schedule rule: Relay's own strategies schedule."""

PipelineConfig = RelayConfig

_MODULES = {
    "BuildResult": "build_module",
    "apply_passes": "build_module",
    "build": "build_module",
    "cpu_target": "target",
    "input_specs": "verification",
    "load_library": "target",
    "random_inputs": "verification",
    "run": "verification",
    "verify": "verification",
}
"""Module of this package that each lazily loaded name is taken from."""

__all__ = [
    "PIPELINE_VERSION",
    "RULE_VERSION",
    "BuildResult",
    "Difference",
    "KernelUse",
    "PipelineConfig",
    "RelayConfig",
    "apply_passes",
    "build",
    "compare_outputs",
    "cpu_target",
    "default_config",
    "input_specs",
    "load_library",
    "random_inputs",
    "run",
    "verify",
]


def default_config(mod: tvm.IRModule, target: tvm.target.Target) -> RelayConfig:
    """Returns the graph-level decisions that serve most networks on the target.

    Args:
        mod: The network.
        target: What it will run on.
    """
    del mod, target
    return RelayConfig()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_relay()
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
