"""Programs next to a tuned library that run it without this package, and what they check first.

``run.py`` needs TVM's runtime and NumPy, ``main.cc`` the headers and libraries of TVM's package.
Both read ``requires.json`` and refuse a processor that lacks instructions of the library, where
running it would end in an illegal instruction.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.processor import needed_instruction_sets

if TYPE_CHECKING:
    import tvm

    from tvm_costmodel.compilers.compiler import TensorSpec

REQUIRES = "requires.json"
PROGRAMS = ("run.py", "main.cc")


def requirements(target: tvm.target.Target, inputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """What a library needs to run, as JSON values.

    Args:
        target: TVM's target that it was built for.
        inputs: Shape and dtype of each input of the network.

    Returns:
        ``machine`` and ``features``, by Linux' names; ``mcpu``, ``threads``, the ``tvm`` that built
        it, and its ``inputs``.
    """
    import tvm

    triple = str(target.attrs.get("mtriple", ""))
    return {
        "machine": triple.partition("-")[0] or platform.machine(),
        "mcpu": str(target.attrs.get("mcpu", "")) or "any",
        "features": needed_instruction_sets(tvm.target.codegen.llvm_get_cpu_features(target)),
        "threads": int(target.attrs.get("num-cores", 1)),
        "tvm": tvm.__version__,
        "inputs": [[list(shape), dtype] for shape, dtype in inputs],
    }


def write_programs(folder: Path, requires: dict[str, Any]) -> None:
    """Writes the programs, and what `requirements` gives, next to ``model.so``."""
    templates = resources.files("tvm_costmodel.tuning") / "exported"
    for name in PROGRAMS:
        write_atomically(folder / name, (templates / name).read_text())
    write_atomically(folder / REQUIRES, json.dumps(requires, indent=1) + "\n")


def has_programs(folder: Path) -> bool:
    """Whether a folder holds them all."""
    return all((folder / name).is_file() for name in (*PROGRAMS, REQUIRES))
