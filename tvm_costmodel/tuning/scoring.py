"""What candidates are predicted to cost, thousands a second.

`KernelScorer` prices every kernel once for each way in which it can be decided: the kernel former
lets a decision change the cost of its own kernel alone, so a candidate is a sum over prices that
are known already. Other predictors read the whole annotated graph of each candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeGuard, cast

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tokenizer.kernels import KernelGraph, KnownKernels
from tvm_costmodel.training.kernel_prices import KernelPrices
from tvm_costmodel.training.registry import DECIDED, DECIDED_OF
from tvm_costmodel.tuning.annotation import Annotator
from tvm_costmodel.tuning.candidate import Candidate, Value
from tvm_costmodel.tuning.correction import RatioCorrection
from tvm_costmodel.tuning.descent import Descent, Part, parts_of
from tvm_costmodel.tuning.priced_network import NOTHING, DecidedRows, PricedNetwork
from tvm_costmodel.tuning.relay_annotation import annotator_of
from tvm_costmodel.tuning.space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.predictor import Predictor
    from tvm_costmodel.training.kernel_prices import KernelPricer
    from tvm_costmodel.training.regressor import Regressor

_CHUNK = 64  # annotated graphs that a predictor reads at a time
_SWEEPS = 2


@dataclass(frozen=True)
class Scores:
    """Predictions for candidates, float64 [N] each.

    Attributes:
        latency_s: Predicted seconds.
        spread: Standard deviation among the predictor's members of the logarithm of the latency
            over the undecided network's; zeros where it has one member.
    """

    latency_s: np.ndarray
    spread: np.ndarray


class Scorer(Protocol):
    """Predicts candidates of one space."""

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions by measured latencies over the undecided network's."""

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """Candidates with the best values of decisions about operators, as predicted.

        Args:
            candidates: Their network decisions stay.
            decisions: Names of the decisions to take anew; all of them when not given.

        Returns:
            None where only a search can tell.
        """


class GraphScorer:
    """Any predictor of annotated graphs.

    Args:
        regressor: Reads annotated graphs.
        space: Whose candidates are scored.
    """

    def __init__(self, regressor: Regressor, space: DecisionSpace) -> None:
        self._regressor, self._space = regressor, space
        self._annotator = annotator_of(space.graph, space.compiler)
        self._correction = RatioCorrection(space)

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""
        latency = self._predict(candidates) * np.exp(self._correction.offsets(candidates))
        return Scores(latency, np.zeros(len(candidates)))

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions by measured latencies over the undecided network's."""
        predicted = self._predict([self._space.default, *candidates])
        self._correction.fit(candidates, np.log(np.asarray(ratios) * predicted[0] / predicted[1:]))

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """None: what one decision is worth depends on the others."""
        return None

    def _predict(self, candidates: Sequence[Candidate]) -> np.ndarray:
        parts = [np.zeros(0)]
        for at in range(0, len(candidates), _CHUNK):
            chunk = candidates[at : at + _CHUNK]
            parts.append(self._regressor.predict([self._annotator.annotate(c) for c in chunk]))
        return np.concatenate(parts)


