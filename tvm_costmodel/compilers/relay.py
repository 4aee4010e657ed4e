"""Compiling Relay modules for CPUs, for TVM up to 0.19: the front door.

It has what `tvm_costmodel.compilers.relax` has, and importing it where TVM has no Relay says so.
"""

from __future__ import annotations

from tvm_costmodel.frontends.tvm_generation import require_relay

require_relay()

# Only once it is sure that there is a Relay to import.
import tvm  # noqa: E402

from tvm_costmodel.compilers.relay_build import BuildResult, build, decide  # noqa: E402
from tvm_costmodel.compilers.relay_config import (  # noqa: E402
    RELAY_PIPELINE_VERSION,
    RelayConfig,
)
from tvm_costmodel.compilers.relay_target import cpu_target, load_library  # noqa: E402
from tvm_costmodel.compilers.relay_verify import (  # noqa: E402
    input_specs,
    random_inputs,
    run,
    verify,
)
from tvm_costmodel.compilers.results import (  # noqa: E402
    Difference,
    KernelUse,
    compare_outputs,
)

PIPELINE_VERSION = RELAY_PIPELINE_VERSION
RULE_VERSION = 0
"""There is no schedule rule: Relay's own strategies schedule."""

PipelineConfig = RelayConfig

__all__ = [
    "PIPELINE_VERSION",
    "RULE_VERSION",
    "BuildResult",
    "Difference",
    "KernelUse",
    "PipelineConfig",
    "RelayConfig",
    "build",
    "compare_outputs",
    "cpu_target",
    "decide",
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
