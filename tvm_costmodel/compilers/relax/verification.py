"""Runs builds of a Relax module and compares their outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from tvm_costmodel.compilers.build_result import (
    Difference,
    Outputs,
    compare_outputs,
    draw_inputs,
    flatten,
)
from tvm_costmodel.errors import BuildError


def input_specs(mod: tvm.IRModule, func: str = "main") -> list[tuple[tuple[int, ...], str]]:
    """(shape, dtype) of each parameter of a Relax function.

    Raises:
        BuildError: A parameter's shape is not constant.
    """
    specs = []
    for parameter in mod[func].params:
        name, shape = parameter.name, tuple(parameter.ty.shape)
        if not all(isinstance(extent, tvm.tirx.IntImm) for extent in shape):
            raise BuildError(
                f"input {name!r} has the dynamic shape {shape}; fix it, for instance with "
                f"--shape {name}=..."
            )
        specs.append((tuple(int(extent) for extent in shape), str(parameter.ty.dtype)))
    return specs


def random_inputs(mod: tvm.IRModule, seed: int = 0, func: str = "main") -> list[np.ndarray]:
    """Draws one array per parameter of a Relax function, from a standard normal distribution.

    Integers are drawn from 0 and 1, so that they are valid as indices.

    Raises:
        BuildError: A parameter's shape is not constant.
    """
    return draw_inputs(input_specs(mod, func), seed)


def run(executable: object, inputs: Sequence[np.ndarray], func: str = "main") -> list[np.ndarray]:
    """Runs a built network once on this machine and returns its outputs, tuples flattened."""
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine[func](*(tvm.runtime.tensor(array) for array in inputs))
    return flatten(result)


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
