"""Parameters of the CPU schedule rule."""

from __future__ import annotations

import dataclasses

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.json_config import JsonConfig

_LOOP_ORDERS = ("auto", "channels", "pixels")


@dataclasses.dataclass(frozen=True)
class CpuRuleConfig(JsonConfig):
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

    title = "the CPU rule's config"

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
