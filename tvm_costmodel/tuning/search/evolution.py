"""The evolutionary strategy: the fastest candidates so far breed the next generation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.tuning.search.ledger import BATCH, Ledger, rank
from tvm_costmodel.tuning.search.local_search import local_search
from tvm_costmodel.tuning.search.seeding import random_candidates, seed_population
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

_PARENTS = 64
_PATIENCE = 8  # generations without a better candidate
_FRESH = 0.1  # share of a generation that is random, not bred


def evolve(space: DecisionSpace, scorer: Scorer, ledger: Ledger, rng: np.random.Generator) -> None:
    """Breeds generations until that stops paying, then searches around the best."""
    seed_population(space, scorer, ledger)
    ledger.add(itertools.islice(random_candidates(space, ledger, rng), BATCH))
    waited, best = 0, rank(ledger.best(1)[0])
    while not ledger.spent and waited < _PATIENCE:
        parents = [scored.candidate for scored in ledger.best(_PARENTS)]
        ledger.add(_generation(space, parents, ledger, rng))
        current = rank(ledger.best(1)[0])
        waited = 0 if current < best else waited + 1
        best = current
    local_search(space, space.classes, 1, ledger)


def _generation(
    space: DecisionSpace,
    parents: Sequence[Candidate],
    ledger: Ledger,
    rng: np.random.Generator,
) -> Iterator[Candidate]:
    """Crossed, mutated and random candidates; the better a parent ranks, the more it breeds."""
    fresh = random_candidates(space, ledger, rng)
    ranks = np.minimum(rng.geometric(4.0 / _PARENTS, (BATCH, 2)), len(parents)) - 1
    kinds, changes = rng.random(BATCH), rng.geometric(0.5, BATCH)
    for (one, other), kind, count in zip(ranks.tolist(), kinds, changes.tolist(), strict=True):
        if kind < _FRESH:
            yield next(fresh)
            continue
        if kind < 0.5 and one != other:
            child = space.cross(parents[one], parents[other], rng)
        else:
            child = space.mutate(parents[one], rng, count)
        yield child if ledger.takes(child) else space.under(child, parents[one])
