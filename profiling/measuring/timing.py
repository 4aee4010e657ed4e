"""Taking a label: timed blocks of reference, network, reference, repeated while they are noisy."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tvm_costmodel.profiling.measuring.record import MeasurementConfig, Timing, quantile
from tvm_costmodel.profiling.runners.runner import LoadedNetwork, Runner, Sample, TensorSpec

_REFERENCE_NUMBER = 5
_REFERENCE_REPEATS = 4
_LONG_KERNEL_S = 0.02
_MAX_NUMBER = 20_000


@dataclass
class ReferenceHistory:
    """Recent times of the reference kernel, which tell a slow moment from a slow machine."""

    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))

    def usual(self) -> float | None:
        """The 20 % quantile of the last 200 times in seconds; None before any."""
        return quantile(list(self.times_s), 0.2) if self.times_s else None


@dataclass(frozen=True)
class TimedBlock:
    """A run of repeats between two timings of the reference kernel."""

    sample: Sample
    reference_s: float
    """The faster of before and after."""
    attempts: int = 1
    why_noisy: str = ""

    @property
    def latency_s(self) -> float:
        """Minimum over the repeats."""
        return min(self.sample.times_s)

    @property
    def noise(self) -> float:
        """(median - minimum) / minimum of the repeats."""
        return quantile(self.sample.times_s, 0.5) / self.latency_s - 1


def plan_repeats(loaded: LoadedNetwork, config: MeasurementConfig) -> tuple[int, int]:
    """Warms up, and gives (runs in a repeat, repeats of a block) that fit the settings."""
    estimate_s = max(_estimate(loaded, config), 1e-7)
    number = min(_MAX_NUMBER, max(1, math.ceil(config.min_repeat_ms * 1e-3 / estimate_s)))
    fitting = int(config.budget_ms * 1e-3 / (number * estimate_s))
    return number, min(config.max_repeats, max(config.min_repeats, fitting))


def time_block(
    runner: Runner,
    loaded: LoadedNetwork,
    plan: tuple[int, int],
    config: MeasurementConfig,
    history: ReferenceHistory,
) -> TimedBlock:
    """Times one block of a loaded network until it is quiet, ``max_attempts`` times at most.

    Args:
        runner: Times the reference kernel.
        loaded: The network.
        plan: From :func:`plan_repeats`.
        config: Limits of what counts as quiet.
        history: Recent times of the reference kernel; those of this block are added.

    Returns:
        The first quiet attempt; when all were noisy, the fastest, with the reason.
    """
    noisy: list[TimedBlock] = []
    for attempt in range(1, config.max_attempts + 1):
        before = _reference(runner)
        sample = loaded.network(*plan)
        after = _reference(runner)
        usual = history.usual()
        history.times_s.append(min(before, after))
        why = _why_noisy(sample, before, after, usual, config)
        block = TimedBlock(sample, min(before, after), attempt, why)
        if not why:
            return block
        noisy.append(block)
    return replace(min(noisy, key=lambda block: block.latency_s), attempts=len(noisy))


def combine(blocks: Sequence[TimedBlock], number: int) -> Timing:
    """One label from all timed blocks of a network, each repeat of ``number`` runs."""
    times = tuple(time for b in blocks for time in b.sample.times_s)
    cpu = [b.sample.cpu_s for b in blocks if b.sample.cpu_s is not None]
    switches = [
        b.sample.involuntary_switches for b in blocks if b.sample.involuntary_switches is not None
    ]
    return Timing(
        latency_s=min(times),
        relative=_mean([b.latency_s / b.reference_s for b in blocks]),
        quantiles={f"p{share}": quantile(times, share / 100) for share in (10, 50, 90)},
        repeats=times,
        number=number,
        wall_s=sum(b.sample.wall_s for b in blocks),
        cpu_s=sum(cpu) if cpu else None,
        involuntary_switches=sum(switches) if switches else None,
        reference_s=_mean([b.reference_s for b in blocks]),
        noise=_mean([b.noise for b in blocks]),
        blocks=tuple((b.latency_s, b.reference_s) for b in blocks),
        attempts=sum(b.attempts for b in blocks),
        quiet=not any(b.why_noisy for b in blocks),
        why_noisy="; ".join(b.why_noisy for b in blocks if b.why_noisy),
    )


def time_kernel(
    loaded: LoadedNetwork, name: str, parameters: tuple[TensorSpec, ...], config: MeasurementConfig
) -> tuple[float, float]:
    """Times one kernel of a loaded network.

    Returns:
        (minimum latency in seconds, noise as (median - minimum) / minimum).
    """
    estimate = max(loaded.kernel(name, parameters, 1, 1).times_s[0], 1e-7)
    number = max(1, math.ceil(config.kernel_min_repeat_ms * 1e-3 / estimate))
    repeats = config.kernel_repeats if estimate < _LONG_KERNEL_S else 2
    best, noise = math.inf, math.inf
    for _ in range(config.max_attempts):
        times = loaded.kernel(name, parameters, min(number, _MAX_NUMBER), repeats).times_s
        best, noise = min(best, *times), min(noise, quantile(times, 0.5) / min(times) - 1)
        if noise <= config.kernel_spread_limit:
            break
    return best, noise


def _estimate(loaded: LoadedNetwork, config: MeasurementConfig) -> float:
    """Warms up and gives a rough latency in seconds."""
    sample = loaded.network(max(1, config.warmup), 1)
    if sample.times_s[0] * 1e3 < config.min_repeat_ms / 10:
        sample = loaded.network(5, 1)  # one run of a fast network says little
    return sample.times_s[0]


def _reference(runner: Runner) -> float:
    return min(runner.reference(_REFERENCE_NUMBER, _REFERENCE_REPEATS).times_s)


def _why_noisy(
    sample: Sample, before: float, after: float, usual: float | None, config: MeasurementConfig
) -> str:
    """Why this attempt cannot be trusted; empty when it can."""
    fastest = min(sample.times_s)
    spread = quantile(sample.times_s, 0.5) / fastest - 1
    if spread > config.spread_limit:
        return f"repeats differ by {spread:.1%}"
    base = min(before, after) if usual is None else min(usual, before, after)
    slowest = max(before, after) / base - 1
    if slowest > config.reference_limit:
        return f"the machine was {slowest:.1%} slower than usual"
    if sample.cpu_s is not None and sample.wall_s > 0:
        idle = 1 - sample.cpu_s / sample.wall_s
        if idle > config.idle_limit:
            return f"{idle:.1%} of the time was spent off the processor"
    if sample.involuntary_switches is not None and sample.wall_s > 0:
        rate = sample.involuntary_switches / sample.wall_s
        if rate > config.switches_per_s:
            return f"{rate:.0f} interruptions a second"
    return ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
