"""Many writers, kills in the middle of a commit, and files that may not be read or written."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.profiling.labels import measurement
from tvm_costmodel.errors import StoreError
from tvm_costmodel.profiling.store import connection, transactions
from tvm_costmodel.profiling.store.store import Store

FORK = multiprocessing.get_context("fork")


def put_rows(path: Path, first: int, count: int, committed: Any) -> None:
    with Store(path) as store:
        for size in range(first, first + count):
            row = measurement(size, created_at="2025-01-01T00:00:00+00:00")
            store.put_measurement(row)
            committed.put(row.key)


def tear(path: Path) -> None:
    """Ends with half a transaction in the file and the other half in its journal."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("DELETE FROM measurements")
    for number in range(200):
        database.execute("INSERT INTO graphs VALUES (?, ?)", (f"half {number}", b"x" * 4000))
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_killed_program(path: Path) -> None:
    program = FORK.Process(target=tear, args=(path,))
    program.start()
    program.join()
    assert program.exitcode == -signal.SIGKILL


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def write_together(path: Path, writers: int, count: int) -> set[str]:
    """Programs that put rows at the same time; the keys that they say are committed."""
    committed = FORK.SimpleQueue()
    running = [
        FORK.Process(target=put_rows, args=(path, 1 + i * count, count, committed))
        for i in range(writers)
    ]
    for program in running:
        program.start()
    for program in running:
        program.join()
    assert [program.exitcode for program in running] == [0] * writers
    return {committed.get() for _ in range(writers * count)}


def check_all_are_there(path: Path, written: set[str], total: int) -> None:
    with Store(path, write=False) as store:
        keys = [row.key for row in store.measurements(status=None)]
    assert len(keys) == len(set(keys)) == total
    assert set(keys) == written
    assert [file.name for file in path.parent.iterdir()] == ["store.db"]


def test_writers_at_the_same_time_lose_nothing(path: Path) -> None:
    check_all_are_there(path, write_together(path, 3, 15), 45)


@pytest.mark.slow
def test_eight_writers_of_forty_rows_lose_nothing(path: Path) -> None:
    check_all_are_there(path, write_together(path, 8, 40), 320)


def test_a_writer_waits_as_long_as_others_make_progress(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is held almost always, for three times the patience without progress."""
    monkeypatch.setattr(transactions, "PATIENCE_S", 0.4)
    monkeypatch.setattr(connection, "BUSY_S", 0.01)
    store = Store(path)
    stop, held = time.monotonic() + 1.2, threading.Event()

    def hold() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            while time.monotonic() < stop:
                other.execute("BEGIN IMMEDIATE")
                held.set()
                other.execute("INSERT OR REPLACE INTO environments VALUES ('e', ?)", (time.time(),))
                time.sleep(0.1)
                other.execute("COMMIT")

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(60)
    store.put_measurement(measurement(4))
    holder.join()
    assert store.count() == 1


def test_a_writer_gives_up_where_nothing_happens(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(path)
    monkeypatch.setattr(transactions, "PATIENCE_S", 0.2)
    store._db.execute("PRAGMA busy_timeout = 10")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*another program is writing to it"):
            store.put_measurement(measurement(4))
        other.execute("ROLLBACK")
    store.put_measurement(measurement(4))
    assert store.count() == 1


def test_a_store_that_is_removed_under_a_writer_is_made_anew(path: Path) -> None:
    with Store(path) as store:
        path.unlink()
        store.put_measurement(measurement(4))
        store.put_measurement(measurement(5))
    with Store(path, write=False) as store:
        assert store.count() == 2


@pytest.fixture
def torn(path: Path) -> Path:
    """A store with one row, whose last writer was killed in the middle of a commit."""
    with Store(path) as store:
        store.put_measurement(measurement(4))
    before = path.read_bytes()
    in_a_killed_program(path)
    journal = path.with_name("store.db-journal")
    assert journal.stat().st_size and path.read_bytes() != before
    return path


def test_readers_read_after_a_kill_in_the_middle_of_a_commit(torn: Path) -> None:
    with Store(torn, write=False) as store:
        assert [row.key for row in store.measurements()] == [measurement(4).key]
    assert [file.name for file in torn.parent.iterdir()] == ["store.db"]
    with Store(torn) as store:
        store.put_measurement(measurement(5))
        assert store.count() == 2


def test_a_torn_store_is_read_from_a_copy_where_it_may_not_be_written(torn: Path) -> None:
    before = {file.name: file.read_bytes() for file in torn.parent.iterdir()}
    with closing(connection._recovered(torn)) as copy:
        assert copy.execute("SELECT count(*) FROM measurements").fetchone()[0] == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            copy.execute("DELETE FROM measurements")
    assert {file.name: file.read_bytes() for file in torn.parent.iterdir()} == before


@pytest.fixture
def as_another_user() -> Iterator[Callable[[Callable[[], str]], str]]:
    """Runs a function as a user who owns nothing, in a program of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")

    def run(function: Callable[[], str]) -> str:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                answer = function()
            except BaseException as error:
                answer = f"{type(error).__name__}: {error}"
            os.write(writing, answer.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            answer = stream.read().decode()
        os.waitpid(child, 0)
        return answer

    return run


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter and only its owner may write to."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def read_count(path: Path) -> Callable[[], str]:
    def read() -> str:
        with Store(path, write=False) as store:
            return str(len(list(store.measurements())))

    return read


def test_other_users(as_another_user: Callable[..., str], public: Path) -> None:
    path = public / "store.db"
    with Store(path) as store:
        store.put_measurement(measurement(4))
    path.chmod(0o644)
    assert as_another_user(read_count(path)) == "1"
    assert "readonly" in as_another_user(lambda: str(Store(path)))
    in_a_killed_program(path)
    path.with_name("store.db-journal").chmod(0o644)
    assert as_another_user(read_count(path)) == "1"
    path.chmod(0o600)
    refused = as_another_user(read_count(path))
    assert refused.startswith(f"StoreError: store {path} cannot be read by this user"), refused
    assert "its permissions are 600" in refused and "chmod u+r" in refused
    public.chmod(0o700)
    assert "may not be entered" in as_another_user(read_count(path))
