"""The candidates that a search has scored so far, and what is left of its budget."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm_costmodel.tuning.space.candidate import Candidate

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

BATCH = 256
"""Candidates that are scored at a time."""


@dataclass(frozen=True)
class Scored:
    """A candidate as the scorer sees it.

    Attributes:
        candidate: The candidate.
        latency_s: Predicted seconds.
        spread: Standard deviation of the log latency among the members of an ensemble; 0 where
            the predictor has none.
    """

    candidate: Candidate
    latency_s: float
    spread: float = 0.0


def rank(scored: Scored) -> tuple[float, int]:
    """Sort key: of equally fast candidates, the one with fewer departures is the better."""
    return scored.latency_s, len(scored.candidate.entries)


class Ledger:
    """Every candidate met so far with its score, and what is left of the budget.

    Args:
        scorer: Predicts latencies.
        most: Candidates that may be scored.
        deadline: Value of ``time.monotonic()`` after which no further batch is scored.

    Attributes:
        met: Score of each candidate.
        most_networks: Sets of network decisions that may be met.
    """

    def __init__(self, scorer: Scorer, most: int, deadline: float) -> None:
        self._scorer, self._most, self._deadline = scorer, most, deadline
        self.met: dict[Candidate, Scored] = {}
        self.most_networks = math.inf
        self._of_network: dict[object, Scored] = {}

    @property
    def spent(self) -> bool:
        """Whether no further candidate may be scored."""
        return len(self.met) >= self._most or time.monotonic() >= self._deadline

    def add(self, candidates: Iterable[Candidate]) -> list[Scored]:
        """Scores candidates in batches, those met before not again, while the budget lasts.

        Passes over those of networks that are beyond `most_networks`.
        """
        distinct = list(dict.fromkeys(candidates))
        networks, new = set(self._of_network), []
        for candidate in distinct:
            if candidate.network in networks or len(networks) < self.most_networks:
                networks.add(candidate.network)
                if candidate not in self.met:
                    new.append(candidate)
        for at in range(0, len(new), BATCH):
            if self.spent and self.met:  # the first batch is scored whatever the time
                break
            batch = new[at : at + min(BATCH, self._most - len(self.met))]
            scores = self._scorer.score(batch)
            for candidate, latency, spread in zip(
                batch, scores.latency_s.tolist(), scores.spread.tolist(), strict=True
            ):
                latency = latency if math.isfinite(latency) else math.inf
                self._keep(Scored(candidate, latency, spread))
        return [self.met[candidate] for candidate in distinct if candidate in self.met]

    def _keep(self, scored: Scored) -> None:
        self.met[scored.candidate] = scored
        best = self._of_network.setdefault(scored.candidate.network, scored)
        if rank(scored) < rank(best):
            self._of_network[scored.candidate.network] = scored

    def takes(self, candidate: Candidate) -> bool:
        """Whether a candidate's network was met, or may still be."""
        return candidate.network in self._of_network or len(self._of_network) < self.most_networks

    @property
    def networks(self) -> list[Candidate]:
        """The best candidate under each set of network decisions, in the order they were met."""
        return [scored.candidate for scored in self._of_network.values()]

    def best(self, count: int) -> list[Scored]:
        """The ``count`` best so far."""
        return heapq.nsmallest(count, self.met.values(), key=rank)

    def best_of_networks(self, count: int) -> list[Scored]:
        """The best under each set of network decisions, of the ``count`` best of these."""
        return heapq.nsmallest(count, self._of_network.values(), key=rank)
