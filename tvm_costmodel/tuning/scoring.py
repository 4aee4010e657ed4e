"""What candidates are predicted to cost, thousands a second.

`KernelScorer` prices every kernel once for each way in which it can be decided: the kernel former
lets a decision change the cost of its own kernel alone, so a candidate is a sum over prices that
are known already. Other predictors read the whole annotated graph of each candidate.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, cast

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.tokenizer.kernels import KernelGraph, Row
from tvm_costmodel.training.kernel_prices import KernelPrices
from tvm_costmodel.training.registry import DECIDED, DECIDED_OF
from tvm_costmodel.tuning.annotation import Annotator, decided_operator
from tvm_costmodel.tuning.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.correction import RatioCorrection
from tvm_costmodel.tuning.relay_annotation import annotator_of
from tvm_costmodel.tuning.space import Choice, DecisionSpace

if TYPE_CHECKING:
    from tvm_costmodel.predictor import Predictor
    from tvm_costmodel.training.kernel_prices import KernelPricer
    from tvm_costmodel.training.regressor import Regressor

_CHUNK = 64  # annotated graphs that a predictor reads at a time
_SWEEPS = 2

Decided = tuple[tuple[str, Value], ...]
"""What was decided for one operator."""


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
        self, candidate: Candidate, decisions: Sequence[str] | None = None
    ) -> Candidate | None:
        """The candidate with the best values of decisions about operators, as predicted.

        Args:
            candidate: Its network decisions stay.
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
        self, candidate: Candidate, decisions: Sequence[str] | None = None
    ) -> Candidate | None:
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
        self._regressor, self._space = regressor, space
        self._annotator = Annotator(space.graph)
        self._correction = RatioCorrection(space)
        self._priced: dict[tuple[tuple[str, Value], ...], _PricedNetwork] = {}
        self._default = np.log(self._under(space.default).total)  # [M]

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
        self, candidate: Candidate, decisions: Sequence[str] | None = None
    ) -> Candidate | None:
        """The best value of each decision for each class of operators, one after the other."""
        priced = self._under(candidate)
        network = Candidate.of({(NETWORK, name): value for name, value in candidate.network})
        classes = [
            [choice for choice in part if choice.operator in priced.position]
            for part in self._space.classes
            if part[0].operator != NETWORK
            and (decisions is None or part[0].decision.name in decisions)
        ]
        groups = [
            list(parts)
            for _, parts in itertools.groupby(
                filter(None, classes), key=lambda part: part[0].decision.name
            )
        ]
        best: dict[int, dict[str, Value]] = {}
        for _ in range(_SWEEPS):
            for parts in groups:
                # the first price that is asked for prices all of them together
                options = [self._options(priced, network, part, best) for part in parts]
                for part, entries in zip(parts, options, strict=True):
                    _take_cheapest(priced, part, entries, best)
        decided = {(i, name): v for i, values in best.items() for name, v in values.items()}
        return network.replaced((i, name, value) for (i, name), value in decided.items())

    def _options(
        self,
        priced: _PricedNetwork,
        network: Candidate,
        part: Sequence[Choice],
        best: Mapping[int, Mapping[str, Value]],
    ) -> dict[Value, list[int]]:
        """Entries of operators of equal kernels for each value of a decision, all else as it is."""
        decision = part[0].decision
        found: dict[Value, list[int]] = {}
        for value in part[0].values:
            alone = network.replaced([(part[0].operator, decision.name, value)])
            if value != decision.default and not self._space.is_valid(alone):
                continue
            entries = found.setdefault(value, [])
            for choice in part:
                taken = dict(best.get(choice.operator, {}))
                taken.pop(decision.name, None)
                if value != decision.default:
                    taken[decision.name] = value
                entries.append(priced.entry(choice.operator, tuple(sorted(taken.items()))))
        return found

    def _under(self, candidate: Candidate) -> _PricedNetwork:
        if candidate.network not in self._priced:
            base = self._annotator.base(candidate)
            self._priced[candidate.network] = _PricedNetwork(self._regressor, base)
        return self._priced[candidate.network]

    def _totals(self, candidates: Sequence[Candidate]) -> np.ndarray:
        """Milliseconds by each member, float64 [N, M]."""
        places = [self._under(candidate) for candidate in candidates]
        entries = [
            place.entries(candidate) for place, candidate in zip(places, candidates, strict=True)
        ]
        _price(dict.fromkeys(places))
        members: dict[_PricedNetwork, list[int]] = {}
        for i, place in enumerate(places):
            members.setdefault(place, []).append(i)
        totals = np.zeros((len(candidates), len(self._default)))
        for place, at in members.items():
            counts = [len(entries[i]) for i in at]
            flat = list(itertools.chain.from_iterable(entries[i] for i in at))
            sums = np.cumsum(np.concatenate([place.nothing, place.prices(flat)]), axis=0)
            ends = np.cumsum(counts)
            totals[at] = place.total + sums[ends] - sums[ends - counts]
        return totals


