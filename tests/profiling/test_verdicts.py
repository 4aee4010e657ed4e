"""A default build that computes something else than another engine is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.frontends.onnx.reader import onnx_to_relax
from tvm_costmodel.profiling.profiler import Profiler
from tvm_costmodel.profiling.runners.local import LocalRunner
from tvm_costmodel.profiling.store.store import Store
from tvm_costmodel.profiling.verdicts import fault, verdict_of
from tvm_costmodel.profiling.worker.client import WorkerFailure
from tvm_costmodel.profiling.worker.output_check import check_outputs, difference

SPECS = [((1, 3, 8, 8), "float32")]
PLACE = ("graph", "cpu", "pipeline", "relax")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    weights = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype("float32")
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4),
        helper.make_node("Softmax", ["c"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path_factory.mktemp("verdicts") / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def outputs(model: Path) -> list[np.ndarray]:
    built = build(onnx_to_relax(model), cpu_target())
    return LocalRunner(cpu_target()).load(built, SPECS).outputs()


def test_a_right_build_agrees_with_every_reference(model: Path, outputs: list[np.ndarray]) -> None:
    file, module = {"kind": "file", "path": str(model)}, onnx_to_relax(model)
    for source, network, reference in (
        (file, None, "onnxruntime"),
        ({"kind": "workload"}, module, "TVM's default pipeline"),
        ({"kind": "workload"}, None, ""),
    ):
        verdict = check_outputs(outputs, SPECS, source, network, 1e6)
        assert (verdict["reference"], verdict["equal"]) == (reference, True)
        assert verdict["difference"] < 1e-5 and fault(verdict) == ""
    assert check_outputs(outputs, SPECS, {"kind": "workload"}, module, 1e12)["reference"] == ""


def test_a_wrong_output_is_named_with_its_difference(
    model: Path, outputs: list[np.ndarray]
) -> None:
    wrong = outputs[0].copy()
    wrong[0, 0, 0, 0] += 0.5 * float(np.abs(outputs[0]).max())
    verdict = check_outputs([wrong], SPECS, {"kind": "file", "path": str(model)}, None, 1e6)
    assert not verdict["equal"] and verdict["difference"] == pytest.approx(0.5, abs=1e-3)
    assert "wrong output 'scores': it differs from that of onnxruntime by 0.5" in fault(verdict)


def test_differences() -> None:
    ones, some = np.ones(4), np.array([1, np.nan, 1, 1])
    assert difference(ones, 2 * ones) == 0.5
    assert difference(some, ones) == difference(ones, some) == np.inf
    assert difference(some, some) == 0
    assert difference(np.arange(20), np.arange(20) // 19 * 19) == 18 / 20
    assert difference(np.array([3]), np.array([4])) == 0  # an index that rounding may change


def test_a_verdict_is_taken_once_and_kept(tmp_path: Path) -> None:
    asked: list[int] = []
    wrong = {"reference": "onnxruntime", "equal": False, "output": "y", "difference": 0.25}

    def check() -> Mapping[str, Any]:
        asked.append(1)
        return wrong

    with Store(tmp_path / "s.db") as store:
        for _ in range(2):
            assert verdict_of(store, PLACE, check) == wrong
        assert len(asked) == 1
        verdict_of(store, ("another", *PLACE[1:]), check)
        assert len(asked) == 2

    def broken() -> Mapping[str, Any]:
        raise WorkerFailure("crash", "the worker ended")

    with Store(tmp_path / "other.db") as store:
        assert fault(verdict_of(store, PLACE, broken)) == ""
        assert verdict_of(store, PLACE, check) == wrong  # asked again: the failure is not kept


def test_a_row_that_was_never_compared_is_measured_again_with_a_verdict(
    make_profiler: Callable[..., Profiler],
) -> None:
    from plain_compiler import TinySource  # type: ignore[import-not-found]

    counts = []
    for check in (False, True, True, False):
        summary = make_profiler(check_outputs=check).run([TinySource(4)])
        counts.append((summary.measured, summary.reused))
    assert counts == [(1, 0), (1, 0), (0, 1), (0, 1)]
