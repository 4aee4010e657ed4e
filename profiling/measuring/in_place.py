"""Times the kernels of a network in place: within runs of the network, each time one is called.

A kernel that is timed alone finds its arguments in the caches; in place it finds what the kernels
before it leave there. The virtual machine reports each call before and after it; what reporting
itself takes is measured on its calls that do nothing, and taken off.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.runners.tensors import tensor

_SECONDS = 2.0
"""Time for runs of each kind, unless the fewest take longer."""
_FEWEST, _MOST = 5, 100
_NOTHING = "vm.builtin.null_value"


def time_calls(executable: Any, arrays: Sequence[np.ndarray]) -> list[tuple[str, float]]:
    """Name and fastest seconds of each call that a run of a network makes, in their order.

    Args:
        executable: A Relax executable.
        arrays: One for each input.
    """
    import tvm
    import tvm_ffi
    from tvm import relax

    clock = time.perf_counter
    started: list[float] = []
    calls: list[tuple[str, float]] = []

    def report(_function: Any, name: str, is_before: bool, _result: Any, *_arguments: Any) -> int:
        now = clock()
        if is_before:
            started.append(clock())
        else:
            calls.append((name, now - started.pop()))
        return 0  # goes on

    machine = relax.VirtualMachine(executable, tvm.cpu())
    machine.set_instrument(tvm_ffi.convert(report))
    inputs = [tensor(array) for array in arrays]
    runs: list[list[tuple[str, float]]] = []

    def run() -> None:
        calls.clear()
        machine["main"](*inputs)
        runs.append(list(calls))

    fastest_interleaved({"instrumented": run})
    fastest = [(call[0][0], min(s for _, s in call)) for call in zip(*runs, strict=True)]
    reporting = min((s for name, s in fastest if name == _NOTHING), default=0.0)
    return [(name, max(0.0, seconds - reporting)) for name, seconds in fastest]


def network_run(executable: Any, arrays: Sequence[np.ndarray]) -> Callable[[], object]:
    """A run of a Relax network."""
    import tvm
    from tvm import relax

    network = relax.VirtualMachine(executable, tvm.cpu())["main"]
    inputs = [tensor(array) for array in arrays]
    return lambda: network(*inputs)


def fastest_interleaved(runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Fastest seconds of each run; rounds have an untimed run of each, and then a timed one."""
    fastest = dict.fromkeys(runs, float("inf"))
    begin, rounds = time.perf_counter(), 0
    while rounds < _FEWEST or (
        rounds < _MOST and time.perf_counter() - begin < _SECONDS * len(runs)
    ):
        for name, run in runs.items():
            run()  # brings its own weights back into the caches
            start = time.perf_counter()
            run()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
        rounds += 1
    return fastest
