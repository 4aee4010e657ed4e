"""These tests run where TVM has Relay: `scripts/test.sh` runs them in an environment of its own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tvm_costmodel.tvm_version import has_relay

WHY = "TVM here has no Relay: `bash scripts/test.sh` runs this in the Relay environment"


class Skipped(pytest.Module):
    """A file of tests that is not imported, and says so by name."""

    def collect(self) -> Iterable[pytest.Item]:
        pytest.skip(f"{self.path.name}: {WHY}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> Skipped | None:
    return None if has_relay() else Skipped.from_parent(parent, path=module_path)
