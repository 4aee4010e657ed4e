"""Searching a network's decisions with a scorer: which candidates are predicted to be fast.

Small spaces are scored whole. Larger ones are searched by evolution or by beams, both of which
start from the default, every combination of network decisions, and what the scorer itself knows
to be best under each of these.

Decisions about the network make another graph of it, which costs as much as scoring dozens of
candidates: the layouts of its stages are tried one by one and together where they help alone, and
after that a search meets few further graphs.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tuning.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.decisions import STAGE_LAYOUTS
from tvm_costmodel.tuning.space import Choice, DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.tuning.scoring import Scorer

logger = logging.getLogger(__name__)

WHOLE = 4096
"""Spaces of at most so many candidates are scored whole."""
BUDGET = 6000
"""Candidates that a search scores when nothing else is said."""

_BATCH = 256
_PARENTS = 64
_PATIENCE = 8  # generations without a better candidate
_BEAM = 16
_MOST_NETWORKS = 256
_MORE_NETWORKS = 8  # that a search meets beside those that it starts from
_PLANTED = 8  # combinations of network decisions under which the scorer's optimum is taken
_RATES = (0.1, 0.3, 0.6)
_FRESH = 0.1  # share of a generation that is drawn, not bred


@dataclass(frozen=True)
class Scored:
    """A candidate as the scorer sees it.

    Attributes:
        candidate: What is decided.
        latency_s: Predicted seconds.
        spread: Standard deviation of the log latency among the members of an ensemble; 0 where
            the predictor has none.
    """

    candidate: Candidate
    latency_s: float
    spread: float = 0.0


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

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
        """The score of a candidate that was met."""
        return next((found for found in self.ranked if found.candidate == candidate), None)


class _Ledger:
    """Every candidate met so far with its score, and what is left of the budget."""

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
        asked = list(dict.fromkeys(candidates))
        networks, new = set(self._of_network), []
        for candidate in asked:
            if candidate.network in networks or len(networks) < self.most_networks:
                networks.add(candidate.network)
                if candidate not in self.met:
                    new.append(candidate)
        for at in range(0, len(new), _BATCH):
            if self.spent and self.met:  # the first batch is scored whatever the time
                break
            batch = new[at : at + min(_BATCH, self._most - len(self.met))]
            scores = self._scorer.score(batch)
            for candidate, latency, spread in zip(
                batch, scores.latency_s.tolist(), scores.spread.tolist(), strict=True
            ):
                latency = latency if math.isfinite(latency) else math.inf
                self._keep(Scored(candidate, latency, spread))
        return [self.met[candidate] for candidate in asked if candidate in self.met]

    def _keep(self, scored: Scored) -> None:
        self.met[scored.candidate] = scored
        held = self._of_network.setdefault(scored.candidate.network, scored)
        if _rank(scored) < _rank(held):
            self._of_network[scored.candidate.network] = scored

    def takes(self, candidate: Candidate) -> bool:
        """Whether a candidate's network was met, or may still be."""
        return candidate.network in self._of_network or len(self._of_network) < self.most_networks

    @property
    def networks(self) -> list[Candidate]:
        """The best candidate under each set of network decisions, in the order they were met."""
        return [scored.candidate for scored in self._of_network.values()]

    def best(self, count: int) -> list[Scored]:
        """The best so far."""
        return heapq.nsmallest(count, self.met.values(), key=_rank)

    def best_of_networks(self, count: int) -> list[Scored]:
        """The best under each set of network decisions, of the ``count`` best of these."""
        return heapq.nsmallest(count, self._of_network.values(), key=_rank)


def _rank(scored: Scored) -> tuple[float, int]:
    """Of equally fast candidates, the one that decides less is the better."""
    return scored.latency_s, len(scored.candidate.decided)


