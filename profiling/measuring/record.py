"""One measurement: the settings that it is made with and the row that it leaves.

A network is timed in two blocks, with its kernels timed in between. A timed block runs *reference
kernel, network, reference kernel*, so that a machine that was busy or throttled while the network
ran shows in the reference. A block whose repeats disagree, whose thread was pushed off its core or
whose reference was slow is timed again, a bounded number of times, and the quietest is kept.

The speed of a machine drifts by several per cent within seconds, and the reference kernel drifts
along. A label therefore holds the plain latency (the minimum) and the latency in units of the
reference kernel (``relative``, the mean over blocks), which repeats about twice as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.json_config import JsonConfig

PROTOCOL_VERSION = 1
"""Raised when what a label means changes: labels of two versions are never mixed. More repeats,
blocks or other limits of what is noisy make a label better without changing its meaning."""

STATUSES = (
    "ok",
    "source_failed",  # the network could not be built or exported as a graph
    "build_failed",
    "build_timeout",
    "run_failed",
    "run_timeout",
    "wrong_output",  # it ran, but its outputs hold NaN or infinity
)


@dataclass(frozen=True)
class MeasurementConfig(JsonConfig):
    """How a network and its kernels are timed. Times are in the unit that the name ends with."""

    title = "the measurement's settings"
    stored_names: ClassVar = {"blocks": "visits"}

    warmup: int = 1
    """Untimed runs before anything is timed; the first also estimates the latency."""
    min_repeat_ms: float = 20.0
    """Each repeat runs the network often enough to take at least this long."""
    blocks: int = 2
    """Timed blocks of the network, with other work in between; stored as ``visits``."""
    max_repeats: int = 5
    """Largest number of repeats in one timed block."""
    min_repeats: int = 3
    """Smallest number of repeats in one timed block."""
    budget_ms: float = 125.0
    """Repeats are added to a block, up to ``max_repeats``, while they fit in this time."""
    max_attempts: int = 3
    """How often a noisy block is timed, the first time included."""
    spread_limit: float = 0.03
    """Noisy when (median - minimum) / minimum of the repeats is above this."""
    reference_limit: float = 0.10
    """Noisy when a reference time is this much above the usual one, as a share."""
    idle_limit: float = 0.03
    """Noisy when this share of the wall time was not spent on the processor."""
    switches_per_s: float = 200.0
    """Noisy when the thread was pushed off its core more often than this, a second. Short
    interruptions by the system are harmless to a minimum; ``idle_limit`` catches long ones."""
    kernels: bool = True
    """Also time each kernel of the network on its own."""
    kernel_min_repeat_ms: float = 3.0
    kernel_repeats: int = 3
    kernel_spread_limit: float = 0.05
    """A kernel is timed again, ``max_attempts`` times at most, while its repeats differ more."""
    source_timeout_s: float = 120.0
    build_timeout_s: float = 180.0
    run_timeout_s: float = 120.0
    memory_limit_mib: int = 6144
    """A worker whose resident memory passes this is stopped and the row says so."""

    def __post_init__(self) -> None:
        if self.min_repeats < 1 or self.max_repeats < self.min_repeats:
            raise ConfigError(
                f"min_repeats={self.min_repeats}, max_repeats={self.max_repeats}: "
                "use 1 <= min_repeats <= max_repeats"
            )
        if self.blocks < 1 or self.max_attempts < 1:
            raise ConfigError(
                f"blocks={self.blocks}, max_attempts={self.max_attempts}: use 1 or more"
            )
        for name in ("min_repeat_ms", "kernel_min_repeat_ms", "run_timeout_s", "build_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0")


@dataclass(frozen=True)
class Timing:
    """One timed label. Latencies are seconds a run."""

    latency_s: float
    """The minimum over the repeats of all blocks."""
    relative: float
    """Latency in units of the reference kernel: the mean over blocks of minimum over reference."""
    quantiles: Mapping[str, float]
    """``p10``, ``p50``, ``p90`` over the repeats, in seconds."""
    repeats: tuple[float, ...]
    number: int
    """Runs in each repeat."""
    wall_s: float
    cpu_s: float | None
    """Processor time over the same stretch as ``wall_s``; None where it cannot be seen (RPC)."""
    involuntary_switches: int | None
    reference_s: float
    """The reference kernel's time, the mean over blocks of the faster of before and after."""
    noise: float
    """(median - minimum) / minimum of the repeats, the mean over blocks."""
    blocks: tuple[tuple[float, float], ...] = ()
    """(minimum, reference) of each timed block, in seconds; stored as ``visits``."""
    attempts: int = 1
    """Number of blocks that were timed, noisy ones included."""
    quiet: bool = True
    """False when every attempt at some block was noisy."""
    why_noisy: str = ""
    """Why the blocks that stayed noisy were."""
    baseline_blocks: tuple[tuple[float, float], ...] = ()
    """``blocks`` of the default build in the same rounds, where this is a variant's label; stored
    as ``beside``."""
    max_abs_err: float | None = None
    """Largest difference of an output from the default build's, where this is a variant's label."""
    max_rel_err: float | None = None
    """The same, relative to the largest magnitude of the output."""

    @property
    def ratio(self) -> float | None:
        """Latency over the default build's: the mean over rounds, in units of the reference."""
        if not self.baseline_blocks:
            return None
        variant = sum(latency / reference for latency, reference in self.blocks)
        return variant / sum(latency / reference for latency, reference in self.baseline_blocks)


