"""ONNX's own operator tests, each run through front end, default build and one inference."""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tvm_costmodel.errors import CostModelError

STATUSES = ("right", "refused", "unclear", "wrong")
"""What can come of a test; see `Outcome`."""

_CLEAR = ("importer has no", "has no elements")
_COARSE = ("float16", "bfloat16")
_SKIPPED = (
    *("If", "Loop", "Scan", "Optional", "Sequence", "String", "Random", "Bernoulli", "RegexFull"),
    *("TfIdf", "LabelEnc", "Array", "ImageDecoder"),
)
_SECONDS = 180
_BATCH = 50


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one test.

    Attributes:
        name: The test's name.
        status: ``right``: the outputs are ONNX's and every operator has a name. ``refused``: one
            line names what is not supported. ``unclear``: any other error. ``wrong``: other
            outputs. ``skipped``: the test has no tensors of numbers.
        text: The error, or the difference.
    """

    name: str
    status: str
    text: str = ""


def operator_tests(modules: Sequence[str] = ()) -> list[Any]:
    """ONNX's operator tests by name.

    Args:
        modules: Modules below ``onnx.backend.test.case.node`` to take them from; all where empty,
            which takes about half a minute.
    """
    from onnx.backend.test.case import node

    if modules:
        for module in modules:
            importlib.import_module(f"{node.__name__}.{module}")
        found = node._NodeTestCases
    else:
        found = node.collect_testcases(None)
    kept = [
        case
        for case in found
        if case.model is not None and case.data_sets and not case.name.endswith("_expanded")
    ]
    return sorted(kept, key=lambda case: case.name)


def named_by_importer(cases: Iterable[Any]) -> list[Any]:
    """The tests whose operators the importer names, control flow and text left out."""
    from tvm_costmodel.frontends.onnx.relax_importer import supported_operators

    known = supported_operators()
    kept = []
    for case in cases:
        names = [entry.op_type for entry in case.model.graph.node]
        skipped = any(name.startswith(_SKIPPED) for name in names)
        if not skipped and all(name in known for name in names):
            kept.append(case)
    return kept


def outcome_of(case: Any) -> Outcome:
    """Runs one test; operands after the first become weights, as in exported networks."""
    inputs, expected = case.data_sets[0]
    plain = (np.ndarray, np.generic, onnx.TensorProto)
    if not inputs or not all(isinstance(value, plain) for value in [*inputs, *expected]):
        return Outcome(case.name, "skipped", "no tensors")
    arrays, wanted = [_array(v) for v in inputs], [_array(v) for v in expected]
    if any(a.dtype == object or a.dtype.kind in "USc" for a in [*arrays, *wanted]):
        return Outcome(case.name, "skipped", "text or complex numbers")
    try:
        return _compared(case, arrays, wanted)
    except CostModelError as error:
        clear = any(part in str(error) for part in _CLEAR)
        return Outcome(case.name, "refused" if clear else "unclear", str(error))
    except Exception as error:
        return Outcome(case.name, "unclear", f"{type(error).__name__}: {error}"[:300])


def forked_outcomes(cases: Iterable[Any]) -> Iterator[Outcome]:
    """`outcome_of` each test, in children of this process, since a compiler may crash or hang.

    A child takes a batch of them; where it dies, the next one goes on behind the test that it died
    of.
    """
    context = multiprocessing.get_context("fork")
    waiting = list(cases)
    while waiting:
        here, there = context.Pipe(False)
        child = context.Process(target=_send, args=(waiting[:_BATCH], there))
        child.start()
        there.close()
        for case in waiting[:_BATCH]:
            del waiting[0]
            try:
                outcome = here.recv() if here.poll(_SECONDS) else None
            except EOFError:
                outcome = None
            if outcome is None:
                child.kill()
                child.join()
                yield Outcome(case.name, "unclear", f"crash or hang, exit code {child.exitcode}")
                break
            yield outcome
        child.join()


def _send(cases: Sequence[Any], pipe: Any) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for case in cases:
        pipe.send(outcome_of(case))


def _array(value: Any) -> np.ndarray:
    return (
        numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
    )


def _compared(case: Any, arrays: list[np.ndarray], wanted: list[np.ndarray]) -> Outcome:
    from tvm_costmodel.compilers import relax
    from tvm_costmodel.compilers.relax.verification import run
    from tvm_costmodel.frontends.onnx.reader import onnx_to_relax
    from tvm_costmodel.frontends.relax.export import from_relax

    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    names = [value.name for value in model.graph.input]
    for name, array in list(zip(names, arrays, strict=True))[1:]:
        contiguous = np.ascontiguousarray(array).reshape(array.shape)
        model.graph.initializer.append(numpy_helper.from_array(contiguous, name))
    del model.graph.input[1:]
    module = onnx_to_relax(model)
    unknown = from_relax(module).unknown_ops
    built = relax.build(module, relax.cpu_target(), relax.PipelineConfig())
    outputs = run(built.executable, arrays[:1])
    fault = _difference(outputs, wanted)
    if fault:
        return Outcome(case.name, "wrong", fault)
    if any(name == "call_tir" for name in unknown):
        return Outcome(case.name, "unclear", f"operators without a name: {', '.join(unknown)}")
    return Outcome(case.name, "right", ", ".join(unknown))


def _difference(outputs: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> str:
    if len(outputs) != len(wanted):
        return f"{len(outputs)} outputs instead of {len(wanted)}"
    for i, (got, want) in enumerate(zip(outputs, wanted, strict=True)):
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"output {i}: {got.dtype}{got.shape} instead of {want.dtype}{want.shape}"
        a, b = got.astype("float64"), want.astype("float64")
        rtol, atol = (2e-2, 1e-2) if str(want.dtype) in _COARSE else (1e-3, 1e-5)
        if want.size and not np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True):
            return f"output {i} differs by {np.nanmax(np.abs(a - b)):.3g}"
    return ""
