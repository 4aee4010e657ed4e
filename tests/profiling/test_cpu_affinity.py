"""Programs that share a machine build at the same time and time alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.measuring.cpu_affinity import TimingLock

OTHER = """
import sys, time
from tvm_costmodel.profiling.measuring.cpu_affinity import TimingLock
lock = TimingLock(sys.argv[1])
for _ in range(int(sys.argv[3])):
    with getattr(lock, sys.argv[2])():
        start = time.monotonic()
        time.sleep(float(sys.argv[4]))
        print(start, time.monotonic(), flush=True)
"""


def other(path: Path, kind: str, times: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER, str(path), kind, str(times), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def spans(lines: Iterable[str]) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in (line.split() for line in lines)]


def test_nobody_works_while_another_times_and_a_timer_does_not_wait_for_ever(tmp_path):
    path = tmp_path / "folder" / "lock"
    lock = TimingLock(path)
    child = other(path, "working", 10_000, 0.05)
    assert child.stdout is not None
    lines = [child.stdout.readline()]  # it runs
    timed = []
    for _ in range(3):
        with lock.timing():  # the other goes from work to work and yet lets this one in
            start = time.monotonic()
            time.sleep(0.15)
            timed.append((start, time.monotonic()))
    while spans(lines)[-1][0] < timed[-1][1]:  # until it works again
        lines.append(child.stdout.readline())
    child.kill()
    child.wait()
    worked = spans(lines)
    for start, end in timed:
        assert all(end <= a or b <= start for a, b in worked)


def test_programs_work_at_the_same_time(tmp_path):
    path = tmp_path / "lock"
    with TimingLock(path).working():
        out, _ = other(path, "working", 3, 0.01).communicate(timeout=60)
    assert len(spans(out.splitlines())) == 3


def test_a_program_that_is_killed_frees_what_it_held(tmp_path):
    path = tmp_path / "lock"
    child = other(path, "timing", 1, 600.0)
    while child.poll() is None and not _is_held(path):
        time.sleep(0.02)
    child.kill()
    child.wait()
    with TimingLock(path).timing():
        pass


def _is_held(path: Path) -> bool:
    import fcntl

    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_lock_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"timing lock .*; name another file"):
        TimingLock(tmp_path / "file" / "lock")
