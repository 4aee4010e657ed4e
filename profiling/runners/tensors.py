"""Tensors and libraries of whichever TVM is installed: with Relay (up to 0.19) or without."""

from __future__ import annotations

from typing import Any

import numpy as np


def tensor(array: np.ndarray, device: Any = None) -> Any:
    """A TVM tensor with a copy of an array, on this machine's CPU or on a device."""
    import tvm

    make: Any = getattr(tvm.runtime, "tensor", None) or tvm.nd.array
    return make(array) if device is None else make(array, device)


def shared(array: np.ndarray) -> Any:
    """A TVM tensor over an array's own memory."""
    import tvm

    make: Any = getattr(tvm.runtime, "from_dlpack", None)
    return make(array) if make is not None else tvm.nd.from_dlpack(array.__dlpack__())


def compiled(mod: Any, target: Any) -> Any:
    """The library of a module of PrimFuncs."""
    import tvm

    compile_: Any = getattr(tvm, "compile", None)
    if compile_ is not None:
        return compile_(mod, target).mod
    # Without a host of its own the code that calls the kernels would be for LLVM's default triple.
    return tvm.build(mod, target=tvm.target.Target(target, host=target))
