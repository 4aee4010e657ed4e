"""Fixtures of the profiler's tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvm_costmodel.profiling.measuring.record import MeasurementConfig
from tvm_costmodel.profiling.profiler import Profiler

QUICK = MeasurementConfig(
    min_repeat_ms=1.0,
    max_repeats=3,
    min_repeats=2,
    budget_ms=5.0,
    max_attempts=1,
    kernel_min_repeat_ms=0.5,
    kernel_repeats=2,
    source_timeout_s=60.0,
    build_timeout_s=60.0,
    run_timeout_s=60.0,
)


@pytest.fixture
def plain_compiler(monkeypatch: pytest.MonkeyPatch) -> str:
    """Makes `plain_compiler` importable, here and in workers; gives the compiler's name."""
    folder = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(folder)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", folder if before is None else f"{folder}:{before}")
    return "plain_compiler:PLAIN"


@pytest.fixture
def make_profiler(plain_compiler: str, tmp_path: Path) -> Callable[..., Profiler]:
    """Makes a profiler with the plain compiler; keyword arguments override its settings."""

    def make(**settings: Any) -> Profiler:
        chosen: dict[str, Any] = {
            "device": "cpu",
            "store": tmp_path / "store.db",
            "measurement": QUICK,
            "compiler": plain_compiler,
            "progress": False,
        } | settings
        return Profiler(**chosen)

    return make
