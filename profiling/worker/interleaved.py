"""Interleaved timing in the worker: builds of one network under several pipelines.

The machine drifts by several per cent within seconds, more than many decisions are worth. Builds
that are compared are therefore interleaved: every round times one block of each of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.measuring.timing import (
    ReferenceHistory,
    TimedBlock,
    combine,
    plan_repeats,
    time_block,
)
from tvm_costmodel.profiling.runners.local import all_finite
from tvm_costmodel.profiling.runners.runner import LoadedNetwork, Runner, TensorSpec
from tvm_costmodel.profiling.store.serialization import timing_to_dict


class InterleavedTimer:
    """Holds the builds of one network and times them round by round.

    Args:
        runner: Loads and times builds.
        config: How a block is timed.
        history: Recent times of the reference kernel.
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

    def held(self, slot: str) -> Any:
        """The build that is held under a name.

        Raises:
            ConfigError: There is none.
        """
        if slot not in self._builds:
            raise ConfigError(f"no build is held under {slot!r}; build it first")
        return self._builds[slot]

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
        """Times builds interleaved, and compares their outputs with the first one's.

        Args:
            slots: Names of held builds, the default build first.
            specs: Shape and dtype of the network's inputs.
            rounds: Number of timed blocks of each build.
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
        results: dict[str, dict[str, Any]] = {}
        blocks: dict[str, list[TimedBlock]] = {slot: [] for slot in slots}
        plans: dict[str, tuple[int, int]] = {}
        with ExitStack() as stack:
            loaded_builds: dict[str, LoadedNetwork] = {}
            for slot in slots:
                if self._runner.several:
                    loaded_builds[slot] = stack.enter_context(self._loaded(slot, specs))
                with self._ready(slot, loaded_builds, specs) as loaded:
                    results[slot] = self._compared(loaded, slot == slots[0]) if compare else {}
                    plans[slot] = plan_repeats(loaded, self._config)
            for _ in range(rounds):
                for slot in slots:
                    with self._ready(slot, loaded_builds, specs) as loaded:
                        settings = (plans[slot], self._config, self._history)
                        blocks[slot].append(time_block(self._runner, loaded, *settings))
        for slot in slots:
            results[slot]["timing"] = timing_to_dict(combine(blocks[slot], plans[slot][0]))
        return results

    @contextmanager
    def _loaded(self, slot: str, specs: Sequence[TensorSpec]) -> Iterator[LoadedNetwork]:
        loaded = self._runner.load(self._builds[slot], specs)
        try:
            yield loaded
        finally:
            loaded.close()

    @contextmanager
    def _ready(
        self, slot: str, loaded_builds: Mapping[str, LoadedNetwork], specs: Sequence[TensorSpec]
    ) -> Iterator[LoadedNetwork]:
        """A loaded build; a runner that holds one network at a time loads it anew."""
        if slot in loaded_builds:
            yield loaded_builds[slot]
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
    from tvm_costmodel.compilers.build_result import compare_outputs

    difference = compare_outputs(outputs, expected)
    return difference.max_abs_err, difference.max_rel_err
