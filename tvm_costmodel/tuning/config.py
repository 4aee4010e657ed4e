"""Settings of a tuning: budgets, tolerance, search strategy, and where results go."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tuning.search.search import BUDGET, STRATEGIES

if TYPE_CHECKING:
    from tvm_costmodel.predictors.loading import Predictor
    from tvm_costmodel.profiling.measuring.record import MeasurementConfig
    from tvm_costmodel.profiling.store.store import Store
    from tvm_costmodel.tuning.scoring.scorer import Scorer

STORE = "measurements.db"
"""The store in an output directory, where none is named."""

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
        predictor: What scores candidates, see `tvm_costmodel.tuning.scoring.loading.load_scorer`.
        store: Where measurements and the decisions are kept; in ``output`` when only that is
            given, nowhere when neither is.
        output: Directory for library, report and candidate.
        cores: Cores to measure on; the last ones of this machine where None.
        measurement: How a label is taken; the default protocol where None.
        force: Tune and measure anew, even where the store has the results already.
        progress: Show a bar on standard error.
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
    predictor: Predictor | Scorer | str | os.PathLike[str] | None = None
    store: Store | str | os.PathLike[str] | None = None
    output: str | os.PathLike[str] | None = None
    cores: Sequence[int] | None = None
    measurement: MeasurementConfig | None = None
    force: bool = False
    progress: bool = False

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

    @property
    def place(self) -> Store | str | os.PathLike[str] | None:
        """The store, or where it is; None where nothing is kept."""
        if self.store is not None or self.output is None:
            return self.store
        return Path(self.output) / STORE

    def shares(self) -> list[int]:
        """Measurements of each round."""
        rounds = min(self.rounds, self.measure)
        return [self.measure // rounds + (i < self.measure % rounds) for i in range(rounds)]
