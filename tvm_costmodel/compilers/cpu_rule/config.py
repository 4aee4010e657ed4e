"""Parameters of the CPU schedule rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tvm_costmodel.errors import ConfigError, require_known

_LOOP_ORDERS = ("auto", "channels", "pixels")


@dataclasses.dataclass(frozen=True)
class CpuRuleConfig:
    """Tile parameters of the rule; zero and ``auto`` mean "choose by shape and machine".

    Attributes:
        vector_bits: Width of a vector in bits; 0 takes the target's widest.
        accumulators: Vector registers that hold partial sums in a register tile; 0 chooses.
        vectors_per_tile: Vectors along the vectorised axis of a register tile; 0 chooses.
        loop_order: Which loops are outermost: ``channels`` (each block of weights is used for
            every pixel before the next), ``pixels`` (the reverse), or ``auto``.
        pack_weights: Whether constant weights are re-ordered into contiguous panels while the
            network is built.
        parallel: Whether outer loops run on all of the target's cores.
    """

    vector_bits: int = 0
    accumulators: int = 0
    vectors_per_tile: int = 0
    loop_order: str = "auto"
    pack_weights: bool = True
    parallel: bool = True

    def __post_init__(self) -> None:
        """Checks every field once.

        Raises:
            ConfigError: A field is out of range.
        """
        if self.vector_bits not in (0, 128, 256, 512):
            raise ConfigError(
                f"vector_bits is {self.vector_bits}; use 128, 256, 512, or 0 for the target's width"
            )
        for field, limit in (("accumulators", 64), ("vectors_per_tile", 8)):
            value = getattr(self, field)
            if not 0 <= value <= limit:
                raise ConfigError(f"{field} is {value}; use 1 to {limit}, or 0 to choose by shape")
        if self.loop_order not in _LOOP_ORDERS:
            raise ConfigError(
                f"loop_order is {self.loop_order!r}; use one of {', '.join(_LOOP_ORDERS)}"
            )

    def to_dict(self) -> dict[str, int | str | bool]:
        """Returns the fields as JSON-able values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> CpuRuleConfig:
        """Builds a config from ``to_dict``'s result; absent fields take their defaults.

        Raises:
            ConfigError: A key is unknown or a field is out of range.
        """
        require_known(
            fields, [field.name for field in dataclasses.fields(cls)], "the CPU rule's config"
        )
        return cls(**fields)
