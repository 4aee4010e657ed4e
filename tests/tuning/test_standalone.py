"""A tuned library runs without this package, and not on a processor that lacks its instructions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tvm
from onnx import helper

from tests.networks import model_of
from tvm_costmodel.compilers.relax import build, cpu_target
from tvm_costmodel.compilers.relax.verification import input_specs
from tvm_costmodel.frontends.onnx.reader import onnx_to_relax
from tvm_costmodel.processor import instruction_sets, needed_instruction_sets
from tvm_costmodel.tuning.standalone import REQUIRES, requirements, write_programs

HEADERS = Path(tvm.__file__).parent.parent / "tvm_ffi" / "include" / "tvm" / "ffi" / "extra"


class Tuned:
    """A folder as ``tune`` leaves it, inputs in files, and what ONNX Runtime makes of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        rng = np.random.default_rng(0)
        weights = {
            "w": rng.standard_normal((8, 3, 3, 3)).astype("float32"),
            "b": rng.standard_normal((1, 8, 1, 1)).astype("float32"),
        }
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Mul", ["c", "scale"], ["m"]),
            helper.make_node("Add", ["m", "b"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["relu"]),
        ]
        shapes = {"x": [1, 3, 9, 9], "scale": [1, 8, 1, 1]}
        outputs = {"sum": [1, 8, 9, 9], "relu": [1, 8, 9, 9]}
        proto = model_of(nodes, shapes, outputs, weights)
        mod, target = onnx_to_relax(proto), cpu_target()
        build(mod, target).export(folder / "model.so")
        write_programs(folder, requirements(target, input_specs(mod)))
        inputs = {n: rng.standard_normal(s).astype("float32") for n, s in shapes.items()}
        for name, array in inputs.items():
            np.save(folder / f"{name}.npy", array)
            array.tofile(folder / f"{name}.bin")
        session = onnxruntime.InferenceSession(proto.SerializeToString())
        self.expected = [np.asarray(output) for output in session.run(None, inputs)]

    def files(self, suffix: str) -> list[str]:
        return [str(self.folder / f"{name}.{suffix}") for name in ("x", "scale")]

    def for_another(self, folder: Path, **changes: object) -> Path:
        """The folder again, for a processor with other requirements."""
        shutil.copytree(self.folder, folder)
        record = json.loads((folder / REQUIRES).read_text())
        (folder / REQUIRES).write_text(json.dumps(record | changes))
        return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return Tuned(tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def program(tuned: Tuned) -> str:
    """``main``, built as the first comment of ``main.cc`` says."""
    if shutil.which("g++") is None or not HEADERS.is_dir():
        pytest.skip("no g++, or no headers of tvm-ffi")
    comment = [line[2:] for line in (tuned.folder / "main.cc").read_text().splitlines()[2:6]]
    line = "\n".join(comment).replace("$(python", f"$({sys.executable}").replace("-O1", "-O0")
    assert line.split()[0].startswith("P=") and "g++" in line
    subprocess.run(["bash", "-ec", line], cwd=tuned.folder, check=True)
    return "main"


WITHOUT_US = """
import runpy, sys
import numpy as np
sys.modules["tvm_costmodel"] = None  # importing it fails
sys.argv = sys.argv[1:]
program = runpy.run_path(sys.argv[0], run_name="__main__")
from tvm.runtime import tensor
outputs = program["load"]()(*[tensor(np.load(path)) for path in sys.argv[1:]])
np.savez("outputs.npz", *program["flatten"](outputs))
"""


def run(argv: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True)


def test_run_py_computes_what_onnxruntime_does_without_this_package(tuned: Tuned) -> None:
    argv = [sys.executable, "-c", WITHOUT_US, str(tuned.folder / "run.py"), *tuned.files("npy")]
    done = run(argv, tuned.folder)
    assert done.returncode == 0, done.stderr
    assert "ms, the fastest of 11 runs\noutput 0: float32 (1, 8, 9, 9), first [" in done.stdout
    outputs = list(np.load(tuned.folder / "outputs.npz").values())
    assert len(outputs) == len(tuned.expected) == 2
    for got, expected in zip(outputs, tuned.expected, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_main_cc_computes_what_onnxruntime_does(tuned: Tuned, program: str) -> None:
    done = run([f"./{program}", *tuned.files("bin")], tuned.folder)
    assert done.returncode == 0, done.stderr
    time, *outputs = done.stdout.splitlines()
    assert 0 < float(time.split(" ms")[0]) < 1000
    assert len(outputs) == 2
    for line, expected in zip(outputs, tuned.expected, strict=True):
        about, _, values = line.partition(", first ")
        assert about == "output: float32 [1, 8, 9, 9]"
        np.testing.assert_allclose(
            [float(v) for v in values.split()], expected.ravel()[:4], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"features": ["avx2", "avx512unheard", "fma"]}, "lacks avx512unheard; tune the model"),
        ({"machine": "pdp11", "mcpu": "pdp11"}, "is for pdp11, and this processor lacks pdp11 ins"),
    ],
)
def test_another_processor_is_refused_before_the_library_is_loaded(
    tuned: Tuned, program: str, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    folder = tuned.for_another(tmp_path / "other", **changes)
    (folder / "model.so").write_text("no library")
    for argv in ([sys.executable, "run.py"], [f"./{program}"]):
        done = run(argv, folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr and done.stderr.count("\n") == 1


def test_wrong_inputs_are_refused_in_one_line(tuned: Tuned, program: str) -> None:
    wrong = run([sys.executable, "run.py", tuned.files("npy")[0]], tuned.folder)
    assert wrong.returncode == 2 and "give an .npy file for each of" in wrong.stderr
    wrong = run([f"./{program}", *tuned.files("bin")[::-1]], tuned.folder)
    assert wrong.returncode == 1 and "scale.bin has 32 bytes, not 972" in wrong.stderr
    assert "give a file for each of 2" in run([f"./{program}", "x"], tuned.folder).stderr


def test_requirements_are_what_the_target_may_use(tuned: Tuned) -> None:
    record = json.loads((tuned.folder / REQUIRES).read_text())
    assert record["inputs"] == [[[1, 3, 9, 9], "float32"], [[1, 8, 1, 1], "float32"]]
    assert record["tvm"] == tvm.__version__ and record["threads"] == 1
    simd = [name for name in record["features"] if name.startswith("avx")]
    assert set(simd) <= set(instruction_sets())
    server = tvm.target.Target({"kind": "llvm", "mcpu": "znver4", "num-cores": 4})
    needs = requirements(server, [])
    assert {"avx512f", "avx512_bf16", "fma", "bmi2", "abm"} <= set(needs["features"])
    assert (needs["mcpu"], needs["threads"]) == ("znver4", 4)
    board = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"}
    needs = requirements(tvm.target.Target(board), [])
    assert needs["machine"] == "aarch64" and {"asimd", "asimddp"} <= set(needs["features"])


def test_instructions_that_only_programs_name_are_not_needed() -> None:
    features = ["avx2", "vaes", "amx-tile", "fast-lzcnt", "sse4.1"]
    assert needed_instruction_sets(features) == ["avx2", "sse4_1"]