def _take_cheapest(
    priced: _PricedNetwork,
    part: Sequence[Choice],
    options: Mapping[Value, Sequence[int]],
    best: dict[int, dict[str, Value]],
) -> None:
    """Sets the value of one decision for operators of equal kernels to the cheapest."""
    decision = part[0].decision
    value = min(options, key=lambda value: float(priced.prices(options[value]).mean(axis=1).sum()))
    for choice in part:
        mine = best.setdefault(choice.operator, {})
        mine.pop(decision.name, None)
        if value != decision.default:
            mine[decision.name] = value


class _PricedNetwork:
    """Prices of a network's kernels under one set of network decisions.

    A price is what deciding a kernel adds to the network's latency, in ms by each member.
    """

    def __init__(self, regressor: KernelPricer, base: Any) -> None:
        self._graph = base.graph
        self._kernels = KernelGraph(base.graph)
        self._made = KernelPrices(regressor, self._kernels.tokens())
        self.position: Mapping[int, int] = base.positions
        self.total = self._made.undecided.sum(axis=0)  # [M]
        self._entry: dict[tuple[int, Decided], int] = {}
        self.nothing = np.zeros((1, len(self.total)))
        self._prices = self.nothing[:0]
        self._waiting: list[tuple[int, Row]] = []
        self._rows: dict[tuple[int, Decided], Row] = {}
        self._like = _equal_kernels(self._kernels)

    def entries(self, candidate: Candidate) -> list[int]:
        """Entries of what a candidate decides for operators."""
        return [self.entry(i, decided) for i, decided in _by_operator(candidate)]

    def entry(self, operator: int, decided: Decided) -> int:
        """Number of the price of a decided operator; priced with the next ones asked for."""
        key = (operator, decided)
        if key not in self._entry:
            self._entry[key] = len(self._entry)
            self._waiting.append(self._row(operator, decided))
        return self._entry[key]

    def prices(self, entries: Sequence[int]) -> np.ndarray:
        """Prices by their numbers, float64 [len(entries), M]."""
        if self._waiting:
            _price([self])
        return self._prices[np.asarray(entries, dtype=np.int64)]

    def asked(self) -> tuple[KernelPrices, np.ndarray, np.ndarray, np.ndarray]:
        """What waits to be priced, for `KernelPrices.of`."""
        tokens, rows = zip(*self._waiting, strict=True)
        numbers, work = (np.array(part) for part in zip(*rows, strict=True))
        return self._made, np.maximum(np.array(tokens), 0), numbers, work

    def take(self, made: np.ndarray) -> None:
        """Keeps what those that waited cost."""
        at = np.array([token for token, _ in self._waiting])
        new = np.where(at[:, None] < 0, 0.0, made - self._made.undecided[at])
        self._prices = np.concatenate([self._prices, new])
        self._waiting.clear()

    @property
    def waits(self) -> bool:
        """Whether something is to be priced."""
        return bool(self._waiting)

    def _row(self, operator: int, decided: Decided) -> tuple[int, Row]:
        """A decided kernel's token; -1 for an operator that was joined to another."""
        position = self.position.get(operator)
        token = -1 if position is None else self._kernels.token_of[position]
        if position is None or token < 0 or self._kernels.anchors[token] != position:
            return -1, self._kernels.row(0)
        key = (self._like[token], decided)
        if key not in self._rows:
            changed = decided_operator(self._graph.operators[position], dict(decided))
            self._rows[key] = self._kernels.row(token, changed)
        return token, self._rows[key]


def _price(networks: Iterable[_PricedNetwork]) -> None:
    """Prices all that waits, of all networks together."""
    waiting = [network for network in networks if network.waits]
    if waiting:
        made = KernelPrices.of([network.asked() for network in waiting])
        for network, costs in zip(waiting, made, strict=True):
            network.take(costs)


def _equal_kernels(kernels: KernelGraph) -> list[int]:
    """A number for each kernel, the same one for those that any decision makes equal tokens of."""
    found: dict[tuple[object, ...], int] = {}
    like = []
    for token, at in enumerate(kernels.anchors):
        numbers, work = kernels.row(token)
        operator = kernels.graph.operators[at]
        key = (tuple(numbers), work, operator.op, operator.outputs, operator.weights)
        like.append(found.setdefault(key, len(found)))
    return like


def _by_operator(candidate: Candidate) -> Iterator[tuple[int, Decided]]:
    """Decisions about each operator; entries of a candidate are sorted."""
    current = NETWORK
    decided: list[tuple[str, Value]] = []
    for i, name, value in candidate.operators:
        if i != current:
            if decided:
                yield current, tuple(decided)
            current, decided = i, []
        decided.append((name, value))
    if decided:
        yield current, tuple(decided)


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
