"""``tvm-costmodel profile MODEL --kernels`` on a small network: rows, totals and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.cli.test_commands import refused, run_json
from tests.networks import model_of
from tvm_costmodel.cli import build_parser, kernel_table, main
from tvm_costmodel.cli.output import Output
from tvm_costmodel.compilers.build_result import KernelUse
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import Operator, TensorType
from tvm_costmodel.profiling import in_place_profiler
from tvm_costmodel.profiling.in_place_profiler import InPlaceTimes
from tvm_costmodel.profiling.measuring.peaks import Peaks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A large matmul with a relu, and a softmax."""
    weights = {"w": np.random.default_rng(0).standard_normal((512, 768)).astype("float32")}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Softmax", ["r"], ["y"], axis=-1),
    ]
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(model_of(nodes, {"x": ["rows", 512]}, {"y": ["rows", 768]}, weights), path)
    return str(path)


@pytest.fixture(scope="module")
def output(model: str) -> Output:
    argv = ["profile", model, "--kernels", "--shape", "x=64,512", "-q"]
    args = build_parser().parse_args(argv)
    result: Output = args.run(args)
    return result


def test_rows_say_what_each_kernel_computes_and_reaches(output: Output) -> None:
    rows = output.fields["kernels"]
    assert [row["operators"] for row in rows] == [
        "dense 512x768 + relu -> 64x768",
        "softmax -> 64x768",
    ]
    assert [row["calls"] for row in rows] == [1, 1]
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert output.fields["kernels_ms"] == pytest.approx(sum(row["ms"] for row in rows))
    work = 2 * 64 * 512 * 768 + 64 * 768  # multiply-adds, and the relu
    assert rows[0]["gflops"] * rows[0]["ms"] * 1e6 == pytest.approx(work, rel=1e-3)
    moved = 4 * (64 * 512 + 512 * 768 + 64 * 768)
    assert rows[0]["gb_s"] * rows[0]["ms"] * 1e6 == pytest.approx(moved, rel=1e-3)
    least_ms = work / output.fields["peak_gflops"] / 1e6
    assert rows[0]["of_roofline"] == pytest.approx(least_ms / rows[0]["ms"], rel=1e-3)
    assert rows[0]["bound"] == "arithmetic" and 0.01 < rows[0]["of_roofline"] < 1.5


def test_totals_stand_next_to_onnxruntime_and_the_prediction(output: Output) -> None:
    fields = output.fields
    assert fields["threads"] == 1
    assert 0 < fields["roofline_ms"] < fields["kernels_ms"] * 1.5
    assert fields["network_ms"] > 0 and fields["onnxruntime_ms"] > 0
    predicted = [row["predicted_ms"] for row in fields["kernels"]]
    assert fields["predicted_ms"] == pytest.approx(sum(predicted)) and predicted[0] > predicted[1]
    sizes = [size for size, _ in fields["peak_gb_s"]]
    assert sizes == sorted(sizes) and sizes[-1] == 1 << 26


def test_the_table_holds_the_same(output: Output) -> None:
    first, *_, dense, softmax, _, about, totals, limits, predicted = output.text.splitlines()[:9]
    assert first.split() == ("operators calls ms share reached of limit predicted template".split())
    assert dense.startswith("dense 512x768 + relu -> 64x768") and "GFLOP/s" in dense
    assert softmax.startswith("softmax -> 64x768")
    assert about.startswith("net.onnx on cpu-") and "2 kernels, 2 calls" in about
    assert "whole network" in totals and "onnxruntime" in totals and "threads: 1" in totals
    assert f"{output.fields['peak_gflops']:.1f} GFLOP/s" in limits
    assert "by kernel_former of cpu-" in predicted


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "input has dynamic dimensions"),
        (("--shape", "x=0,512"), "1 or more"),
        (("--store", "m.db"), "measures no labels; leave --store out"),
        (("--import", "labels.xz"), "leave --import out"),
        (("--suite", "quick"), "leave --suite out"),
        (("second.onnx",), "needs one MODEL file, and 2 are given"),
        (("--compiler", "relay"), "times builds of Relax"),
        (("--device", "rpi4", "--tracker", "127.0.0.1:1"), "rpi4 is a board"),
        (("--device", "cpux"), "unknown device 'cpux'"),
    ],
)
def test_what_cannot_be_timed_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], model: str, more: tuple[str, ...], words: str
) -> None:
    assert words in refused(capsys, "profile", model, *more, "--kernels")


def test_files_that_are_no_model_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\x08\x07nonsense")
    assert "broken.onnx" in refused(capsys, "profile", str(broken), "--kernels")
    absent = str(tmp_path / "none.onnx")
    assert "does not exist" in refused(capsys, "profile", absent, "--kernels")
    assert "needs one MODEL file, and 0" in refused(capsys, "profile", "--kernels")
    assert "--store DB, or --kernels" in refused(capsys, "profile", str(broken))


def test_what_is_not_known_is_left_out_with_a_line(
    capsys: pytest.CaptureFixture[str], model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = TensorType((1, 512), "float32")
    graph = OpGraph(
        (Operator("input", (), (value,)), Operator("relu", ((0, 0),), (value,))), ((1, 0),)
    )
    kernel = KernelUse("relu", "0" * 16, 1, (((1, 512), "float32"), ((1, 512), "float32")))
    peaks = Peaks(100e9, ((1 << 16, 50e9),))
    times = InPlaceTimes(
        graph, {"relu": kernel}, (("relu", 1e-3),), 2e-3, None, "it is not installed", peaks
    )
    monkeypatch.setattr(in_place_profiler, "time_in_place", lambda *_: times)
    monkeypatch.setattr(kernel_table, "_predictor", lambda _: (None, "no checkpoint"))
    assert main(["profile", model, "--kernels", "-q"]) == 0
    rows, _, about = capsys.readouterr().out.partition("\n\n")
    assert rows.splitlines()[-1].split() == "relu -> 1x512 1 1 100.0% 0.0 GB/s 0% - none".split()
    assert "sum of kernels 1 ms, whole network 2 ms (fastest runs" in about
    assert "onnxruntime's time is left out: it is not installed" in about
    assert "predictions are left out: no checkpoint" in about
    assert "something else keeps this machine busy" in about
    result = run_json(capsys, "profile", model, "--kernels")
    assert result["onnxruntime_ms"] is None and result["predicted_ms"] is None
    assert result["kernels"][0]["gb_s"] == pytest.approx(2 * 4 * 512 / 1e-3 / 1e9)
