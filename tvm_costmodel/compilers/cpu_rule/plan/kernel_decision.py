"""The decision for one kernel, where it differs from the rule's own choice."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from tvm_costmodel.compilers.cpu_rule.config import CpuRuleConfig
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.json_config import JsonConfig

# Block annotation of the sum in a PrimFunc: JSON of a decision's fields.
KERNEL_DECISION = "tvm_costmodel.kernel_decision"

ALGORITHMS = ("direct", "im2col", "winograd2", "winograd4")
_WEIGHT_DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True)
class KernelDecision(JsonConfig):
    """The algorithm and tile parameters of one convolution's or matrix product's kernel.

    Zero, ``auto`` and the other defaults leave a choice to the rule.

    Attributes:
        algorithm: ``direct``; ``im2col``, a copy of all input patches and a matrix product;
            ``winograd2`` and ``winograd4``, Winograd's minimal filtering in tiles of 2x2 outputs
            (3x3 and 5x5 kernels) and 4x4 outputs (3x3 kernels).
        accumulators: See ``CpuRuleConfig``.
        vectors_per_tile: See ``CpuRuleConfig``.
        loop_order: See ``CpuRuleConfig``.
        vector_bits: See ``CpuRuleConfig``.
        weight_dtype: Type in which constant weights are stored; sums stay in float32.
        tile_block: Winograd tiles, or im2col pixels, that go through all stages together.
    """

    title = "a kernel's decision"

    algorithm: str = "direct"
    accumulators: int = 0
    vectors_per_tile: int = 0
    loop_order: str = "auto"
    vector_bits: int = 0
    weight_dtype: str = "float32"
    tile_block: int = 0

    def __post_init__(self) -> None:
        """Checks every field once.

        Raises:
            ConfigError: A field is out of range.
        """
        choices = {"algorithm": ALGORITHMS, "weight_dtype": _WEIGHT_DTYPES}
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                raise ConfigError(f"{field} is {value!r}; use one of {', '.join(allowed)}")
        if not 0 <= self.tile_block <= 4096:
            raise ConfigError(f"tile_block is {self.tile_block}; use 1 to 4096, or 0 to choose")
        self.config(CpuRuleConfig())

    def config(self, base: CpuRuleConfig) -> CpuRuleConfig:
        """The rule's parameters, overridden by the ones that are set here."""
        overrides: dict[str, Any] = {}
        for field in ("accumulators", "vectors_per_tile", "vector_bits"):
            if getattr(self, field):
                overrides[field] = getattr(self, field)
        if self.loop_order != "auto":
            overrides["loop_order"] = self.loop_order
        return dataclasses.replace(base, **overrides) if overrides else base

    def to_dict(self) -> dict[str, int | str]:
        """Returns the fields that differ from their defaults."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }

    def to_json(self) -> str:
        """Text of the block annotation."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> KernelDecision:
        """Reads the block annotation's text."""
        return cls.from_dict(json.loads(text))


DEFAULT_DECISION = KernelDecision()
