"""TVM's target for a device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_costmodel.profiling.devices import require_own_processor

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.compiler import Compiler
    from tvm_costmodel.profiling.devices import Device


def make_target(device: Device, compiler: Compiler) -> tvm.target.Target:
    """The target that a compiler builds for on a device; imports TVM.

    Raises:
        DeviceError: TVM has no LLVM, or none that makes code for this machine, or the device is
            another processor than this machine's.
    """
    require_own_processor(device)
    if device.target.get("mcpu") == "host":
        return compiler.cpu_target(device.threads)
    import tvm

    return tvm.target.Target({**device.target, "num-cores": device.threads})
