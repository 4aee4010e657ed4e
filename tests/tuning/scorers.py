"""Scorers of the tuner's tests: latencies that are known, without a trained predictor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tvm_costmodel.tuning.scoring.scorer import Scores
from tvm_costmodel.tuning.space.candidate import Candidate


class KnownScorer:
    """Log latencies that add up over decisions.

    Args:
        gains: Addition to the log latency by decision and value, for each place it is made at.
        spread: Spread of a candidate; 0 when not given.
    """

    name = "known"

    def __init__(
        self,
        gains: Mapping[tuple[str, object], float],
        spread: Callable[[Candidate], float] | None = None,
    ) -> None:
        self.gains, self.spread = dict(gains), spread
        self.scored: list[Candidate] = []
        self.learnt: dict[Candidate, float] = {}

    def log_latency(self, candidate: Candidate) -> float:
        return sum(self.gains.get((name, value), 0.0) for _, name, value in candidate.entries)

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        self.scored += candidates
        spread = [self.spread(c) if self.spread else 0.0 for c in candidates]
        logs = np.array([self.log_latency(c) for c in candidates])
        return Scores(np.exp(logs) * 1e-3, np.array(spread))

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        self.learnt.update(zip(candidates, ratios, strict=True))

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        return None
