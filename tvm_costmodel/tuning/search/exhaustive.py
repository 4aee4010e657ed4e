"""The exhaustive strategy: scores every candidate of a small space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.tuning.search.ledger import Ledger
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer


def score_all(
    space: DecisionSpace, scorer: Scorer, ledger: Ledger, rng: np.random.Generator
) -> None:
    """Scores all candidates that decide equal kernels together."""
    ledger.add(space.candidates())
