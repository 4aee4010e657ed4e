"""Ensembles of roofline models as one regressor, whichever engine runs the members."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer, PhysicalTokens

_CHUNK = 256  # graphs per run

State = TypeVar("State")


def stack_states(states: Iterable[Mapping[str, State]]) -> dict[str, State]:
    """Merges the states of several members, each name prefixed with the member's number."""
    return {f"{m}.{name}": value for m, state in enumerate(states) for name, value in state.items()}


def member_state(states: Mapping[str, State], member: int) -> dict[str, State]:
    """One member's state from the result of `stack_states`."""
    prefix = f"{member}."
    return {
        name.removeprefix(prefix): value
        for name, value in states.items()
        if name.startswith(prefix)
    }


class RooflineAnswers(Regressor):
    """A regressor that answers with the geometric mean of its members' latencies.

    Each operator's share is its mean share over the members.

    Attributes:
        tokenizer: Encodes graphs for the members.
    """

    tokenizer: PhysicalTokenizer

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        parts = [
            np.exp(np.mean(np.log(self._members(graphs[at : at + _CHUNK])), axis=0))
            for at in range(0, len(graphs), _CHUNK)
        ]
        return np.concatenate(parts) * 1e-3

    def per_operator(self, graph: OpGraph) -> np.ndarray:
        """Each operator's share of the predicted latency, seconds, float64 [N].

        The shares sum to the prediction. Inputs, views and operators that are folded into another
        one have a share of 0.
        """
        latency_s = float(self.predict([graph])[0])
        tokens = self.tokenizer.encode(graph)
        shares = self._parts(tokens).astype(np.float64).mean(axis=0)
        seconds = np.zeros(len(graph))
        seconds[tokens.anchor] = shares / shares.sum() * latency_s
        return seconds

    @abstractmethod
    def _members(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Latency in ms by each member, float64 [members, G]."""

    @abstractmethod
    def _parts(self, tokens: PhysicalTokens) -> np.ndarray:
        """Latency in ms of every token of one graph by each member, [members, R]."""
