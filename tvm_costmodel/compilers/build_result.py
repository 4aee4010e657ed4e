"""Results of a build, of any TVM: its kernels, and the comparison of its outputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Outputs = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class KernelUse:
    """One kernel of a built network.

    Attributes:
        name: Its name in the executable.
        hash: 16 hexadecimal characters, a hash of the unscheduled function that is the same in
            every process; two kernels with one hash compute the same thing on the same shapes.
        calls: How often one run of the network calls it.
        parameters: Shape and dtype of every tensor it is called with, outputs last.
        template: The schedule template that scheduled it; empty where none fits.
        components: Names of what made its code, see `tvm_costmodel.compilers.components`.
    """

    name: str
    hash: str
    calls: int
    parameters: tuple[tuple[tuple[int, ...], str], ...]
    template: str = ""
    components: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Difference:
    """The difference between two sets of outputs.

    Attributes:
        max_abs_err: Largest absolute difference of any element.
        max_rel_err: Largest difference relative to the largest magnitude of its output.
        equal: Whether every output is within the tolerances and finite where the other is.
    """

    max_abs_err: float
    max_rel_err: float
    equal: bool


def compare_outputs(
    got: Outputs, expected: Outputs, rtol: float = 1e-3, atol: float = 1e-5
) -> Difference:
    """Compares two sets of outputs.

    Args:
        got: Outputs under test.
        expected: Outputs to compare them with, same number and shapes.
        rtol: Tolerance relative to the largest magnitude of each expected output.
        atol: Absolute tolerance, added to it.
    """
    if [a.shape for a in got] != [b.shape for b in expected]:
        return Difference(float("inf"), float("inf"), False)
    absolute, relative, equal = 0.0, 0.0, True
    for a, b in zip(got, expected, strict=True):
        if not b.size:
            continue
        a64, b64 = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(b64)
        if not np.array_equal(finite, np.isfinite(a64)):
            return Difference(float("inf"), float("inf"), False)
        differences = np.subtract(a64, b64, out=np.zeros_like(b64), where=finite)
        error = float(np.max(np.abs(differences), initial=0.0))
        scale = float(np.max(np.abs(b64), where=finite, initial=0.0))
        absolute = max(absolute, error)
        relative = max(relative, error / scale if scale else error)
        equal = equal and error <= atol + rtol * scale
    return Difference(absolute, relative, equal)


def flatten(outputs: Any) -> list[np.ndarray]:
    """Nested outputs of TVM as a list of arrays."""
    if hasattr(outputs, "numpy"):
        return [outputs.numpy()]
    return [array for field in outputs for array in flatten(field)]


def draw_inputs(specs: Iterable[tuple[tuple[int, ...], str]], seed: int = 0) -> list[np.ndarray]:
    """Draws one array per (shape, dtype), from a standard normal distribution.

    Integers are drawn from 0 and 1, so that they are valid as indices.
    """
    rng = np.random.default_rng(seed)
    return [
        rng.standard_normal(shape).astype(dtype)
        if dtype.startswith("float")
        else rng.integers(0, 2, shape).astype(dtype)
        for shape, dtype in specs
    ]
