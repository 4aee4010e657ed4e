"""What a roofline former's members say, as the answer of a regressor, whatever runs them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.tokenizer.kernels import KernelTokenizer
from tvm_costmodel.tokenizer.physical import PhysicalTokenizer, PhysicalTokens
from tvm_costmodel.training.regressor import Regressor

_CHUNK = 256  # graphs per run

State = TypeVar("State")


def join_members(states: Iterable[Mapping[str, State]]) -> dict[str, State]:
    """The states of several members as one, each name with the member's number before it."""
    return {f"{m}.{name}": value for m, state in enumerate(states) for name, value in state.items()}


def member_state(joined: Mapping[str, State], member: int) -> dict[str, State]:
    """One member's part of what `join_members` gave."""
    mark = f"{member}."
    return {name[len(mark) :]: value for name, value in joined.items() if name.startswith(mark)}


def damaged(weights: Path, error: Exception) -> CheckpointError:
    """What to say of a file of weights that cannot be read."""
    return CheckpointError(
        f"{weights} is damaged or of another shape ({str(error).splitlines()[0]}): "
        "train it again with `tvm-costmodel train`"
    )


class RooflineAnswers(Regressor):
    """The geometric mean of members; each operator's share is its mean part of their sums.

    Attributes:
        tokenizer: Makes the members' tokens.
    """

    tokenizer: PhysicalTokenizer | KernelTokenizer

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        parts = [
            np.exp(np.mean(np.log(self._members(graphs[at : at + _CHUNK])), axis=0))
            for at in range(0, len(graphs), _CHUNK)
        ]
        return np.concatenate(parts) * 1e-3

    def per_operator(self, graph: OpGraph) -> np.ndarray:
        """Each operator's share of the predicted latency, seconds, float64 [N].

        The shares sum to the prediction. What is folded into another operator, an input or a view
        has none.
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
