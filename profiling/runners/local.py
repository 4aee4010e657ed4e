"""Timing on this machine, inside the worker."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.compilers.build_result import flatten
from tvm_costmodel.errors import MeasurementError
from tvm_costmodel.profiling.runners.arguments import ArgumentPool, random_array
from tvm_costmodel.profiling.runners.reference import NAME, PARAMETERS, build_reference
from tvm_costmodel.profiling.runners.runner import Sample, TensorSpec
from tvm_costmodel.profiling.runners.tensors import tensor


class LocalRunner:
    """Runs networks in this program.

    Args:
        target: TVM target of this machine.
    """

    several = True

    def __init__(self, target: Any) -> None:
        import tvm

        self._device = tvm.cpu()
        self._reference = build_reference(target)
        self._arguments = [tensor(random_array(spec)) for spec in PARAMETERS]
        self._pool = ArgumentPool()

    def reference(self, number: int, repeat: int) -> Sample:
        """Times the reference kernel."""
        evaluator = self._reference.time_evaluator(NAME, self._device, number, repeat)
        return sample(lambda: evaluator(*self._arguments).results)

    def load(self, build: Any, inputs: Sequence[TensorSpec]) -> LocalNetwork:
        """Loads a built network and sets random inputs."""
        return LocalNetwork(build, inputs, self._device, self._pool)

    def facts(self) -> dict[str, Any]:
        """Nothing beyond the machine's own facts."""
        return {"runner": "local"}

    def close(self) -> None:
        """Nothing to end."""


class LocalNetwork:
    """A network inside a Relax virtual machine of this program."""

    def __init__(
        self, build: Any, inputs: Sequence[TensorSpec], device: Any, pool: ArgumentPool
    ) -> None:
        from tvm import relax

        self._device = device
        self._pool = pool
        self._vm = relax.VirtualMachine(build.executable, device)
        self._library = build.executable.jit()
        arrays = [random_array(spec, seed) for seed, spec in enumerate(inputs)]
        self._vm.set_input("main", *[tensor(array) for array in arrays])

    def network(self, number: int, repeat: int) -> Sample:
        """Times whole runs."""
        evaluator = self._vm.time_evaluator("invoke_stateful", self._device, number, repeat)
        return sample(lambda: evaluator("main").results)

    def kernel(
        self, name: str, parameters: Sequence[TensorSpec], number: int, repeat: int
    ) -> Sample:
        """Times one kernel inside the network's library."""
        evaluator = _owner(self._library, name).time_evaluator(name, self._device, number, repeat)
        arguments = self._pool.tensors(parameters)
        return sample(lambda: evaluator(*arguments).results)

    def outputs_are_finite(self) -> bool:
        """Runs once and looks at every floating-point output."""
        self._vm.invoke_stateful("main")
        return finite(self._vm.get_outputs("main"))

    def outputs(self) -> list[np.ndarray]:
        """Runs once and returns every output."""
        self._vm.invoke_stateful("main")
        return flatten(self._vm.get_outputs("main"))

    def close(self) -> None:
        """Drops the virtual machine."""
        del self._vm, self._library


def finite(outputs: Any) -> bool:
    """Whether every floating-point tensor in nested outputs is finite."""
    if hasattr(outputs, "numpy"):
        return all_finite(outputs.numpy())
    if hasattr(outputs, "__len__"):
        return all(finite(item) for item in outputs)
    return True


def all_finite(array: np.ndarray) -> bool:
    """Whether an array holds no NaN or infinity; integers never do."""
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def sample(run: Callable[[], Sequence[float]]) -> Sample:
    """Calls an evaluator and notes wall time, processor time and context switches around it."""
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    times = tuple(float(t) for t in run())
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return Sample(times, wall, cpu, after.ru_nivcsw - before.ru_nivcsw)


def _owner(library: Any, name: str) -> Any:
    """The module in the import tree that holds a kernel."""
    waiting = [library]
    while waiting:
        module = waiting.pop()
        if module.implements_function(name, False):
            return module
        waiting += list(module.imports)
    raise MeasurementError(f"the library has no kernel {name!r}; it was built without it")
