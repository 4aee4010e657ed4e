"""Compares what a default build computes with what another engine makes of the same model.

The reference is ONNX Runtime where it is installed and the model is an ONNX file; TVM's own default
pipeline, which shares no schedule with ours, where the network is small; otherwise there is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.profiling.runners.arguments import random_array
from tvm_costmodel.profiling.runners.runner import TensorSpec

logger = logging.getLogger(__name__)

TOLERANCE = 1e-2
"""Largest difference of an output, relative to its largest magnitude; for float16 values five times
that."""

_MOST_FLOPS = 3e8  # TVM's default code computes some 2e9 a second
_FEW_INTEGERS = 0.1  # share of an integer output that rounding may change, as in an argmax
_HALVES = ("float16", "bfloat16")

Named = list[tuple[str, np.ndarray]]


def check_outputs(
    outputs: Sequence[np.ndarray],
    specs: Sequence[TensorSpec],
    source: Mapping[str, Any],
    module: Any,
    flops: float,
) -> dict[str, Any]:
    """Compares outputs of a default build with a reference.

    Args:
        outputs: What a runner's loaded network computes from its own inputs.
        specs: Shape and dtype of the inputs.
        source: Where the network comes from.
        module: Its Relax module; None where another compiler made the build.
        flops: Floating-point operations of the network.

    Returns:
        ``reference`` (empty where there is none), ``equal``, and the ``output`` that differs most,
        by ``difference`` of its largest magnitude.
    """
    inputs = [random_array(spec, seed) for seed, spec in enumerate(specs)]
    reference, expected = "onnxruntime", _of_onnxruntime(source, inputs)
    if expected is None and module is not None and flops <= _MOST_FLOPS:
        reference, expected = "TVM's default pipeline", _of_tvm(module, inputs)
    if expected is None or [a.shape for a in outputs] != [b.shape for _, b in expected]:
        return {"reference": "", "equal": True, "output": "", "difference": 0.0}
    halves = any(dtype in _HALVES for _, dtype in specs)
    worst, name, equal = 0.0, expected[0][0] if expected else "", True
    for got, (output, want) in zip(outputs, expected, strict=True):
        off = difference(got, want)
        equal = equal and off <= _allowed(want, halves)
        if off > worst:
            worst, name = off, output
    return {"reference": reference, "equal": equal, "output": name, "difference": worst}


def _allowed(want: np.ndarray, halves: bool) -> float:
    if want.dtype.kind in "iub":
        return _FEW_INTEGERS
    return TOLERANCE * (5 if halves or str(want.dtype) in _HALVES else 1)


def difference(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference relative to the largest magnitude; of integers the share that differs.

    Infinite where NaN or infinity stand in other places.
    """
    if not want.size:
        return 0.0
    if want.dtype.kind in "iub":
        return float(np.mean(got != want)) if want.size >= 1 / _FEW_INTEGERS else 0.0
    a, b = got.astype(np.float64), want.astype(np.float64)
    finite = np.isfinite(b)
    if not np.array_equal(finite, np.isfinite(a)):
        return float("inf")
    largest = float(np.max(np.abs(b), where=finite, initial=0.0))
    off = float(np.max(np.abs(np.subtract(a, b, out=np.zeros_like(b), where=finite)), initial=0.0))
    return off / largest if largest else off


class NoReference(Exception):
    """There is no other engine for a network; the text says why."""


def onnxruntime_run(
    source: Mapping[str, Any], inputs: Sequence[np.ndarray], threads: int = 1
) -> Callable[[], Named]:
    """A run of a network in ONNX Runtime, which ran once already.

    Args:
        source: Where the network comes from.
        inputs: One array for each input.
        threads: Threads that ONNX Runtime may use.

    Raises:
        NoReference: The network is no ONNX file, or ONNX Runtime is missing or does not run it.
    """
    path = str(source.get("path", ""))
    if source.get("kind") != "file" or not path.endswith(".onnx"):
        raise NoReference("the model is no ONNX file")
    try:
        import onnxruntime
    except ImportError:
        raise NoReference("it is not installed (pip install onnxruntime)") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        feed = dict(zip(names, inputs, strict=True))
        outputs = [value.name for value in session.get_outputs()]

        def run() -> Named:
            arrays = session.run(None, feed)
            return [(name, np.asarray(a)) for name, a in zip(outputs, arrays, strict=True)]

        run()
    except Exception as error:  # missing weights, operators that it lacks, its own faults
        raise NoReference(f"it does not run {path}: {str(error)[:200]}") from error
    return run


def _of_onnxruntime(source: Mapping[str, Any], inputs: Sequence[np.ndarray]) -> Named | None:
    try:
        return onnxruntime_run(source, inputs)()
    except NoReference as reason:
        logger.info("no reference from ONNX Runtime: %s", reason)
        return None


def _of_tvm(module: Any, inputs: Sequence[np.ndarray]) -> Named | None:
    import tvm

    from tvm_costmodel.compilers.relax import cpu_target
    from tvm_costmodel.compilers.relax.verification import run

    try:
        executable = tvm.compile(module, cpu_target(), relax_pipeline="default")
        return [(f"number {n}", array) for n, array in enumerate(run(executable, inputs), 1)]
    except Exception as error:  # its pipeline refuses some networks that ours takes
        logger.info("TVM's default pipeline does not run the network: %s", str(error)[:200])
        return None
