"""What tuning knows of each compiler: its decisions, and what a predictor sees of them.

To tune for another compiler, add an entry to `BACKENDS`, and the predictors that read its decisions
to `tvm_costmodel.predictors.registry`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tuning.annotate.relax import Annotator
from tvm_costmodel.tuning.annotate.relay import RelayAnnotator
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decisions import DECISIONS, Decision
from tvm_costmodel.tuning.space.relay_decisions import RELAY_DECISIONS


class GraphAnnotator(Protocol):
    """Annotates candidates of one network."""

    def annotate(self, candidate: Candidate) -> OpGraph:
        """The graph as a candidate's decisions leave it, with what a predictor reads of them."""


@dataclass(frozen=True)
class TuningBackend:
    """A compiler's part of tuning.

    Attributes:
        decisions: Every decision that can be taken, in the order of reports.
        annotator: Makes the annotator of a network's graph before any pass.
        space_limits: Arguments of ``DecisionSpace.for_graph`` that follow from a TVM target.
    """

    decisions: tuple[Decision, ...]
    annotator: Callable[[OpGraph], GraphAnnotator]
    space_limits: Callable[[Any], Mapping[str, Any]]


def _relax_space_limits(target: Any) -> Mapping[str, Any]:
    from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig
    from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine
    from tvm_costmodel.compilers.relax.target import has_half_arithmetic

    lanes = Machine.from_target(target, CpuRuleConfig()).lanes
    return {"vector_bits": 32 * lanes, "half_arithmetic": has_half_arithmetic(target)}


def _no_space_limits(target: Any) -> Mapping[str, Any]:
    return {}


BACKENDS: Mapping[str, TuningBackend] = {
    "relax": TuningBackend(DECISIONS, Annotator, _relax_space_limits),
    "relay": TuningBackend(RELAY_DECISIONS, RelayAnnotator, _no_space_limits),
}
"""By ``Compiler.name``."""


def backend_of(compiler: str) -> TuningBackend:
    """The entry of a compiler in `BACKENDS`.

    Raises:
        ConfigError: There is none.
    """
    if compiler not in BACKENDS:
        raise ConfigError(f"no decisions are known for {compiler!r}; use {' or '.join(BACKENDS)}")
    return BACKENDS[compiler]
