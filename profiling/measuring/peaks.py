"""What this processor can do at best: arithmetic in float32, and reading from caches and memory.

Chains of multiply-adds that stay in registers give the one; sums of arrays of several sizes, each
small enough for another cache or too large for all, give the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.profiling.runners.tensors import compiled, tensor

if TYPE_CHECKING:
    import tvm

_CHAINS = 10
"""Independent vectors: enough to hide the latency of multiply-adds, few enough for 16 registers."""
_STEPS = 1 << 15
_LEAST_S = 0.03
"""Time that each kernel is repeated for; the fastest run counts."""
_LARGEST = 1 << 26
_SIZES = tuple(1 << power for power in range(16, 27))


@dataclass(frozen=True)
class Peaks:
    """A processor's limits.

    Attributes:
        flops: Floating-point operations a second.
        bandwidths: Bytes of an array, and the bytes a second at which one of that size is read,
            the smallest first.
    """

    flops: float
    bandwidths: tuple[tuple[int, float], ...]

    def bandwidth(self, size: float) -> float:
        """Bytes a second of arrays of this size, or the next smaller one that was measured."""
        return max(
            (rate for held, rate in self.bandwidths if 2 * held > size),
            default=self.bandwidths[-1][1],
        )

    def least_s(self, flops: float, size: float) -> float:
        """Seconds that this work takes at least."""
        return max(flops / self.flops, size / self.bandwidth(size))


class PeakProbe:
    """Measures the limits on as many threads as a target has cores; imports TVM.

    Other programs slow down what it measures too: the best of several samples counts.

    Args:
        target: TVM's target of this machine.
    """

    def __init__(self, target: tvm.target.Target) -> None:
        from tvm_costmodel.compilers.cpu_rule import CpuRuleConfig
        from tvm_costmodel.compilers.cpu_rule.plan.machine import Machine

        self._threads = threads = int(target.attrs.get("num-cores", 1))
        lanes = Machine.from_target(target, CpuRuleConfig()).lanes
        self._width = lanes * _CHAINS
        library = _compile(target, threads, lanes)
        self._multiply_adds, self._reads = library["multiply_adds"], library["reads"]
        self._sums = tensor(np.zeros((threads, self._width), np.float32))
        self._factors = tensor(np.array([0.5, 1.0], np.float32))
        self._numbers = tensor(np.ones((threads, _LARGEST // 4), np.float32))
        self._flops = 0.0
        self._rates = dict.fromkeys(_SIZES, 0.0)

    def sample(self) -> Peaks:
        """Measures once more; the best so far."""
        seconds = _fastest(self._multiply_adds, self._factors, self._sums)
        work = 2 * self._threads * self._width * _STEPS
        self._flops = max(self._flops, work / seconds)
        for size in _SIZES:
            steps, repeats = size // (4 * self._width), max(1, (1 << 20) // size)
            seconds = _fastest(self._reads, self._numbers, self._sums, steps, repeats)
            read = self._threads * repeats * steps * 4 * self._width
            self._rates[size] = max(self._rates[size], read / seconds)
        return Peaks(self._flops, tuple(self._rates.items()))


def _fastest(run: Callable[..., object], *arguments: object) -> float:
    run(*arguments)  # compiles, too
    begin, fastest = time.perf_counter(), math.inf
    while (start := time.perf_counter()) - begin < _LEAST_S:
        run(*arguments)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest


def _compile(target: tvm.target.Target, threads: int, lanes: int) -> Any:
    """Both kernels; every thread has vectors, and numbers to read, of its own."""
    import tvm
    from tvm.script import tirx as T

    width, size, chains, steps = lanes * _CHAINS, _LARGEST // 4, _CHAINS, _STEPS

    @T.prim_func(s_tir=True)
    def multiply_adds(factors_: T.handle, sums_: T.handle):  # type: ignore[no-untyped-def]
        T.func_attr({"global_symbol": "multiply_adds", "tirx.noalias": True})
        factors = T.match_buffer(factors_, (2,), "float32")
        sums = T.match_buffer(sums_, (threads, width), "float32")
        for thread in T.parallel(threads):
            own = T.alloc_buffer((width,), "float32", scope="local")
            for lane in T.vectorized(width):
                own[lane] = T.Cast("float32", lane)
            for _ in T.serial(steps):
                for chain in T.unroll(chains):
                    for lane in T.vectorized(lanes):
                        own[chain * lanes + lane] = (
                            own[chain * lanes + lane] * factors[0] + factors[1]
                        )
            for lane in T.vectorized(width):
                sums[thread, lane] = own[lane]

    @T.prim_func(s_tir=True)
    def reads(  # type: ignore[no-untyped-def]
        numbers_: T.handle, sums_: T.handle, steps: T.int32, repeats: T.int32
    ):
        T.func_attr({"global_symbol": "reads", "tirx.noalias": True})
        numbers = T.match_buffer(numbers_, (threads, size), "float32")
        sums = T.match_buffer(sums_, (threads, width), "float32")
        for thread in T.parallel(threads):
            own = T.alloc_buffer((width,), "float32", scope="local")
            for lane in T.vectorized(width):
                own[lane] = T.float32(0)
            for _ in T.serial(repeats):
                for step in T.serial(steps):
                    for chain in T.unroll(chains):
                        for lane in T.vectorized(lanes):
                            own[chain * lanes + lane] = (
                                own[chain * lanes + lane]
                                + numbers[thread, step * width + chain * lanes + lane]
                            )
            for lane in T.vectorized(width):
                sums[thread, lane] = own[lane]

    module = tvm.IRModule({"multiply_adds": multiply_adds, "reads": reads})
    return compiled(module, target)
