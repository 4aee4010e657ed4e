"""Runs model.so with TVM's runtime and NumPy alone: ``python run.py [INPUT.npy ...]``."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

HERE = Path(__file__).resolve().parent
NEEDS = json.loads((HERE / "requires.json").read_text())


def require_processor() -> None:
    """Ends the program where this processor lacks instructions that the library is made of."""
    cpuinfo = Path("/proc/cpuinfo")
    known = cpuinfo.read_text().split() if cpuinfo.exists() else NEEDS["features"]
    lacking = sorted({*NEEDS["features"]} - {*known})
    if platform.machine() != NEEDS["machine"]:
        lacking = [f"{NEEDS['machine']} instructions"]
    if lacking:
        refuse(
            f"model.so is for {NEEDS['mcpu']}, and this processor lacks {', '.join(lacking)}; tune "
            "the model again on a processor like this one"
        )


def refuse(why: str) -> NoReturn:
    """Ends the program with one line."""
    print(f"error: {why}", file=sys.stderr)
    sys.exit(2)


def load() -> Callable[..., Any]:
    """The network, as a function of a TVM tensor for each input, in the order of the model's."""
    require_processor()
    os.environ.setdefault("TVM_NUM_THREADS", str(NEEDS["threads"]))
    import tvm
    from tvm.runtime.vm import VirtualMachine

    if tvm.__version__.split(".")[:2] != NEEDS["tvm"].split(".")[:2]:
        print(f"warning: built by TVM {NEEDS['tvm']}, not {tvm.__version__}", file=sys.stderr)
    library: Any = tvm.runtime.load_module(str(HERE / "model.so"))
    network: Callable[..., Any] = VirtualMachine(library, tvm.cpu())["main"]
    return network


def flatten(outputs: Any) -> list[np.ndarray]:
    """Outputs of the network as a list of arrays; tuples may hold tuples."""
    if hasattr(outputs, "numpy"):
        return [outputs.numpy()]
    return [array for field in outputs for array in flatten(field)]


def main() -> None:
    """Runs the network on the arrays of files, or on random ones, and prints what comes out."""
    specs = [(tuple(shape), dtype) for shape, dtype in NEEDS["inputs"]]
    random = np.random.default_rng(0).random
    given = [np.load(path) for path in sys.argv[1:]]
    given = given or [random(shape).astype(dtype) for shape, dtype in specs]
    if (found := [(array.shape, str(array.dtype)) for array in given]) != specs:
        refuse(f"the inputs are {found}; give an .npy file for each of {specs}")
    network = load()
    from tvm.runtime import tensor

    tensors, seconds = [tensor(array) for array in given], []
    for _ in range(11):
        start = time.perf_counter()
        outputs = network(*tensors)
        seconds.append(time.perf_counter() - start)
    print(f"{min(seconds) * 1e3:.3f} ms, the fastest of {len(seconds)} runs")
    for number, output in enumerate(flatten(outputs)):
        print(f"output {number}: {output.dtype} {output.shape}, first {output.ravel()[:4]}")


if __name__ == "__main__":
    main()
