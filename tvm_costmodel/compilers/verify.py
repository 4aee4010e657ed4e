"""Do two builds of one network compute the same?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from tvm_costmodel.errors import BuildError

Outputs = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far two sets of outputs are apart.

    Attributes:
        max_abs_err: Largest absolute difference of any element.
        max_rel_err: Largest difference relative to the largest magnitude of its output.
        equal: Whether every output is within the tolerances and finite where the other is.
    """

    max_abs_err: float
    max_rel_err: float
    equal: bool


def random_inputs(mod: tvm.IRModule, seed: int = 0, func: str = "main") -> list[np.ndarray]:
    """Draws one array per parameter of a Relax function, from a standard normal distribution.

    Integers are drawn from 0 and 1, so that they are valid as indices.

    Raises:
        BuildError: A parameter's shape is not constant.
    """
    rng = np.random.default_rng(seed)
    arrays = []
    for parameter in mod[func].params:
        shape = tuple(parameter.ty.shape)
        if not all(isinstance(d, tvm.tirx.IntImm) for d in shape):
            raise BuildError(
                f"input {parameter.name!r} has the shape {shape}; fix its dimensions first"
            )
        dtype = str(parameter.ty.dtype)
        extents = tuple(int(d) for d in shape)
        if dtype.startswith("float"):
            arrays.append(rng.standard_normal(extents).astype(dtype))
        else:
            arrays.append(rng.integers(0, 2, extents).astype(dtype))
    return arrays


def run(executable: object, inputs: Sequence[np.ndarray], func: str = "main") -> list[np.ndarray]:
    """Runs a built network once on this machine and returns its outputs, tuples flattened."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine[func](*(tvm.runtime.tensor(array) for array in inputs))
    return _flatten(result)


def _flatten(result: object) -> list[np.ndarray]:
    if hasattr(result, "numpy"):
        return [result.numpy()]
    return [array for field in result for array in _flatten(field)]  # type: ignore[attr-defined]


def compare_outputs(
    got: Outputs, expected: Outputs, rtol: float = 1e-3, atol: float = 1e-5
) -> Difference:
    """Compares two sets of outputs.

    Args:
        got: Outputs under test.
        expected: Outputs to hold them against, same number and shapes.
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
        apart = np.subtract(a64, b64, out=np.zeros_like(b64), where=finite)
        error = float(np.max(np.abs(apart), initial=0.0))
        scale = float(np.max(np.abs(b64), where=finite, initial=0.0))
        absolute = max(absolute, error)
        relative = max(relative, error / scale if scale else error)
        equal = equal and error <= atol + rtol * scale
    return Difference(absolute, relative, equal)


def verify(
    executable: object,
    reference: Callable[..., Outputs] | object,
    inputs: Sequence[np.ndarray],
    rtol: float = 1e-3,
    atol: float = 1e-5,
) -> Difference:
    """Runs a built network and a reference on the same inputs and compares them.

    Args:
        executable: The build under test.
        reference: Another executable, or a callable from the inputs to a list of outputs.
        inputs: One array per parameter.
        rtol: See ``compare_outputs``.
        atol: See ``compare_outputs``.
    """
    if isinstance(reference, tvm.runtime.Executable | relax.VMExecutable):
        expected: Outputs = run(reference, inputs)
    elif callable(reference):
        expected = reference(*inputs)
    else:
        expected = run(reference, inputs)
    return compare_outputs(run(executable, inputs), expected, rtol, atol)
