"""Predicts the latency of candidates, thousands a second.

`KernelScorer` computes the cost of every kernel once for each combination of its decisions: with
`KernelFormer`, a decision changes the cost of its own kernel alone, so that a candidate is a sum
over costs that are known already. Other predictors read each candidate's whole annotated graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeGuard, cast

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.registry import DECISION_AWARE, DECISION_AWARE_FOR
from tvm_costmodel.tuning.annotate.relax import Annotator
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.scoring.kernel_costs import KernelCosts, NetworkKernels
from tvm_costmodel.tuning.scoring.residual_model import ResidualModel
from tvm_costmodel.tuning.search.coordinate_descent import CoordinateDescent, Part, parts_of
from tvm_costmodel.tuning.space.candidate import Candidate, Value
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.predictors.base import Regressor
    from tvm_costmodel.predictors.kernel_costs import KernelCostModel
    from tvm_costmodel.predictors.loading import Predictor

_CHUNK = 64  # annotated graphs that a predictor reads at a time
_SWEEPS = 2


@dataclass(frozen=True)
class Scores:
    """Predictions for candidates, float64 [N] each.

    Attributes:
        latency_s: Predicted seconds.
        spread: Standard deviation among the predictor's ensemble members of the logarithm of the
            latency over the baseline's (the default build's); zeros where it has one member.
    """

    latency_s: np.ndarray
    spread: np.ndarray


class Scorer(Protocol):
    """Predicts candidates of one space."""

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions by measured latencies over the baseline's."""

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """Candidates with the best values of decisions about operators, as predicted.

        Args:
            candidates: Their network decisions stay.
            decisions: Names of the decisions to optimise; all of them when not given.

        Returns:
            None where only a search can find them.
        """


class GraphScorer:
    """Any predictor of annotated graphs.

    Args:
        regressor: Reads annotated graphs.
        space: Whose candidates are scored.
    """

    def __init__(self, regressor: Regressor, space: DecisionSpace) -> None:
        self._regressor, self._space = regressor, space
        self._annotator = backend_of(space.compiler).annotator(space.graph)
        self._correction = ResidualModel(space)

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""
        latency = self._predict(candidates) * np.exp(self._correction.offsets(candidates))
        return Scores(latency, np.zeros(len(candidates)))

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions by measured latencies over the baseline's."""
        predicted = self._predict([self._space.default, *candidates])
        self._correction.fit(candidates, np.log(np.asarray(ratios) * predicted[0] / predicted[1:]))

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """None: the gain of one decision depends on the others."""
        return None

    def _predict(self, candidates: Sequence[Candidate]) -> np.ndarray:
        parts = [np.zeros(0)]
        for at in range(0, len(candidates), _CHUNK):
            chunk = candidates[at : at + _CHUNK]
            parts.append(self._regressor.predict([self._annotator.annotate(c) for c in chunk]))
        return np.concatenate(parts)


class KernelScorer:
    """Scores with `KernelFormer`, each kernel computed once for each combination of its decisions.

    Args:
        regressor: A fitted `KernelFormer` regressor.
        space: Whose candidates are scored.
    """

    def __init__(self, regressor: KernelCostModel, space: DecisionSpace) -> None:
        self._space = space
        self._correction = ResidualModel(space)
        self._costs = KernelCosts(regressor, Annotator(space.graph))
        self._parts: dict[tuple[tuple[str, Value], ...], dict[str, list[Part]]] = {}
        self._default = np.log(self._costs.totals([space.default])[0])  # [M]

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Predictions, in the order of the candidates."""
        if not candidates:
            return Scores(np.zeros(0), np.zeros(0))
        logs = np.log(self._costs.totals(candidates))  # [N, M], of ms
        latency = np.exp(logs.mean(axis=1) + self._correction.offsets(candidates)) * 1e-3
        return Scores(latency, (logs - self._default).std(axis=1))

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Corrects later predictions by measured latencies over the baseline's."""
        predicted = (np.log(self._costs.totals(candidates)) - self._default).mean(axis=1)
        self._correction.fit(candidates, np.log(np.asarray(ratios)) - predicted)

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """The best value of each decision for each class of operators, one after the other."""
        networks = self._costs.networks(candidates)
        searches = list(map(self._descent, candidates, networks))
        names = dict.fromkeys(c.decision.name for part in self._space.classes for c in part)
        chosen = [name for name in names if decisions is None or name in decisions]
        for _ in range(_SWEEPS if len(chosen) > 1 else 1):
            for name in chosen:
                options = [descent.options(name) for descent in searches]
                costs = self._costs.added(list(zip(networks, options, strict=True))).mean(axis=1)
                ends = np.cumsum([len(of_descent) for of_descent in options])
                for descent, own in zip(searches, np.split(costs, ends[:-1]), strict=True):
                    descent.take_cheapest(own)
        return [descent.candidate() for descent in searches]

    def _descent(self, candidate: Candidate, kernels: NetworkKernels) -> CoordinateDescent:
        """The search for the best values under a candidate's decisions about the network."""
        network = candidate.of_network
        if network.network not in self._parts:
            operators = kernels.base.positions
            self._parts[network.network] = parts_of(self._space, network, operators)
        return CoordinateDescent(network, self._parts[network.network])


def scorer_for(predictor: Predictor | Regressor, space: DecisionSpace) -> Scorer:
    """The fastest scorer that a predictor allows.

    Raises:
        ConfigError: The predictor does not read decisions.
    """
    from tvm_costmodel.predictors.loading import Predictor

    regressor = predictor.regressor if isinstance(predictor, Predictor) else predictor
    require_decision_aware(regressor.name, space.compiler)
    if _has_kernel_costs(regressor):
        return KernelScorer(regressor, space)
    return GraphScorer(regressor, space)


def require_decision_aware(predictor: str, compiler: str) -> None:
    """Refuses a predictor, by its name, that does not read decisions.

    Raises:
        ConfigError: It does not.
    """
    if predictor not in DECISION_AWARE:
        raise ConfigError(
            f"{predictor} predicts networks, not decisions: it cannot tell variants apart; "
            f"use one of {', '.join(DECISION_AWARE_FOR[compiler])}"
        )


def _has_kernel_costs(regressor: Regressor) -> TypeGuard[KernelCostModel]:
    """Whether a decision about a kernel leaves the cost of all others as it is."""
    return (
        regressor.name == "kernel_former" and not cast("KernelCostModel", regressor).sees_decisions
    )
