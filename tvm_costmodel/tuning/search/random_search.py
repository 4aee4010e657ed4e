"""The random strategy: scores random candidates, as a baseline to compare guided searches with."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.tuning.search.ledger import BATCH, Ledger
from tvm_costmodel.tuning.search.seeding import MOST_NETWORKS, random_candidates
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer


def score_random(
    space: DecisionSpace, scorer: Scorer, ledger: Ledger, rng: np.random.Generator
) -> None:
    """Scores random candidates until the budget is spent or a whole batch holds nothing new."""
    ledger.most_networks = MOST_NETWORKS
    candidates = random_candidates(space, ledger, rng)
    while batch := list(itertools.islice(candidates, BATCH)):
        before = len(ledger.met)
        ledger.add(batch)
        if ledger.spent or len(ledger.met) == before:
            return
