"""Which cores labels are taken on, and keeping everything else off them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.devices import Device

_PRIORITY = -10


def default_cores(device: Device) -> tuple[int, ...]:
    """The last cores that this program may use, one for each thread; none for a board."""
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
    """Asks for precedence on the label core, where that is allowed and nobody chose otherwise."""
    with suppress(OSError, AttributeError):
        if os.getpriority(os.PRIO_PROCESS, 0) == 0:
            os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)


@contextmanager
def beside(cores: tuple[int, ...], device: Device) -> Iterator[None]:
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
