"""Measuring through a real RPC tracker and server on loopback."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest

from tests.profiling.conftest import QUICK
from tests.profiling.test_profiler import tiny
from tests.rpc_board import board, free_port
from tvm_costmodel.errors import ConfigError, DeviceError
from tvm_costmodel.profiling.devices import resolve_device
from tvm_costmodel.profiling.profiler import Profiler

KEY = "loopback"


@pytest.fixture(scope="module")
def tracker() -> Iterator[str]:
    """A tracker with one server behind it; gives ``host:port``."""
    with board(KEY) as address:
        yield address


def test_networks_and_kernels_are_timed_on_the_board(
    tracker: str, make_profiler: Callable[..., Profiler]
) -> None:
    device = resolve_device("cpu").with_tracker(tracker, KEY)
    profiler = make_profiler(device=device)
    summary = profiler.run(tiny(4, 8))
    rows = list(profiler.store.measurements(status=None))
    assert (summary.measured, summary.failed) == (2, 0), [row.error for row in rows]
    assert summary.device.endswith("-rpc")
    assert rows[0].timing is not None and 1e-7 < rows[0].timing.latency_s < 1e-2
    assert rows[0].timing.cpu_s is None and rows[0].timing.reference_s > 1e-4
    assert rows[0].kernels and rows[0].kernels[0].latency_s > 0
    facts = profiler.store.environments()[rows[0].environment_id]
    assert facts["runner"] == "rpc" and facts["key"] == KEY
    assert make_profiler(device=device).run(tiny(4, 8)).reused == 2


def test_a_session_that_times_out_is_a_row_that_says_so(
    tracker: str, make_profiler: Callable[..., Profiler]
) -> None:
    device = resolve_device("cpu").with_tracker(tracker, KEY)
    device = dataclasses.replace(device, session_timeout_s=3)
    slow = dataclasses.replace(QUICK, min_repeat_ms=100.0, min_repeats=3000, max_repeats=3000)
    profiler = make_profiler(device=device, measurement=slow)
    assert profiler.run(tiny(4)).failed == 1
    (row,) = profiler.store.measurements(status="run_failed")
    assert "a session lasts 3 s" in row.error and "query_rpc_tracker" in row.error, row.error


def test_unknown_key_lists_the_boards(tracker: str, make_profiler: Callable[..., Profiler]) -> None:
    device = resolve_device("cpu").with_tracker(tracker, "no-such-board")
    with pytest.raises(DeviceError, match=rf"'no-such-board'; it has: {KEY}.*rpc_server"):
        make_profiler(device=device).run(tiny(4))


def test_absent_tracker_says_how_to_start_one(make_profiler: Callable[..., Profiler]) -> None:
    device = resolve_device("cpu").with_tracker(f"127.0.0.1:{free_port()}", KEY)
    with pytest.raises(DeviceError, match=r"no RPC tracker answers.*tvm\.exec\.rpc_tracker"):
        make_profiler(device=device).run(tiny(4))


def test_board_without_tracker_or_key(make_profiler: Callable[..., Profiler]) -> None:
    with pytest.raises(ConfigError, match="--tracker HOST:PORT"):
        make_profiler(device="rpi4").run(tiny(4))