Strategy = Callable[[DecisionSpace, "Scorer", _Ledger, np.random.Generator], None]


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
        start: Candidates to score beside the default, which a search also starts from.

    Raises:
        ConfigError: An unknown strategy, a budget below 1, or a space too large for its budget to
            be searched exhaustively.
    """
    if candidates < 1:
        raise ConfigError(f"the search may score {candidates} candidates; give 1 or more")
    chosen = strategy_for(space, candidates, strategy)
    begin = time.monotonic()
    deadline = math.inf if seconds is None else begin + seconds
    ledger = _Ledger(scorer, candidates, deadline)
    ledger.add([space.default, *start])
    if space.choices:
        STRATEGIES[chosen](space, scorer, ledger, np.random.default_rng(seed))
    took = time.monotonic() - begin
    ranked = tuple(sorted(ledger.met.values(), key=_rank))
    logger.info("%s: %d candidates in %.1f s", chosen, len(ranked), took)
    return SearchResult(ranked, chosen, len(ranked), took)


def strategy_for(space: DecisionSpace, candidates: int, strategy: str) -> str:
    """How `search` will go; arguments and errors as there."""
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


def _exhaust(
    space: DecisionSpace, scorer: Scorer, ledger: _Ledger, rng: np.random.Generator
) -> None:
    ledger.add(space.candidates())


def _draw(space: DecisionSpace, scorer: Scorer, ledger: _Ledger, rng: np.random.Generator) -> None:
    """Candidates by chance alone."""
    ledger.most_networks = _MOST_NETWORKS
    for batch in _batches(_samples(space, ledger, rng)):
        before = len(ledger.met)
        ledger.add(batch)
        if ledger.spent or len(ledger.met) == before:
            return


def _evolve(
    space: DecisionSpace, scorer: Scorer, ledger: _Ledger, rng: np.random.Generator
) -> None:
    """The fastest so far breed the next generation; ends when that stops paying."""
    _plant(space, scorer, ledger)
    ledger.add(itertools.islice(_samples(space, ledger, rng), _BATCH))
    waited, best = 0, _rank(ledger.best(1)[0])
    while not ledger.spent and waited < _PATIENCE:
        parents = [scored.candidate for scored in ledger.best(_PARENTS)]
        ledger.add(_generation(space, parents, ledger, rng))
        now = _rank(ledger.best(1)[0])
        waited = 0 if now < best else waited + 1
        best = now
    _climb(space, space.classes, 1, ledger)


def _generation(
    space: DecisionSpace,
    parents: Sequence[Candidate],
    ledger: _Ledger,
    rng: np.random.Generator,
) -> Iterator[Candidate]:
    samples = _samples(space, ledger, rng)
    ranks = np.minimum(rng.geometric(4.0 / _PARENTS, (_BATCH, 2)), len(parents)) - 1
    kinds, changes = rng.random(_BATCH), rng.geometric(0.5, _BATCH)
    for (one, other), kind, count in zip(ranks.tolist(), kinds, changes.tolist(), strict=True):
        if kind < _FRESH:
            yield next(samples)
            continue
        if kind < 0.5 and one != other:
            child = space.cross(parents[one], parents[other], rng)
        else:
            child = space.mutate(parents[one], rng, count)
        yield child if ledger.takes(child) else space.under(child, parents[one])


def _beam(space: DecisionSpace, scorer: Scorer, ledger: _Ledger, rng: np.random.Generator) -> None:
    """Decides class by class, those of the largest effect first.

    What is kept differs in network decisions: one that rules out decisions about operators looks
    good only until these are taken.
    """
    _plant(space, scorer, ledger)
    effects = []
    start = ledger.best(1)[0]
    for part in space.classes:
        found = ledger.add(space.varied(start.candidate, part))
        effects.append(min((s.latency_s for s in found), default=math.inf))
    order = [space.classes[int(i)] for i in np.argsort(effects, kind="stable")]
    _climb(space, order, _BEAM, ledger)


def _climb(
    space: DecisionSpace, order: Sequence[Sequence[Choice]], width: int, ledger: _Ledger
) -> None:
    """Tries every value of every class on the best of networks until none of them helps."""
    best: tuple[float, int] | None = None
    ledger.most_networks = len(ledger.networks) + _MORE_NETWORKS
    while not ledger.spent and (now := _rank(ledger.best(1)[0])) != best:
        best = now
        for part in order:
            kept = [scored.candidate for scored in ledger.best_of_networks(width)]
            ledger.add(varied for one in kept for varied in space.varied(one, part))


def _plant(space: DecisionSpace, scorer: Scorer, ledger: _Ledger) -> None:
    """Scores where searches start.

    That is every combination of network decisions, and the scorer's own optima under the default
    and the best of these: of all decisions about operators, and of each kind alone.
    """
    networks = ledger.add(itertools.islice(_networks(space), _MOST_NETWORKS))
    networks = [networks[0], *sorted(networks[1:], key=_rank)[:_PLANTED]]
    _plant_stages(space, scorer, ledger, networks)
    ledger.most_networks = len(ledger.networks)
    names = [c.decision.name for part in space.classes for c in part if c.operator != NETWORK]
    for decisions in (None, *([name] for name in dict.fromkeys(names))):
        if ledger.spent:
            return
        best = scorer.best_values([network.candidate for network in networks], decisions)
        if best is None:
            return
        ledger.add(best)


def _plant_stages(
    space: DecisionSpace, scorer: Scorer, ledger: _Ledger, networks: Sequence[Scored]
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
    """Every combination of decisions about the network but for the layouts of stages."""
    choices = [c for c in space.network_choices if c.decision.name not in STAGE_LAYOUTS]
    for values in itertools.product(*(choice.values for choice in choices)):
        decided = {
            (NETWORK, choice.decision.name): value
            for choice, value in zip(choices, values, strict=True)
            if value != choice.decision.default
        }
        candidate = Candidate.of(decided)
        if space.is_valid(candidate):
            yield candidate


def _samples(
    space: DecisionSpace, ledger: _Ledger, rng: np.random.Generator
) -> Iterator[Candidate]:
    """Candidates drawn by chance, of networks that were met."""
    for rate in itertools.cycle(_RATES):
        drawn = space.sample(rng, rate)
        if not ledger.takes(drawn):
            known = ledger.networks
            drawn = space.under(drawn, known[int(rng.integers(len(known)))])
        yield drawn


def _batches(candidates: Iterator[Candidate]) -> Iterator[list[Candidate]]:
    while batch := list(itertools.islice(candidates, _BATCH)):
        yield batch


STRATEGIES: dict[str, Strategy] = {
    "exhaustive": _exhaust,
    "evolution": _evolve,
    "beam": _beam,
    "random": _draw,
}
"""How a space is searched, by name."""
