"""SIGKILL in the middle of a run, then resuming: no committed row is lost, none doubled."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.labels.kill_resume import kill_and_resume

COUNT = 10


@pytest.mark.timeout(900)  # programs that start six times, on a machine that may be busy
def test_two_kills_lose_nothing(plain_compiler: str, tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    run = Path(__file__).with_name("tiny_run.py")
    command = [sys.executable, str(run), str(store), str(COUNT)]
    report = kill_and_resume(command, store, kills=2, seconds=(0.0, 0.1))
    assert report.good, report
    assert 1 <= report.at_kill[0] <= report.at_kill[1] <= report.rows == COUNT
    assert report.at_kill[0] < COUNT, "the first kill came too late to show anything"
