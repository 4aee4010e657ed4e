"""Where guided searches start: combinations of network decisions, and what the scorer knows best.

Decisions about the network make another graph of it, which costs as much as scoring dozens of
candidates: the layouts of its stages are tried one by one and together where they help alone, and
after that a search meets few further graphs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.tuning.search.ledger import Ledger, Scored, rank
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace
from tvm_costmodel.tuning.space.decisions import STAGE_LAYOUTS

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

MOST_NETWORKS = 256
"""Sets of network decisions that a search meets at most before it is guided by scores."""
_SEEDED = 8  # combinations of network decisions under which the scorer's optimum is taken
_RATES = (0.1, 0.3, 0.6)


def seed_population(space: DecisionSpace, scorer: Scorer, ledger: Ledger) -> None:
    """Scores the candidates that searches start from.

    These are every combination of network decisions, and the scorer's own optima under the default
    and the best of these combinations: of all decisions about operators, and of each kind alone.
    """
    networks = ledger.add(itertools.islice(_networks(space), MOST_NETWORKS))
    networks = [networks[0], *sorted(networks[1:], key=rank)[:_SEEDED]]
    _seed_stages(space, scorer, ledger, networks)
    ledger.most_networks = len(ledger.networks)
    names = [c.decision.name for part in space.classes for c in part if c.operator != NETWORK]
    for decisions in (None, *([name] for name in dict.fromkeys(names))):
        if ledger.spent:
            return
        best = scorer.best_values([network.candidate for network in networks], decisions)
        if best is None:
            return
        ledger.add(best)


def _seed_stages(
    space: DecisionSpace, scorer: Scorer, ledger: Ledger, networks: Sequence[Scored]
) -> None:
    """Tries layouts of single stages, and together those that are faster than without."""
    stages = [c.place for c in space.network_choices if c.decision.name in STAGE_LAYOUTS]
    if not stages or ledger.spent:
        return

    def optima(networks: Sequence[Candidate]) -> list[float]:
        """Latency of the best that the scorer knows under each network's decisions."""
        best = scorer.best_values(networks) or networks
        ledger.add(best)
        return [ledger.met[c].latency_s if c in ledger.met else math.inf for c in best]

    plain = next(s.candidate for s in networks if (NETWORK, "layout") not in s.candidate.values)
    chosen = plain.of_network
    best, *alone = optima([chosen, *(chosen.replaced([(*place, "NCHW")]) for place in stages)])
    for _, place in sorted(zip(alone, stages, strict=True), key=lambda pair: pair[0]):
        candidate = chosen.replaced([(*place, "NCHW")])
        (latency,) = optima([candidate])
        if latency >= best:
            return
        chosen, best = candidate, latency


def _networks(space: DecisionSpace) -> Iterator[Candidate]:
    """Every combination of decisions about the network except the layouts of stages."""
    choices = [c for c in space.network_choices if c.decision.name not in STAGE_LAYOUTS]
    for values in itertools.product(*(choice.values for choice in choices)):
        departures = {
            (NETWORK, choice.decision.name): value
            for choice, value in zip(choices, values, strict=True)
            if value != choice.decision.default
        }
        candidate = Candidate.of(departures)
        if space.is_valid(candidate):
            yield candidate


def random_candidates(
    space: DecisionSpace, ledger: Ledger, rng: np.random.Generator
) -> Iterator[Candidate]:
    """Random candidates without end, of networks that were met."""
    for rate in itertools.cycle(_RATES):
        drawn = space.sample(rng, rate)
        if not ledger.takes(drawn):
            known = ledger.networks
            drawn = space.under(drawn, known[int(rng.integers(len(known)))])
        yield drawn
