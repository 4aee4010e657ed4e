"""A profiling run of tiny networks, for the test that kills it: ``tiny_run.py STORE COUNT``."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from tvm_costmodel.tvm_version import import_tvm_without_torch

    import_tvm_without_torch()
    from plain_compiler import TinySource  # type: ignore[import-not-found]

    from tests.profiling.conftest import QUICK
    from tvm_costmodel.profiling.profiler import Profiler

    profiler = Profiler("cpu", sys.argv[1], QUICK, compiler="plain_compiler:PLAIN", progress=False)
    profiler.run([TinySource(channels) for channels in range(1, int(sys.argv[2]) + 1)])
