"""Taking a label with a scripted runner: which blocks are quiet, timed again or marked noisy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.measuring.record import MeasurementConfig, measurement_key, quantile
from tvm_costmodel.profiling.measuring.timing import (
    ReferenceHistory,
    TimedBlock,
    combine,
    plan_repeats,
    time_block,
    time_kernel,
)
from tvm_costmodel.profiling.runners.runner import Sample

CONFIG = MeasurementConfig()


class Script:
    """A runner and network in one, whose samples follow a script."""

    def __init__(
        self,
        samples: Sequence[Sample],
        references: Sequence[float] = (),
        estimate_s: float = 4e-3,
    ) -> None:
        self.estimate_s = estimate_s
        self.samples = list(samples)
        self.references = list(references)
        self.calls: list[str] = []

    def reference(self, number: int, repeat: int) -> Sample:
        self.calls.append("A")
        return Sample((self.references.pop(0) if self.references else 1e-3,), 0.01)

    def network(self, number: int, repeat: int) -> Sample:
        self.calls.append("estimate" if repeat == 1 else "B")
        if repeat == 1:
            return Sample((self.estimate_s,), self.estimate_s)
        return self.samples.pop(0)

    def kernel(self, name: str, parameters: Any, number: int, repeat: int) -> Sample:
        self.calls.append(f"{name} {number}x{repeat}")
        return Sample((1e-3,), 0.001) if repeat == 1 else self.samples.pop(0)


def quiet(latency_s: float = 4e-3) -> Sample:
    return Sample((latency_s * 1.01, latency_s, latency_s * 1.02), 0.1, 0.0995, 1)


def take(script: Script, history: ReferenceHistory | None = None) -> TimedBlock:
    return time_block(script, script, (5, 3), CONFIG, history or ReferenceHistory())  # type: ignore[arg-type]


def test_a_quiet_block_is_timed_once_between_two_references() -> None:
    script = Script([quiet()], [1.01e-3, 1.00e-3])
    block = take(script)
    assert script.calls == ["A", "B", "A"]
    assert (block.latency_s, block.reference_s, block.attempts) == (4e-3, 1.00e-3, 1)
    assert block.noise == pytest.approx(0.01) and not block.why_noisy


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Sample((4e-3, 5e-3, 6e-3), 0.1, 0.1, 0), "repeats differ by 25.0%"),
        (Sample((4e-3, 4e-3, 4e-3), 0.1, 0.05, 0), "50.0% of the time was spent off the processor"),
        (Sample((4e-3, 4e-3, 4e-3), 0.1, 0.1, 90), "900 interruptions a second"),
    ],
)
def test_a_noisy_block_is_timed_again(bad: Sample, why: str) -> None:
    block = take(Script([bad, quiet()]))
    assert (block.attempts, block.why_noisy, block.latency_s) == (2, "", 4e-3)
    block = take(Script([bad, bad, bad]))
    assert block.attempts == 3 and why in block.why_noisy


def test_a_block_with_a_slow_reference_is_timed_again() -> None:
    block = take(Script([quiet(5e-3), quiet(4e-3)], [1e-3, 1.2e-3, 1e-3, 1e-3]))
    assert (block.attempts, block.latency_s) == (2, 4e-3)


def test_a_machine_that_is_slow_before_and_after_is_known_by_its_history() -> None:
    history = ReferenceHistory()
    history.times_s.extend([1e-3] * 20)
    block = take(Script([quiet(5e-3), quiet(4e-3)], [1.5e-3, 1.5e-3, 1e-3, 1e-3]), history)
    assert (block.attempts, block.latency_s) == (2, 4e-3)


def test_the_fastest_of_noisy_attempts_is_kept_and_marked() -> None:
    noisy = [Sample((t, t * 1.5, t * 2), 0.1, 0.1, 0) for t in (5e-3, 4e-3, 6e-3)]
    block = take(Script(noisy))
    assert (block.latency_s, block.attempts, bool(block.why_noisy)) == (4e-3, 3, True)


def test_remote_samples_without_processor_time_are_judged_by_the_rest() -> None:
    assert not take(Script([Sample((4e-3, 4e-3, 4e-3), 0.1)])).why_noisy


def test_blocks_become_one_label() -> None:
    fast, slow = TimedBlock(quiet(4e-3), 1e-3), TimedBlock(quiet(5e-3), 1.25e-3, 3, "the machine")
    timing = combine([fast, slow], number=5)
    assert (timing.latency_s, timing.number, len(timing.repeats)) == (4e-3, 5, 6)
    assert timing.relative == pytest.approx(4.0), "the reference slowed down with the network"
    assert timing.reference_s == pytest.approx(1.125e-3)
    assert timing.blocks == ((4e-3, 1e-3), (5e-3, 1.25e-3))
    assert (timing.attempts, timing.quiet, timing.why_noisy) == (4, False, "the machine")
    assert timing.cpu_s == pytest.approx(0.199) and timing.involuntary_switches == 2
    remote = combine([TimedBlock(Sample((1e-3,), 0.1), 1e-3)], number=1)
    assert remote.cpu_s is None and remote.involuntary_switches is None


@pytest.mark.parametrize(
    ("estimate_s", "expected"),
    [(0.5e-3, (40, 5)), (4e-3, (5, 5)), (30e-3, (1, 4)), (0.2, (1, 3)), (3.0, (1, 3))],
)
def test_repeats_follow_the_latency(estimate_s: float, expected: tuple[int, int]) -> None:
    assert plan_repeats(Script([], estimate_s=estimate_s), CONFIG) == expected  # type: ignore[arg-type]


def test_kernels_are_repeated_until_they_agree() -> None:
    script = Script([Sample((1.0, 2.0, 3.0), 1.0), Sample((1.1, 1.1, 1.1), 1.0)])
    assert time_kernel(script, "k", (), CONFIG) == (1.0, pytest.approx(0.0))  # type: ignore[arg-type]
    assert script.calls == ["k 1x1", "k 3x3", "k 3x3"]


def test_quantiles_are_interpolated() -> None:
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 0.9) == pytest.approx(1.9)
    assert quantile([7.0], 0.1) == 7.0


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="min_repeats=4, max_repeats=2"):
        MeasurementConfig(min_repeats=4, max_repeats=2)
    with pytest.raises(ConfigError, match="settings: unknown key 'repeat'; did you mean"):
        MeasurementConfig.from_dict({"repeat": 3})
    changed = dataclasses.replace(CONFIG, max_repeats=5, blocks=3)
    assert changed.to_dict()["visits"] == 3 and "blocks" not in changed.to_dict()
    assert MeasurementConfig.from_dict(changed.to_dict()) == changed
    with pytest.raises(ConfigError, match="blocks=0, max_attempts=3: use 1 or more"):
        dataclasses.replace(CONFIG, blocks=0)


def test_keys_hold_everything_that_makes_a_label() -> None:
    keys = {
        measurement_key("g", "d", "p"),
        measurement_key("h", "d", "p"),
        measurement_key("g", "e", "p"),
        measurement_key("g", "d", "q"),
        measurement_key("g", "d", "p", 99),
    }
    assert len(keys) == 5