class KernelScorer:
    """The kernel former, with every kernel priced once for each way of deciding it.

    Args:
        regressor: A fitted kernel former.
        space: Whose candidates are scored.
    """

    def __init__(self, regressor: KernelPricer, space: DecisionSpace) -> None:
        self._space = space
        self._annotator = Annotator(space.graph)
        self._correction = RatioCorrection(space)
        self._known = KnownKernels()
        self._prices = KernelPrices(regressor)
        self._rows = DecidedRows(self._prices)
        self._priced: dict[tuple[tuple[str, Value], ...], PricedNetwork] = {}
        self._parts: dict[tuple[tuple[str, Value], ...], dict[str, list[Part]]] = {}
        (default,) = self._under([space.default])
        self._default = np.log(default.total)  # [M]

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""
        if not candidates:
            return Scores(np.zeros(0), np.zeros(0))
        logs = np.log(self._totals(candidates))  # [N, M], of ms
        latency = np.exp(logs.mean(axis=1) + self._correction.offsets(candidates)) * 1e-3
        return Scores(latency, (logs - self._default).std(axis=1))

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions by measured latencies over the undecided network's."""
        predicted = (np.log(self._totals(candidates)) - self._default).mean(axis=1)
        self._correction.fit(candidates, np.log(np.asarray(ratios)) - predicted)

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """The best value of each decision for each class of operators, one after the other."""
        searched = list(map(self._descent, candidates, self._under(candidates)))
        names = dict.fromkeys(c.decision.name for part in self._space.classes for c in part)
        chosen = [name for name in names if decisions is None or name in decisions]
        for _ in range(_SWEEPS if len(chosen) > 1 else 1):
            for name in chosen:
                asked = [one.entries(name) for one in searched]
                self._price([one.priced for one in searched])
                for one, entries in zip(searched, asked, strict=True):
                    one.take_cheapest(entries)
        return [one.candidate() for one in searched]

    def _descent(self, candidate: Candidate, priced: PricedNetwork) -> Descent:
        """What looks for the best values under a candidate's decisions about the network."""
        network = candidate.of_network
        if network.network not in self._parts:
            self._parts[network.network] = parts_of(self._space, network, priced)
        return Descent(network, priced, self._parts[network.network])

    def _under(self, candidates: Sequence[Candidate]) -> list[PricedNetwork]:
        """The network of each candidate; those that are new are made and priced together."""
        new = {c.network: c for c in candidates if c.network not in self._priced}
        if new:
            bases = [self._annotator.base(candidate) for candidate in new.values()]
            kernels = [KernelGraph(base.graph, self._known) for base in bases]
            contexts = self._prices.contexts([graph.tokens() for graph in kernels])
            made = [
                PricedNetwork(*parts, self._rows)
                for parts in zip(bases, kernels, contexts, strict=True)
            ]
            self._price(made)
            self._priced.update(zip(new, made, strict=True))
        return [self._priced[candidate.network] for candidate in candidates]

    def _price(self, networks: Iterable[PricedNetwork]) -> None:
        """Prices all that waits, of all networks together."""
        waiting = [network for network in dict.fromkeys(networks) if network.waiting]
        if not waiting:
            return
        asked = [pair for network in waiting for pair in network.asked()]
        made = self._prices.of(asked)
        ends = np.cumsum([len(network.waiting) for network in waiting])
        for network, costs in zip(waiting, np.split(made, ends[:-1]), strict=True):
            network.take(costs)

    def _totals(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Milliseconds by each member, float64 [N, M]."""
        places = self._under(candidates)
        entries = [place.entries(c.parts) for place, c in zip(places, candidates, strict=True)]
        self._price(places)
        members: dict[PricedNetwork, list[int]] = {}
        for i, place in enumerate(places):
            members.setdefault(place, []).append(i)
        totals = np.zeros((len(candidates), places[0].total.shape[0]))
        for place, at in members.items():
            counts = [len(entries[i]) for i in at]
            flat = list(itertools.chain.from_iterable(entries[i] for i in at))
            sums = np.cumsum(np.concatenate([place.prices([NOTHING]), place.prices(flat)]), axis=0)
            ends = np.cumsum(counts)
            totals[at] = place.total + sums[ends] - sums[ends - counts]
        return totals


def scorer_for(predictor: Predictor | Regressor, space: DecisionSpace) -> Scorer:
    """The fastest scorer that a predictor allows.

    Raises:
        ConfigError: The predictor does not read what was decided.
    """
    from tvm_costmodel.predictor import Predictor

    regressor = predictor.regressor if isinstance(predictor, Predictor) else predictor
    if regressor.name not in DECIDED:
        raise ConfigError(
            f"{regressor.name} predicts networks, not decisions: it cannot tell variants apart; "
            f"use one of {', '.join(DECIDED_OF[space.compiler])}"
        )
    if _prices_kernels(regressor):
        return KernelScorer(regressor, space)
    return GraphScorer(regressor, space)


def _prices_kernels(regressor: Regressor) -> TypeGuard[KernelPricer]:
    """Whether what is decided for a kernel changes no other's cost: neighbours do not see it."""
    return regressor.name == "kernel_former" and not cast("KernelPricer", regressor).sees_decisions
