"""Searching a network's decisions with a scorer: which candidates are predicted to be fast.

Small spaces are scored whole. Larger ones are searched by evolution or by beams, both of which
start from the default, every combination of network decisions, and what the scorer itself knows
to be best under each of these.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tuning.search.beam import beam_search
from tvm_costmodel.tuning.search.evolution import evolve
from tvm_costmodel.tuning.search.exhaustive import score_all
from tvm_costmodel.tuning.search.ledger import Ledger, Scored, rank
from tvm_costmodel.tuning.search.random_search import score_random
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

WHOLE = 4096
"""Spaces of at most so many candidates are scored whole."""
BUDGET = 6000
"""Candidates that a search scores by default."""

Strategy = Callable[[DecisionSpace, "Scorer", Ledger, np.random.Generator], None]

STRATEGIES: dict[str, Strategy] = {
    "exhaustive": score_all,
    "evolution": evolve,
    "beam": beam_search,
    "random": score_random,
}
"""How a space is searched, by name."""


@dataclass(frozen=True)
class SearchResult:
    """The candidates that a search scored.

    Attributes:
        ranked: Every scored candidate once, the fastest first.
        strategy: How it was searched.
        scored: How many candidates were scored.
        seconds: How long that took, making the candidates included.
    """

    ranked: tuple[Scored, ...]
    strategy: str
    scored: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Candidates made and scored a second."""
        return self.scored / self.seconds if self.seconds > 0 else math.inf

    def of(self, candidate: Candidate) -> Scored | None:
        """The score of a candidate; None where it was not met."""
        return next((scored for scored in self.ranked if scored.candidate == candidate), None)


def search(
    space: DecisionSpace,
    scorer: Scorer,
    candidates: int = BUDGET,
    seconds: float | None = None,
    strategy: str = "auto",
    seed: int = 0,
    start: Sequence[Candidate] = (),
) -> SearchResult:
    """Looks for the candidates that a scorer takes for the fastest.

    Args:
        space: What can be decided.
        scorer: What predicts latencies.
        candidates: Score at most so many.
        seconds: Stop after so long; the default candidate is scored whatever the budget.
        strategy: One of `STRATEGIES`, or ``auto``: exhaustive where `WHOLE` and the budget allow
            it, else evolution.
        seed: Equal seeds find equal candidates, unless ``seconds`` cuts a search short.
        start: Candidates to score besides the default, which a search also starts from.

    Raises:
        ConfigError: An unknown strategy, a budget below 1, or a space too large for its budget to
            be searched exhaustively.
    """
    if candidates < 1:
        raise ConfigError(f"the search may score {candidates} candidates; give 1 or more")
    chosen = strategy_for(space, candidates, strategy)
    begin = time.monotonic()
    deadline = math.inf if seconds is None else begin + seconds
    ledger = Ledger(scorer, candidates, deadline)
    ledger.add([space.default, *start])
    if space.choices:
        STRATEGIES[chosen](space, scorer, ledger, np.random.default_rng(seed))
    took = time.monotonic() - begin
    ranked = tuple(sorted(ledger.met.values(), key=rank))
    logger.info("%s: %d candidates in %.1f s", chosen, len(ranked), took)
    return SearchResult(ranked, chosen, len(ranked), took)


def strategy_for(space: DecisionSpace, candidates: int, strategy: str) -> str:
    """The name of the strategy that `search` will use; arguments and errors as there."""
    if strategy == "auto":
        return "exhaustive" if space.joint_size <= min(WHOLE, candidates) else "evolution"
    if strategy not in STRATEGIES:
        raise ConfigError(
            f"unknown search strategy {strategy!r}; use auto, {', '.join(STRATEGIES)}"
        )
    if strategy == "exhaustive" and space.joint_size > candidates:
        raise ConfigError(
            f"an exhaustive search of this network scores {space.joint_size:,} candidates, over "
            f"the budget of {candidates:,}; raise --candidates or use --strategy auto"
        )
    return strategy
