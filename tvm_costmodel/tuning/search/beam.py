"""The beam strategy: decides one class of operators after the other on several candidates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.tuning.search.ledger import Ledger
from tvm_costmodel.tuning.search.local_search import local_search
from tvm_costmodel.tuning.search.seeding import seed_population
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

_WIDTH = 16


def beam_search(
    space: DecisionSpace, scorer: Scorer, ledger: Ledger, rng: np.random.Generator
) -> None:
    """Decides class by class, those of the largest effect first.

    The candidates of the beam differ in network decisions: one that rules out decisions about
    operators looks good only until these are taken.
    """
    seed_population(space, scorer, ledger)
    effects = []
    best = ledger.best(1)[0]
    for part in space.classes:
        variants = ledger.add(space.varied(best.candidate, part))
        effects.append(min((s.latency_s for s in variants), default=math.inf))
    order = [space.classes[int(i)] for i in np.argsort(effects, kind="stable")]
    local_search(space, order, _WIDTH, ledger)
