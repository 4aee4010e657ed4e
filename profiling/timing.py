"""Taking a label: reference, network, reference; again when it was noisy."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from tvm_costmodel.profiling.measurement import MeasurementConfig, Timing, quantile
from tvm_costmodel.profiling.runners.runner import LoadedNetwork, Runner, Sample, TensorSpec

_REFERENCE_NUMBER = 2
_REFERENCE_REPEATS = 5
_LONG_KERNEL_S = 0.02
_MAX_NUMBER = 20_000


@dataclass
class ReferenceHistory:
    """What the reference kernel took lately, to tell a slow moment from a slow machine."""

    times_s: deque[float] = field(default_factory=lambda: deque(maxlen=200))

    def usual(self) -> float | None:
        """The 20 % quantile of the last 200 times in seconds; None before any."""
        return quantile(list(self.times_s), 0.2) if self.times_s else None


def time_network(
    runner: Runner, loaded: LoadedNetwork, config: MeasurementConfig, history: ReferenceHistory
) -> Timing:
    """Times a loaded network until a quiet attempt, ``max_attempts`` times at most.

    Returns:
        The quietest attempt. When all were noisy, the fastest of them, marked as not quiet.
    """
    number, repeats = plan_repeats(_estimate(loaded, config), config)
    noisy: list[Timing] = []
    for attempt in range(1, config.max_attempts + 1):
        before = _reference(runner)
        sample = loaded.network(number, repeats)
        after = _reference(runner)
        usual = history.usual()
        history.times_s.append(min(before, after))
        why = _why_noisy(sample, before, after, usual, config)
        timing = _timing(sample, number, before, after, attempt, why)
        if timing.quiet:
            return timing
        noisy.append(timing)
    best = min(noisy, key=lambda t: t.latency_s)
    return _with_attempts(best, len(noisy))


def plan_repeats(estimate_s: float, config: MeasurementConfig) -> tuple[int, int]:
    """(runs in a repeat, repeats) that fit the settings for a network of this latency."""
    estimate_s = max(estimate_s, 1e-7)
    number = min(_MAX_NUMBER, max(1, math.ceil(config.min_repeat_ms * 1e-3 / estimate_s)))
    fitting = int(config.budget_ms * 1e-3 / (number * estimate_s))
    return number, min(config.max_repeats, max(config.min_repeats, fitting))


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
    """Warms up and gives a first idea of the latency in seconds."""
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
        return f"median of the repeats is {spread:.1%} above their minimum"
    base = min(before, after) if usual is None else min(usual, before, after)
    slowest = max(before, after) / base - 1
    if slowest > config.reference_limit:
        return f"the reference kernel was {slowest:.1%} slower than usual"
    if sample.cpu_s is not None and sample.wall_s > 0:
        idle = 1 - sample.cpu_s / sample.wall_s
        if idle > config.idle_limit:
            return f"{idle:.1%} of the wall time was not on the processor"
    if sample.involuntary_switches is not None and sample.wall_s > 0:
        rate = sample.involuntary_switches / sample.wall_s
        if rate > config.switches_per_s:
            return f"{rate:.0f} involuntary context switches a second"
    return ""


def _timing(
    sample: Sample, number: int, before: float, after: float, attempts: int, why: str
) -> Timing:
    times = sample.times_s
    return Timing(
        latency_s=min(times),
        quantiles={f"p{share}": quantile(times, share / 100) for share in (10, 50, 90)},
        repeats=times,
        number=number,
        wall_s=sample.wall_s,
        cpu_s=sample.cpu_s,
        involuntary_switches=sample.involuntary_switches,
        reference_s=min(before, after),
        reference_after_s=after,
        noise=quantile(times, 0.5) / min(times) - 1,
        attempts=attempts,
        quiet=not why,
        why_noisy=why,
    )


def _with_attempts(timing: Timing, attempts: int) -> Timing:
    from dataclasses import replace

    return replace(timing, attempts=attempts)
