"""Settings of a tuning: budgets, tolerance and search strategy."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tuning.search.search import BUDGET, STRATEGIES

MEASURE = 8
"""Candidates that are measured by default."""


@dataclass(frozen=True)
class TuneSettings:
    """How much a tuning may spend, and on what.

    Attributes:
        measure: Candidates to measure at most; the default build and the confirmation of the
            winner come on top.
        rounds: Rounds that the measurements are spread over; the results of one round choose the
            candidates of the next.
        tolerance: Largest difference of an output from the default build's, relative to the
            largest magnitude of it.
        candidates: Candidates that a search scores at most.
        strategy: Search strategy, see `tvm_costmodel.tuning.search.search.STRATEGIES`.
        adapt: Whether the scorer learns from each round before the next search.
        minutes: Start no further round of measurements after this time; no limit where None.
        blocks: Timed blocks of each build in a paired measurement; the protocol's where None.
        seed: Seed of the search.
    """

    measure: int = MEASURE
    rounds: int = 2
    tolerance: float = 1e-3
    candidates: int = BUDGET
    strategy: str = "auto"
    adapt: bool = False
    minutes: float | None = None
    blocks: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks the fields.

        Raises:
            ConfigError: A field is out of range.
        """
        for name in ("measure", "rounds", "candidates", "blocks"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; use 1 or more")
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise ConfigError(f"tolerance is {self.tolerance}; use a positive number such as 1e-3")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes is {self.minutes}; use a number above 0")
        if self.strategy != "auto" and self.strategy not in STRATEGIES:
            raise ConfigError(
                f"unknown search strategy {self.strategy!r}; use auto, {', '.join(STRATEGIES)}"
            )

    def shares(self) -> list[int]:
        """Measurements of each round."""
        rounds = min(self.rounds, self.measure)
        return [self.measure // rounds + (i < self.measure % rounds) for i in range(rounds)]
