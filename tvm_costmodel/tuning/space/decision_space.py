"""The candidates of one network: which decisions apply to it, and what they become."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tvm_costmodel.compilers.compiler import BuildConfig
from tvm_costmodel.compilers.registry import known_compiler
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph import serialization
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph_passes.tunable_ops import convolution_stages, tunable_operators
from tvm_costmodel.tuning.backends import backend_of
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate, Value
from tvm_costmodel.tuning.space.choice import Choice
from tvm_costmodel.tuning.space.decisions import STAGE_LAYOUTS, Decision, Fields, Setting
from tvm_costmodel.tuning.space.encoding import CandidateEncoding


@dataclass(frozen=True, eq=False)
class DecisionSpace:
    """All candidates of one network.

    Attributes:
        graph: The network as ``from_relax`` or ``from_relay`` reads it, before any pass;
            candidates name its ids.
        setting: What bounds the space besides the graph.
        choices: Every decision that has more values than its default, network decisions first.
        compiler: What carries the decisions out, ``relax`` or ``relay``.
    """

    graph: OpGraph
    setting: Setting
    choices: tuple[Choice, ...]
    compiler: str = "relax"

    @classmethod
    def for_graph(
        cls,
        graph: OpGraph,
        tolerance: float = 1e-3,
        vector_bits: int = 512,
        decisions: Sequence[Decision] | None = None,
        compiler: str = "relax",
        half_arithmetic: bool = False,
        runtime_weights: frozenset[int] = frozenset(),
    ) -> DecisionSpace:
        """Finds what can be decided for a network.

        Args:
            graph: The network before any pass.
            tolerance: Largest difference of the outputs that the user accepts, relative to the
                largest magnitude of each; values known to err more are left out.
            vector_bits: Width of the machine's vectors.
            decisions: The decisions to offer; all of the compiler's when not given.
            compiler: What carries the decisions out, of `tvm_costmodel.tuning.backends.BACKENDS`.
            half_arithmetic: Whether the machine computes in half precision by itself; float16
                activations are offered where it does.
            runtime_weights: Ids of operators whose weights are passed to the network; values that
                need constant ones are left out for them.

        Raises:
            ConfigError: The tolerance is not a positive number.
        """
        if not (math.isfinite(tolerance) and tolerance > 0):
            raise ConfigError(f"tolerance is {tolerance}; use a positive number such as 1e-3")
        setting = Setting(tolerance, max(1, vector_bits // 32), half_arithmetic, runtime_weights)
        tunable = sorted(i for ids in tunable_operators(graph).values() for i in ids)
        stages = convolution_stages(graph)
        offered: set[str] = set()
        choices = []
        for decision in backend_of(compiler).decisions if decisions is None else decisions:
            for i in tunable if decision.scope == "operator" else [NETWORK]:
                values = _offered(decision, graph, i, setting)
                if len(values) > 1:
                    offered.add(decision.name)
                    stage = STAGE_LAYOUTS[stages[i] - 1] if i in stages else ""
                    choices.append(Choice(decision, i, values, stage if stage in offered else ""))
        return cls(graph, setting, tuple(choices), compiler)

    @property
    def default(self) -> Candidate:
        """The default candidate, which has no decisions."""
        return Candidate()

    @functools.cached_property
    def by_place(self) -> Mapping[tuple[int, str], Choice]:
        """Choice by (operator id or ``NETWORK``, decision)."""
        return {choice.place: choice for choice in self.choices}

    @functools.cached_property
    def network_choices(self) -> tuple[Choice, ...]:
        """The choices about the whole network."""
        return tuple(choice for choice in self.choices if choice.operator == NETWORK)

    @functools.cached_property
    def classes(self) -> tuple[tuple[Choice, ...], ...]:
        """Choices that are best taken together: the same one for operators of equal kernels.

        Operators are of equal kernels where their attributes and types are equal.
        """
        classes: dict[tuple[str, str], list[Choice]] = {}
        for choice in self.choices:
            key = choice.decision.name, self._cache_key(choice.operator)
            classes.setdefault(key, []).append(choice)
        return tuple(tuple(choices) for choices in classes.values())

    def _cache_key(self, i: int) -> str:
        if i == NETWORK:
            return ""
        operator = self.graph.operators[i]
        types = self.graph.input_types(i)
        return repr(types) + serialization.label(
            operator.op, operator.attrs, operator.outputs, operator.weights
        )

    @functools.cached_property
    def size(self) -> int:
        """How many valid candidates there are."""
        return self._count([(choice,) for choice in self.choices])

    @functools.cached_property
    def joint_size(self) -> int:
        """How many valid candidates there are where ``classes`` are decided together."""
        return self._count(self.classes)

    def _count(self, parts: Sequence[Sequence[Choice]]) -> int:
        alike: dict[tuple[object, ...], list[Choice]] = {}
        for choice in (part[0] for part in parts if part[0].operator != NETWORK):
            key = (choice.decision.name, choice.stage_layout, choice.values)
            alike.setdefault(key, []).append(choice)
        single = [(choices[0], len(choices)) for choices in alike.values()]
        needed = {name for choice, _ in single for v in choice.values for name in choice.needed(v)}
        networks = Counter(
            tuple((name, value) for name, value in network.items() if name in needed)
            for network in self._networks()
        )
        return sum(
            times * math.prod(len(self._allowed(c, dict(network))) ** count for c, count in single)
            for network, times in networks.items()
        )

    def _networks(self) -> Iterator[dict[str, Value]]:
        """Every combination of the network's decisions."""
        names = [choice.decision.name for choice in self.network_choices]
        for values in itertools.product(*(choice.values for choice in self.network_choices)):
            network = dict(zip(names, values, strict=True))
            if all(self._fits(c, network[c.decision.name], network) for c in self.network_choices):
                yield network

    def candidates(self) -> Iterator[Candidate]:
        """Every valid candidate with one value for each of ``classes``, the default first."""
        parts = [part for part in self.classes if part[0].operator != NETWORK]
        for network in self._networks():
            departures = {
                choice.place: network[choice.decision.name]
                for choice in self.network_choices
                if network[choice.decision.name] != choice.decision.default
            }
            start = self._encoding.of(Candidate.of(departures))
            allowed = [self._allowed(part[0], network) for part in parts]
            for values in itertools.product(*allowed):
                encoded = start.copy()
                for part, value in zip(parts, values, strict=True):
                    encoded[self._columns(part)] = part[0].values.index(value)
                yield self._of(encoded)

    @functools.cached_property
    def _encoding(self) -> CandidateEncoding:
        return CandidateEncoding(self.classes, self._defaults)

    def _columns(self, part: Sequence[Choice]) -> list[int]:
        return [self._encoding.column[choice.place] for choice in part]

    def _of(self, encoded: np.ndarray) -> Candidate:
        """A candidate of any encoding; values that are not allowed become the default."""
        allowed = self._encoding.allowed(encoded)
        return self._encoding.candidate(np.where(allowed, encoded, 0))

    def under(self, candidate: Candidate, network: Candidate) -> Candidate:
        """A valid candidate with another's decisions about the network, as far as they allow it."""
        own, other = self._encoding.of(candidate), self._encoding.of(network)
        return self._of(self._encoding.under(own, other))

    def varied(self, candidate: Candidate, part: Sequence[Choice]) -> Iterator[Candidate]:
        """Every value of choices that are taken together in place of a candidate's own.

        Args:
            candidate: A valid candidate.
            part: Choices of equal values.

        Returns:
            The valid ones, in the order of the values.
        """
        encoded, columns = self._encoding.of(candidate), self._columns(part)
        for index in range(len(part[0].values)):
            encoded[columns] = index
            if self._encoding.allowed(encoded).all():
                yield self._encoding.candidate(encoded)

    def allowed(self, choice: Choice, network: Candidate) -> list[Value]:
        """The values of a choice that a candidate's decisions about the network allow."""
        return self._allowed(choice, dict(network.network))

    def check(self, candidate: Candidate) -> None:
        """Refuses a candidate of another space.

        Raises:
            ConfigError: It has a decision that this network does not offer, a value that does not
                apply, or one that its network decisions rule out.
        """
        network = dict(candidate.network)
        for i, name, value in candidate.entries:
            where = "the network" if i == NETWORK else f"operator {i}"
            choice = self.by_place.get((i, name))
            if choice is None:
                raise ConfigError(f"{name} cannot be decided for {where} here")
            if value not in choice.values:
                allowed = ", ".join(str(v) for v in choice.values)
                raise ConfigError(f"{name} of {where} is {value!r}; use one of {allowed}")
            if not self._fits(choice, value, network):
                needs = " and ".join(
                    f"{other} {' or '.join(map(str, values))}"
                    for other, values in choice.needed(value).items()
                )
                raise ConfigError(f"{name} {value!r} of {where} needs {needs}")

    def is_valid(self, candidate: Candidate) -> bool:
        """Whether `check` takes the candidate."""
        try:
            encoded = self._encoding.of(candidate)
        except KeyError:
            return False
        return bool(self._encoding.allowed(encoded).all())

    def sample(self, rng: np.random.Generator, rate: float = 0.3) -> Candidate:
        """Draws a valid candidate.

        Args:
            rng: Source of random numbers.
            rate: How probable it is that a class of choices departs from its default.
        """
        every = np.arange(len(self.classes))
        return self._redrawn(np.zeros(len(self.choices), dtype=np.int64), every, rng, rate)

    def explore(self, rng: np.random.Generator) -> Candidate:
        """Draws a valid candidate to learn from, see `Decision.explored`."""
        drawn = np.zeros(len(self.choices), dtype=np.int64)
        boldness = rng.choice((0.3, 1.0, 1.5))
        for part in self.classes:
            choice = part[0]
            if rng.random() < boldness * choice.decision.explored:
                drawn[self._columns(part)] = int(rng.integers(1, len(choice.values)))
        return self._of(drawn)

    def mutate(self, candidate: Candidate, rng: np.random.Generator, changes: int = 1) -> Candidate:
        """A valid candidate in which up to ``changes`` classes of choices were drawn anew."""
        changed = rng.choice(len(self.classes), min(changes, len(self.classes)), replace=False)
        return self._redrawn(self._encoding.of(candidate), changed, rng, 1.0)

    def cross(self, one: Candidate, other: Candidate, rng: np.random.Generator) -> Candidate:
        """A valid candidate that has each class of choices from one of two others."""
        first = (rng.random(len(self.classes)) < 0.5)[self._encoding.class_of]
        return self._of(np.where(first, self._encoding.of(one), self._encoding.of(other)))

    def _redrawn(
        self, encoded: np.ndarray, classes: np.ndarray, rng: np.random.Generator, rate: float
    ) -> Candidate:
        """Draws classes by their numbers anew, each with a probability, to another value each."""
        departs, which = rng.random((len(classes), 2)).T
        current = encoded[self._encoding.first[classes]]
        other = (which * (self._encoding.counts[classes] - 1)).astype(np.int64)
        other += other >= current
        drawn = np.full(len(self.classes), -1)
        drawn[classes] = np.where(departs < rate, other, -1)
        drawn = drawn[self._encoding.class_of]
        return self._of(np.where(drawn < 0, encoded, drawn))

    def config_fields(self, candidate: Candidate) -> dict[str, Any]:
        """A candidate as the fields of ``PipelineConfig``, JSON-able.

        Raises:
            ConfigError: See `check`.
        """
        self.check(candidate)
        fields: Fields = {}
        kernels: dict[str, Fields] = {}
        for i, name, value in candidate.entries:
            target = fields if i == NETWORK else kernels.setdefault(str(i), {})
            self.by_place[i, name].decision.effect(target, value)
        return {**fields, "kernels": kernels} if kernels else fields

    def config(self, candidate: Candidate) -> BuildConfig:
        """A candidate as what the compiler takes; the default one is the compiler's default.

        Raises:
            ConfigError: See `check`.
        """
        fields = self.config_fields(candidate)
        return known_compiler(self.compiler).config(fields)

    def _fits(self, choice: Choice, value: Value, network: Mapping[str, Value]) -> bool:
        """Whether the network's decisions let a value be carried out."""
        if not choice.decision.needs:
            return True
        return all(
            network.get(name, self._defaults[name]) in allowed
            for name, allowed in choice.needed(value).items()
        )

    def _allowed(self, choice: Choice, network: Mapping[str, Value]) -> list[Value]:
        return [value for value in choice.values if self._fits(choice, value, network)]

    @functools.cached_property
    def _defaults(self) -> Mapping[str, Value]:
        decisions = backend_of(self.compiler).decisions
        return {decision.name: decision.default for decision in decisions}


def _offered(decision: Decision, graph: OpGraph, i: int, setting: Setting) -> tuple[Value, ...]:
    return (
        decision.default,
        *(
            value
            for value in decision.values[1:]
            if decision.errors.get(value, 0.0) <= setting.tolerance
            and decision.applies(graph, i, value, setting)
        ),
    )
