"""The Relay environment, seen from the other one."""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@functools.lru_cache(maxsize=1)
def relay_python() -> str:
    """Python of the Relay environment; empty where `scripts/test.sh` made none."""
    for place in (os.environ.get("RELAY_ENVIRONMENT_PYTHON"), ROOT / ".venv-relay/bin/python"):
        if place and Path(place).is_file():
            return str(place)
    return ""


def run_there(*arguments: str) -> None:
    """Runs a module of the tests in the Relay environment, from the repository's root."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [relay_python(), "-m", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