@dataclass(frozen=True)
class KernelTime:
    """One kernel of a network, timed on its own inside the network's library."""

    name: str
    hash: str
    calls: int
    """How often one run of the network calls it."""
    latency_s: float
    noise: float = 0.0
    flops: float | None = None
    parameters: tuple[tuple[tuple[int, ...], str], ...] = ()
    """(shape, dtype) of every argument, outputs last."""
    template: str | None = None
    """The schedule template that made it; empty for the fallback, None in rows without a record."""
    components: Mapping[str, int] | None = field(default=None, hash=False)
    """Versions of what made its code; None in rows without a record."""


@dataclass(frozen=True)
class Measurement:
    """One row: a network on a device, measured or failed."""

    key: str
    graph_hash: str
    """32 hex characters; empty when the source failed before it gave a graph."""
    graph: str
    """Canonical OpGraph JSON; empty when there is none."""
    device: str
    config_key: str
    """Key of the pipeline (compiler settings with their versions) that built it."""
    pipeline: Mapping[str, Any]
    family: str
    source: Mapping[str, Any]
    source_key: str
    status: str
    error: str = ""
    timing: Timing | None = None
    kernels: tuple[KernelTime, ...] = ()
    unscheduled: tuple[str, ...] = ()
    """Kernels that the schedule rule had no template for, with the reason."""
    environment_id: str = ""
    protocol: int = PROTOCOL_VERSION
    created_at: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """What the label cost: ``source``, ``build``, ``network``, ``kernels``."""
    components: Mapping[str, int] | None = None
    """Versions of what its build used, 0 for what it left alone, see
    `tvm_costmodel.compilers.components.full_record`; None in rows without a record."""

    @property
    def latency_s(self) -> float | None:
        """Minimum over the repeats in seconds, None for a failed row."""
        return self.timing.latency_s if self.timing else None


def content_key(*parts: object) -> str:
    """32 hex characters over the canonical JSON of ``parts``."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def measurement_key(
    graph_hash: str, device: str, pipeline_key: str, protocol: int = PROTOCOL_VERSION
) -> str:
    """The key under which a label is stored, looked up and resumed."""
    return content_key(graph_hash, device, pipeline_key, protocol)


def quantile(values: tuple[float, ...] | list[float], share: float) -> float:
    """Linear-interpolated quantile of a non-empty list; ``share`` is in [0, 1]."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)
