"""Cores: which ones labels are taken on, and how everything else stays off them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.devices import Device

_PRIORITY = -10


def default_cores(device: Device) -> tuple[int, ...]:
    """The last cores that this program may use, one for each thread; none for a board.

    Raises:
        ConfigError: The device wants more threads than there are cores.
    """
    if device.runner != "local" or not hasattr(os, "sched_getaffinity"):
        return ()
    cores = sorted(os.sched_getaffinity(0))
    if device.threads > len(cores):
        raise ConfigError(
            f"device {device.name} wants {device.threads} threads on {len(cores)} cores; "
            f"use {len(cores)} or fewer"
        )
    return tuple(cores[-device.threads :])


def pin(cores: tuple[int, ...]) -> None:
    """Keeps the calling thread on these cores; does nothing where there are none to choose.

    Raises:
        ConfigError: The machine has no such core.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        raise ConfigError(
            f"cannot pin to cores {cores}: {error}; this machine has cores "
            f"0 to {(os.cpu_count() or 1) - 1}, choose with --cores"
        ) from error


def rise_above_others() -> None:
    """Raises this program's priority where that is allowed and its priority is the usual one."""
    with suppress(OSError, AttributeError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)


@contextmanager
def off_label_cores(cores: tuple[int, ...], device: Device) -> Iterator[None]:
    """Keeps this program off the cores that labels are taken on, while it has others."""
    if device.runner != "local" or not hasattr(os, "sched_getaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    others = before - set(cores)
    if others:
        os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class TimingLock:
    """Lets several programs on one machine share the work of building, and time alone.

    The programs work (`working`) at the same time, each on a core of its own. One that is about to
    time (`timing`) waits until the others have finished their current work, and they wait until it
    is done. The operating system frees what a program holds when it ends, however it ends. Neither
    may be entered within the other, nor within itself.

    Args:
        path: A file that all of them name; it and a second one in its folder are created.

    Raises:
        ConfigError: The system has no such locks, or the file cannot be created.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        # Held while waiting to time: nobody starts new work meanwhile, so the wait ends.
        self._gate = self._path.with_name(f"{self._path.name}.gate")
        try:
            import fcntl

            self._path.parent.mkdir(parents=True, exist_ok=True)
            for file in (self._path, self._gate):
                file.touch()
        except (ImportError, OSError) as error:
            raise ConfigError(
                f"cannot make the timing lock {path}: {error}; name another file, or let one "
                "program measure at a time"
            ) from error
        self._flock, self._alone, self._shared = fcntl.flock, fcntl.LOCK_EX, fcntl.LOCK_SH

    @contextmanager
    def working(self) -> Iterator[None]:
        """Holds the lock while this program works; no other program times meanwhile."""
        with open(self._path) as lock:
            with open(self._gate) as gate:
                self._flock(gate, self._alone)
                self._flock(lock, self._shared)
            yield

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Holds the lock while this program times; no other program works or times meanwhile."""
        with open(self._gate) as gate, open(self._path) as lock:
            self._flock(gate, self._alone)
            self._flock(lock, self._alone)
            yield
