"""The worker's part of trials: builds of one network under several pipelines, timed in turns.

The machine drifts by several per cent within seconds, more than many decisions are worth. Builds
that are to be held against each other therefore take turns: every round visits each of them once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.measurement import MeasurementConfig
from tvm_costmodel.profiling.runners.local import all_finite
from tvm_costmodel.profiling.runners.runner import LoadedNetwork, Runner, TensorSpec
from tvm_costmodel.profiling.timing import ReferenceHistory, Visit, combine, plan_repeats, visit


class Turns:
    """Holds the builds of one network.

    Args:
        runner: Loads and times builds.
        config: How a visit is made, and how many rounds.
        history: Of the reference kernel.
    """

    def __init__(
        self, runner: Runner, config: MeasurementConfig, history: ReferenceHistory
    ) -> None:
        self._runner, self._config, self._history = runner, config, history
        self._builds: dict[str, Any] = {}
        self._expected: list[np.ndarray] = []

    def hold(self, slot: str, build: Any) -> None:
        """Keeps a build under a name."""
        self._builds[slot] = build

    def drop(self, slots: Sequence[str]) -> None:
        """Frees builds."""
        for slot in slots:
            self._builds.pop(slot, None)

    def clear(self) -> None:
        """Frees everything, for the next network."""
        self._builds.clear()
        self._expected = []

    def time(
        self,
        slots: Sequence[str],
        specs: Sequence[TensorSpec],
        rounds: int,
        compare: bool = True,
    ) -> dict[str, dict[str, Any]]:
        """Times builds in turns; the first one's outputs are what the others are held against.

        Args:
            slots: Names of held builds, the undecided one first.
            specs: Shape and dtype of the network's inputs.
            rounds: How often each is visited.
            compare: Whether outputs mean anything.

        Returns:
            For each slot ``timing``, and where outputs are compared ``max_abs_err``,
            ``max_rel_err`` (relative to the largest magnitude of an output; infinite where NaN or
            infinity stand in other places) and ``finite``.

        Raises:
            ConfigError: A slot holds no build.
        """
        missing = [slot for slot in slots if slot not in self._builds]
        if missing:
            raise ConfigError(f"no build is held under {missing[0]!r}; build it first")
        found: dict[str, dict[str, Any]] = {}
        visits: dict[str, list[Visit]] = {slot: [] for slot in slots}
        plans: dict[str, tuple[int, int]] = {}
        with ExitStack() as stack:
            held: dict[str, LoadedNetwork] = {}
            for slot in slots:
                if self._runner.several:
                    held[slot] = stack.enter_context(self._loaded(slot, specs))
                with self._at_hand(slot, held, specs) as loaded:
                    found[slot] = self._compared(loaded, slot == slots[0]) if compare else {}
                    plans[slot] = plan_repeats(loaded, self._config)
            for _ in range(rounds):
                for slot in slots:
                    with self._at_hand(slot, held, specs) as loaded:
                        how = (plans[slot], self._config, self._history)
                        visits[slot].append(visit(self._runner, loaded, *how))
        for slot in slots:
            found[slot]["timing"] = asdict(combine(visits[slot], plans[slot][0]))
        return found

    @contextmanager
    def _loaded(self, slot: str, specs: Sequence[TensorSpec]) -> Iterator[LoadedNetwork]:
        loaded = self._runner.load(self._builds[slot], specs)
        try:
            yield loaded
        finally:
            loaded.close()

    @contextmanager
    def _at_hand(
        self, slot: str, held: Mapping[str, LoadedNetwork], specs: Sequence[TensorSpec]
    ) -> Iterator[LoadedNetwork]:
        """A loaded build; a runner that holds one network at a time loads it anew."""
        if slot in held:
            yield held[slot]
            return
        with self._loaded(slot, specs) as loaded:
            yield loaded

    def _compared(self, loaded: LoadedNetwork, is_reference: bool) -> dict[str, Any]:
        start = time.perf_counter()
        outputs = loaded.outputs()
        if is_reference and not self._expected:
            self._expected = outputs
        absolute, relative = _difference(outputs, self._expected)
        return {
            "max_abs_err": absolute,
            "max_rel_err": relative,
            "finite": all(map(all_finite, outputs)),
            "seconds": time.perf_counter() - start,
        }


def _difference(outputs: list[np.ndarray], expected: list[np.ndarray]) -> tuple[float, float]:
    from tvm_costmodel.compilers.results import compare_outputs

    difference = compare_outputs(outputs, expected)
    return difference.max_abs_err, difference.max_rel_err
