"""Which runner runs the networks of an executor, such as Relax's virtual machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import ConfigError

if TYPE_CHECKING:
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.profiling.runners.runner import Runner


def _virtual_machine(device: Device, target: Any) -> Runner:
    if device.runner == "rpc":
        from tvm_costmodel.profiling.runners.rpc import RpcRunner

        return RpcRunner(device, target)
    from tvm_costmodel.profiling.runners.local import LocalRunner

    return LocalRunner(target)


def _graph_executor(device: Device, target: Any) -> Runner:
    from tvm_costmodel.profiling.runners.graph_executor import make_graph_runner

    return make_graph_runner(device, target)


EXECUTORS: Mapping[str, Callable[[Device, Any], Runner]] = {
    "virtual_machine": _virtual_machine,
    "graph_executor": _graph_executor,
}
"""What makes the runner of an executor, by the name that ``Compiler.executor`` gives."""


def make_runner(executor: str, device: Device, target: Any) -> Runner:
    """The runner of an executor on a device.

    Args:
        executor: ``Compiler.executor`` of the compiler whose networks it runs.
        device: Where networks run.
        target: TVM target of the device.

    Raises:
        ConfigError: No runner is known for the executor.
        DeviceError: No tracker answers or knows the board; or this machine cannot run code for
            the target.
    """
    if executor not in EXECUTORS:
        raise ConfigError(f"unknown executor {executor!r}; known: {', '.join(EXECUTORS)}")
    return EXECUTORS[executor](device, target)
