"""Arguments for timed functions: views into one pool, so that large weights cost no allocation.

Floating-point values are normal numbers near one half, as denormal ones would slow some processors
down; integers are zero, which is a valid index into any table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.runners.runner import TensorSpec
from tvm_costmodel.profiling.runners.tensors import shared

_ALIGN = 64
_PATTERN = 1 << 14


def random_array(spec: TensorSpec, seed: int = 0) -> np.ndarray:
    """A fresh array of a shape and dtype: floats in [0.1, 1), integers and booleans zero."""
    shape, dtype = spec
    if not dtype.startswith(("float", "bfloat")):
        return np.zeros(shape, dtype)
    generator = np.random.default_rng(seed)
    values = generator.uniform(0.1, 1.0, min(_PATTERN, max(1, math.prod(shape))))
    if dtype == "bfloat16":
        import ml_dtypes

        return np.resize(values, shape).astype(ml_dtypes.bfloat16)
    return np.resize(values.astype(dtype), shape)


class ArgumentPool:
    """Gives TVM tensors over memory that is reused for the next kernel."""

    def __init__(self) -> None:
        self._inputs = np.empty(0, np.uint8)
        self._outputs = np.empty(0, np.uint8)
        self._zeros = np.empty(0, np.uint8)

    def tensors(self, parameters: Sequence[TensorSpec]) -> list[Any]:
        """One tensor for each parameter; the last is the output and has memory of its own."""
        sizes = [_size(spec) for spec in parameters]
        is_float = [dtype == "float32" for _, dtype in parameters]
        last = len(parameters) - 1
        need_float = sum(s for i, s in enumerate(sizes) if is_float[i] and i != last)
        need_zero = sum(s for i, s in enumerate(sizes) if not is_float[i] and i != last)
        self._grow(need_float, need_zero, sizes[last] if sizes else 0)
        places = {"inputs": 0, "zeros": 0, "outputs": 0}
        tensors = []
        for i, (spec, size) in enumerate(zip(parameters, sizes, strict=True)):
            pool = "outputs" if i == last else "inputs" if is_float[i] else "zeros"
            block = getattr(self, f"_{pool}")[places[pool] : places[pool] + size]
            places[pool] += size
            tensors.append(shared(_view(block, spec)))
        return tensors

    def _grow(self, floats: int, zeros: int, output: int) -> None:
        if floats > self._inputs.nbytes:
            self._inputs = _aligned(floats)
            pattern = random_array(((_PATTERN,), "float32"))
            self._inputs[:] = np.resize(pattern.view(np.uint8), floats)
        if zeros > self._zeros.nbytes:
            self._zeros = _aligned(zeros)
            self._zeros[:] = 0
        if output > self._outputs.nbytes:
            self._outputs = _aligned(output)
            self._outputs[:] = 0


def _size(spec: TensorSpec) -> int:
    """Bytes of a parameter, rounded up so that the next one stays aligned."""
    shape, dtype = spec
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return max(_ALIGN, -(-size // _ALIGN) * _ALIGN)


def _aligned(size: int) -> np.ndarray:
    block = np.empty(size + _ALIGN, np.uint8)
    start = -block.ctypes.data % _ALIGN
    return block[start : start + size]


def _view(block: np.ndarray, spec: TensorSpec) -> np.ndarray:
    shape, dtype = spec
    count = math.prod(shape)
    return block.view(np.dtype(dtype))[:count].reshape(shape)
