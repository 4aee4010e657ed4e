"""Commands where packages are missing: what needs none works, and the rest says what to install."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.graphs import labelled_graphs, resnet_graph
from tests.profiling.labels import write_store

PACKAGES = (
    "tvm tvm_ffi torch onnx onnxslim onnxruntime xgboost scipy safetensors tabulate tqdm psutil"
).split()

# What an import of a missing package meets, without making an environment for it.
RUN = """
import sys
for package in sys.argv[1].split(","):
    sys.modules[package] = None
from tvm_costmodel.cli import main
sys.exit(main(sys.argv[2:]))
"""


def run(*argv: str, present: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    missing = ",".join(name for name in PACKAGES if name not in present)
    command = [sys.executable, "-c", RUN, missing, *argv]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("command", "shown"), [("devices", "cpu-amd-zen5"), ("models", "roofline_former")]
)
def test_commands_that_look_need_numpy_alone(command: str, shown: str) -> None:
    done = run(command)
    assert done.returncode == 0 and shown in done.stdout and done.stderr == ""


def test_doctor_says_what_each_missing_package_is_for() -> None:
    done = run("doctor", "--format", "json")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert not checks["LLVM target"]["ok"] and "tvm" in checks["LLVM target"]["found"]
    assert run("doctor").stdout.splitlines()[0].split() == ["check", "found", "fix"]


@pytest.fixture
def graph(tmp_path: Path) -> str:
    path = tmp_path / "resnet.json"
    path.write_text(resnet_graph().to_json())
    return str(path)


def test_a_graph_is_predicted_with_onnx_runtime_alone(graph: str) -> None:
    argv = ("predict", graph, "--device", "cpu-amd-zen5", "--format", "json")
    done = run(*argv, present=("onnxruntime",))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["predictor"] == "roofline_former"


@pytest.mark.parametrize(
    ("argv", "package"),
    [
        (("predict", "model.onnx"), "onnx"),
        (("compare", "--store", "labels.db", "--predictors", "flops"), "scipy"),
    ],
)
def test_a_missing_package_is_one_line(argv: tuple[str, ...], package: str, tmp_path: Path) -> None:
    labels = write_store(tmp_path / "labels.db", *labelled_graphs(40), "rpi4")
    (tmp_path / "model.onnx").write_bytes(b"\x08\x08")
    files = {"model.onnx": str(tmp_path / "model.onnx"), "labels.db": labels}
    done = run(*(files.get(arg, arg) for arg in argv))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert f"pip install {package}" in done.stderr
