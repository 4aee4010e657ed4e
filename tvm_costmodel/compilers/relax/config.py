"""The graph-level decisions of a Relax build, and the schedule rule's parameters."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from tvm_costmodel.compilers.cpu_rule import RULE_VERSION, CpuRuleConfig
from tvm_costmodel.compilers.cpu_rule.plan.kernel_decision import KernelDecision
from tvm_costmodel.compilers.relax.passes.layout import KERNEL_LAYOUTS
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph_passes.tunable_ops import STAGES
from tvm_costmodel.json_config import JsonConfig

# Part of ``PipelineConfig.key``, which names the format of that key: it stays. What is compiled is
# versioned by pass, see ``tvm_costmodel.compilers.components``.
PIPELINE_VERSION = 1

_PRECISIONS = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class PipelineConfig(JsonConfig):
    """The graph-level decisions of a build, and the schedule rule's parameters.

    Attributes:
        layout: Layout that convolutions run in, ``NHWC`` (with HWIO weights) or ``NCHW`` (OIHW).
        fuse: Whether operators are fused into kernels.
        fold_batch_norm: Whether batch norm and channel-wise scales move into convolution weights.
        rule: Parameters of the CPU schedule rule.
        fuse_depth: Most operators of one kernel; 0 for no limit.
        merge_matmuls: Whether matrix products of one input with constant weights become one
            and slices of its result; the decision for the first one's kernel is that of the whole.
        cancel_transposes: Whether transposes move through element-wise operators until they meet
            their inverse.
        stage_layouts: Layouts of the convolutions of single stages where that is not ``layout``,
            see ``tunable_ops.stages_of``; ascending stages.
        precision: ``float16`` stores what convolutions and matrix products read in half precision,
            and computes in single precision; ``float32`` stores all as it is.
        kernels: Decisions for single convolutions and matrix products, each with the operator's
            id in the graph that ``from_relax`` reads from the module; ascending ids.
    """

    title = "the pipeline's config"
    stored_names: ClassVar = {"merge_matmuls": "join_products"}  # keys are hashes of stored names

    layout: str = "NHWC"
    fuse: bool = True
    fold_batch_norm: bool = True
    rule: CpuRuleConfig = dataclasses.field(default_factory=CpuRuleConfig)
    fuse_depth: int = 0
    merge_matmuls: bool = False
    cancel_transposes: bool = True
    stage_layouts: tuple[tuple[int, str], ...] = ()
    precision: str = "float32"
    kernels: tuple[tuple[int, KernelDecision], ...] = ()

    def __post_init__(self) -> None:
        """Checks the fields and brings stages and kernels into order.

        Raises:
            ConfigError: A field is out of range.
        """
        for layout in (self.layout, *(layout for _, layout in self.stage_layouts)):
            if layout not in KERNEL_LAYOUTS:
                raise ConfigError(f"layout is {layout!r}; use one of {', '.join(KERNEL_LAYOUTS)}")
        if self.precision not in _PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}; use one of {_PRECISIONS}")
        if not 0 <= self.fuse_depth <= 256:
            raise ConfigError(f"fuse_depth is {self.fuse_depth}; use 1 to 256, or 0 for no limit")
        ordered = sorted(dict(self.kernels).items())
        if len(ordered) != len(self.kernels):
            raise ConfigError("kernels names an operator twice; name each at most once")
        tuned = tuple((i, decision) for i, decision in ordered if decision != KernelDecision())
        object.__setattr__(self, "kernels", tuned)
        stages = sorted(dict(self.stage_layouts).items())
        if len(stages) != len(self.stage_layouts) or any(not 1 <= n <= STAGES for n, _ in stages):
            raise ConfigError(
                f"stage_layouts is for stages {[n for n, _ in self.stage_layouts]}; name each of "
                f"1 to {STAGES} at most once"
            )
        departing = tuple((n, layout) for n, layout in stages if layout != self.layout)
        object.__setattr__(self, "stage_layouts", departing)

    @property
    def key(self) -> str:
        """16 hexadecimal characters that change with any field and with the key's format."""
        versions = {"pipeline": PIPELINE_VERSION, "rule": RULE_VERSION}
        text = json.dumps({"config": self.to_dict(), "versions": versions}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values; later additions only where they are used."""
        fields: dict[str, Any] = {
            "layout": self.layout,
            "fuse": self.fuse,
            "fold_batch_norm": self.fold_batch_norm,
            "rule": self.rule.to_dict(),
        }
        if self.fuse_depth:
            fields["fuse_depth"] = self.fuse_depth
        if self.merge_matmuls:
            fields["join_products"] = True
        if not self.cancel_transposes:
            fields["cancel_transposes"] = False
        if self.stage_layouts:
            fields["stage_layouts"] = {str(n): layout for n, layout in self.stage_layouts}
        if self.precision != "float32":
            fields["precision"] = self.precision
        if self.kernels:
            fields["kernels"] = {str(i): decision.to_dict() for i, decision in self.kernels}
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> PipelineConfig:
        """Builds a config from ``to_dict``'s result; absent fields take their defaults.

        Raises:
            ConfigError: A key is unknown or a field is out of range.
        """
        values = cls._values(fields)
        if isinstance(values.get("rule"), Mapping):
            values["rule"] = CpuRuleConfig.from_dict(values["rule"])
        if isinstance(values.get("stage_layouts"), Mapping):
            stages = values["stage_layouts"].items()
            values["stage_layouts"] = tuple((int(n), layout) for n, layout in stages)
        if isinstance(values.get("kernels"), Mapping):
            values["kernels"] = tuple(
                (int(i), KernelDecision.from_dict(decision))
                for i, decision in values["kernels"].items()
            )
        return cls(**values)
