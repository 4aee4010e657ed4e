"""Kills a profiling run with SIGKILL at random moments, resumes it, counts lost and doubled rows.

    python benchmarks/labels/kill_resume.py --kills 10 --count 60

Prints one line for each kill and a verdict, and writes both with their environment to
``results/kill_resume.<machine>.md``; exit code 1 when a committed row was lost or doubled.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import results_file

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "profile_device.py"

_MOST_TO_END_S = 30.0
"""Longest that a worker takes to end after its profiler, on a busy machine."""

Row = tuple[str, str, float | None, str]
"""(key, status, latency in seconds, time of measuring)"""


@dataclass
class KillReport:
    """Counts of rows and faults after the kills."""

    kills: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    damaged: int = 0
    orphans: int = 0
    """Workers that outlived their profiler."""
    at_kill: list[int] = field(default_factory=list)
    """Committed rows at each kill."""

    @property
    def good(self) -> bool:
        """Whether nothing was lost, doubled, damaged or left running."""
        return not (self.lost or self.doubled or self.damaged or self.orphans)


def committed(store: Path) -> list[Row]:
    """Rows that a reader sees, after SQLite has rolled back what was half written."""
    if not store.exists() or store.stat().st_size == 0:
        return []
    with sqlite3.connect(store) as connection:
        sql = "SELECT key, status, latency_s, created_at FROM measurements ORDER BY id"
        return [tuple(row) for row in connection.execute(sql)]


def is_sound(store: Path) -> bool:
    """SQLite's own integrity check."""
    if not store.exists():
        return True
    with sqlite3.connect(store) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok")


def children_of(pid: int) -> list[int]:
    """Direct children of a running program (Linux)."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(text) for text in path.read_text().split()] if path.exists() else []


def kill_and_resume(
    command: Sequence[str], store: Path, kills: int, seconds: tuple[float, float], seed: int = 0
) -> KillReport:
    """Runs ``command``, which profiles into ``store``, killing it ``kills`` times, then to its end.

    Args:
        command: Program that profiles a fixed list of networks and resumes.
        store: Its store.
        kills: How often it is killed.
        seconds: Range of the random time after the first new row, or start, of each kill.
        seed: Seed of the random moments.
    """
    moments, report = random.Random(seed), KillReport()
    seen: dict[str, Row] = {}
    for _ in range(kills):
        pause = moments.uniform(*seconds)
        report.orphans += _run_and_kill(command, store, pause, len(seen))
        _compare(report, store, seen)
        report.kills += 1
        report.at_kill.append(len(seen))
        print(f"kill {report.kills}: {len(seen)} rows committed, {report.lost} lost", flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _compare(report, store, seen)
    report.rows = len(seen)
    return report


def _run_and_kill(command: Sequence[str], store: Path, pause: float, rows: int) -> int:
    """Starts the command, waits for a new row and then ``pause``, kills; gives the orphans."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None and len(committed(store)) <= rows:
        time.sleep(0.05)
    deadline = time.monotonic() + pause
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = children_of(child.pid) if child.poll() is None else []
    child.send_signal(signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + _MOST_TO_END_S
    while any(map(_is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return sum(map(_is_alive, workers))


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


def _compare(report: KillReport, store: Path, seen: dict[str, Row]) -> None:
    """Counts rows that vanished or changed, keys that come twice, and damage."""
    rows = committed(store)
    now = {row[0]: row for row in rows}
    report.lost += sum(now.get(key) != row for key, row in seen.items())
    report.doubled += len(rows) - len(now)
    report.damaged += not is_sound(store)
    seen.clear()
    seen.update(now)


def main() -> int:
    """Runs the benchmark on the quick suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--count", type=int, default=60, help="networks of the quick suite")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument("--longest", type=float, default=6.0, help="seconds to a kill, at most")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "labels.db"
        command = [sys.executable, str(SCRIPT), "--store", str(store), "--suite", "quick"]
        command += ["--count", str(options.count)]
        start = time.monotonic()
        report = kill_and_resume(
            command, store, options.kills, (0.0, options.longest), options.seed
        )
    verdict = (
        f"{report.kills} kills, {report.rows} rows at the end, {report.lost} lost, "
        f"{report.doubled} doubled, {report.damaged} times damaged, {report.orphans} workers left "
        f"running; {time.monotonic() - start:.0f} s: {'good' if report.good else 'BAD'}"
    )
    print(verdict)
    results_file.write(
        "Killing a profiling run and resuming it",
        f"SIGKILL at a random moment within {options.longest:g} s after each start's first new "
        f"row, {options.count} networks of the quick suite.",
        f"Rows committed at each kill: {', '.join(map(str, report.at_kill))}.\n\n{verdict}",
    )
    return 0 if report.good else 1


if __name__ == "__main__":
    sys.exit(main())
