"""Timing networks that Relay built: on this machine, or on a board through RPC."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.devices import Device
from tvm_costmodel.profiling.runners.arguments import ArgumentPool, random_array
from tvm_costmodel.profiling.runners.local import LocalRunner, all_finite, sample
from tvm_costmodel.profiling.runners.rpc import RpcRunner
from tvm_costmodel.profiling.runners.runner import Sample, TensorSpec
from tvm_costmodel.profiling.runners.tensors import tensor


def make_graph_runner(device: Device, target: Any) -> LocalRunner | RpcRunner:
    """The runner for a device.

    Args:
        device: Where networks run.
        target: TVM target of the device.

    Raises:
        DeviceError: No tracker answers or knows the board; or this machine cannot run code for
            the target.
    """
    if device.runner == "rpc":
        return GraphRpcRunner(device, target)
    return GraphLocalRunner(target)


class GraphExecutor:
    """A graph executor with its inputs set.

    Args:
        factory: What Relay built, or the same loaded on a board.
        device: TVM device.
        names: Names of the inputs.
        arrays: Their values.
    """

    def __init__(
        self, factory: Any, device: Any, names: Sequence[str], arrays: Sequence[np.ndarray]
    ) -> None:
        executor: Any = importlib.import_module("tvm.contrib.graph_executor")
        self._device = device
        self._module = executor.GraphModule(factory["default"](device))
        for name, array in zip(names, arrays, strict=True):
            self._module.set_input(name, tensor(array, device))

    def evaluator(self, number: int, repeat: int) -> Any:
        """Times whole runs."""
        return self._module.module.time_evaluator("run", self._device, number, repeat)

    def outputs(self) -> list[np.ndarray]:
        """Runs once and returns every output."""
        self._module.run()
        count = self._module.get_num_outputs()
        return [self._module.get_output(i).numpy() for i in range(count)]


class GraphLocalRunner(LocalRunner):
    """Runs networks of Relay in this program.

    Args:
        target: TVM target of this machine.

    Raises:
        DeviceError: The target is for another architecture.
    """

    def __init__(self, target: Any) -> None:
        from tvm_costmodel.compilers.relay.target import require_runnable_here

        require_runnable_here(target)
        super().__init__(target)

    def load(self, build: Any, inputs: Sequence[TensorSpec]) -> GraphNetwork:  # type: ignore[override]
        """Loads a built network and sets random inputs."""
        return GraphNetwork(build, inputs, self._device, self._pool)

    def facts(self) -> dict[str, Any]:
        """The TVM that built and ran."""
        return super().facts() | _tvm_facts()


class GraphNetwork:
    """A network inside a graph executor of this program."""

    def __init__(
        self, build: Any, inputs: Sequence[TensorSpec], device: Any, pool: ArgumentPool
    ) -> None:
        self._device, self._pool = device, pool
        self._library = build.kernel_library
        arrays = [random_array(spec, seed) for seed, spec in enumerate(inputs)]
        self._executor = GraphExecutor(build.executable, device, build.inputs, arrays)

    def network(self, number: int, repeat: int) -> Sample:
        """Times whole runs."""
        evaluator = self._executor.evaluator(number, repeat)
        return sample(lambda: evaluator().results)

    def kernel(
        self, name: str, parameters: Sequence[TensorSpec], number: int, repeat: int
    ) -> Sample:
        """Times one kernel inside the network's library."""
        evaluator = self._library.time_evaluator(name, self._device, number, repeat)
        arguments = self._pool.tensors(parameters)
        return sample(lambda: evaluator(*arguments).results)

    def outputs_are_finite(self) -> bool:
        """Runs once and looks at every floating-point output."""
        return all(map(all_finite, self._executor.outputs()))

    def outputs(self) -> list[np.ndarray]:
        """Runs once and returns every output."""
        return self._executor.outputs()

    def close(self) -> None:
        """Drops the executor."""
        del self._executor, self._library


class GraphRpcRunner(RpcRunner):
    """Runs networks of Relay on a board that registered at a tracker.

    The board runs `tvm_costmodel.profiling.runners.relay_rpc_server` where its build of TVM needs
    it. Arguments and errors as `RpcRunner`.
    """

    executor = "graph_executor"
    server = "tvm_costmodel.profiling.runners.relay_rpc_server"

    def facts(self) -> dict[str, Any]:
        """The board, and the TVM that built."""
        return super().facts() | _tvm_facts()

    def _parts(self, build: Any) -> tuple[Any, Sequence[str]]:
        return build.executable, build.inputs


def _tvm_facts() -> dict[str, Any]:
    from tvm_costmodel.tvm_version import installed

    return {"tvm": installed(), "executor": "graph"}
