"""The runner interface: loads a built network and times it, its kernels and a fixed reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

TensorSpec = tuple[tuple[int, ...], str]
"""(shape, dtype) of one argument."""


@dataclass(frozen=True)
class Sample:
    """Times of one function over some repeats."""

    times_s: tuple[float, ...]
    """Seconds a run, one for each repeat."""
    wall_s: float
    cpu_s: float | None = None
    """Processor time of the timing program; None where it runs elsewhere."""
    involuntary_switches: int | None = None


class LoadedNetwork(Protocol):
    """A network that is loaded and has its inputs set."""

    def network(self, number: int, repeat: int) -> Sample:
        """Times whole runs: ``repeat`` times the mean of ``number`` runs, after one warm-up."""

    def kernel(
        self, name: str, parameters: Sequence[TensorSpec], number: int, repeat: int
    ) -> Sample:
        """Times one of the network's kernels on arguments of its own."""

    def outputs_are_finite(self) -> bool:
        """Runs once and says whether every floating-point output is finite."""

    def outputs(self) -> list[np.ndarray]:
        """Runs once and returns every output, nested ones flattened."""

    def close(self) -> None:
        """Frees what the network holds."""


class Runner(Protocol):
    """Where networks run."""

    several: bool
    """Whether more than one network can be loaded at a time."""

    def reference(self, number: int, repeat: int) -> Sample:
        """Times the reference kernel, the same work on every call."""

    def load(self, build: Any, inputs: Sequence[TensorSpec]) -> LoadedNetwork:
        """Loads a built network, see `tvm_costmodel.compilers.compiler.Build`."""

    def facts(self) -> dict[str, Any]:
        """What to note about this runner in the environment of its labels."""

    def close(self) -> None:
        """Ends sessions and frees devices."""
