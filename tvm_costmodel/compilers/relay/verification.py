"""Runs Relay builds and compares their outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm
from tvm.contrib import graph_executor

from tvm_costmodel.compilers.build_result import Difference, Outputs, compare_outputs, draw_inputs
from tvm_costmodel.compilers.relay.build_module import BuildResult
from tvm_costmodel.errors import BuildError


def input_specs(mod: tvm.IRModule, func: str = "main") -> list[tuple[tuple[int, ...], str]]:
    """(shape, dtype) of each parameter of a Relay function.

    Raises:
        BuildError: A parameter's shape is not constant, or it is no tensor.
    """
    specs = []
    for parameter in mod[func].params:
        ty = parameter.checked_type
        shape = list(getattr(ty, "shape", [None]))
        if not all(isinstance(extent, tvm.tir.IntImm) for extent in shape):
            raise BuildError(
                f"input {parameter.name_hint!r} has the type {ty}; give it a fixed shape, for "
                f"instance with --shape {parameter.name_hint}=1,3,224,224"
            )
        specs.append((tuple(int(extent) for extent in shape), str(ty.dtype)))
    return specs


def random_inputs(mod: tvm.IRModule, seed: int = 0, func: str = "main") -> list[np.ndarray]:
    """Draws one array per parameter of a Relay function, from a standard normal distribution.

    Integers are drawn from 0 and 1, so that they are valid as indices.

    Raises:
        BuildError: A parameter's shape is not constant.
    """
    return draw_inputs(input_specs(mod, func), seed)


def run(result: BuildResult, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Runs a built network once on this machine and returns its outputs, tuples flattened."""
    module = graph_executor.GraphModule(result.executable["default"](tvm.cpu()))
    arrays: Mapping[str, Any] = dict(zip(result.inputs, inputs, strict=True))
    module.run(**arrays)
    return [module.get_output(i).numpy() for i in range(module.get_num_outputs())]


def verify(
    result: BuildResult,
    reference: BuildResult,
    inputs: Sequence[np.ndarray],
    rtol: float = 1e-3,
    atol: float = 1e-5,
) -> Difference:
    """Runs two builds on the same inputs and compares them.

    Args:
        result: The build under test.
        reference: The build to compare it with.
        inputs: One array per parameter.
        rtol: See ``compare_outputs``.
        atol: See ``compare_outputs``.
    """
    expected: Outputs = run(reference, inputs)
    return compare_outputs(run(result, inputs), expected, rtol, atol)
