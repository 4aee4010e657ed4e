"""The profiler's side of a worker: requests with limits on time and memory, and clean ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tvm_costmodel import errors
from tvm_costmodel.errors import CostModelError, MeasurementError
from tvm_costmodel.profiling.measuring.cpu_affinity import TimingLock
from tvm_costmodel.profiling.worker.pipe import Receiver, send

PROGRAM = ("-m", "tvm_costmodel.profiling.worker.server")
"""Arguments of Python that run a worker."""

_POLL_S = 0.5
_START_TIMEOUT_S = 180.0
_HEAD_LINES, _TAIL_LINES = 4, 8
_MOST_CHARACTERS = 2000
_NOISE = ("Extension modules:", 'File "<frozen', "no schedule template takes")
_TIMED = ("measure", "measure_interleaved", "time_in_place")
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerFailure(Exception):
    """A request failed: an error inside the worker, or the worker's end.

    Attributes:
        kind: ``error``, ``timeout``, ``memory`` or ``crash``.
        raised: Name of the exception inside the worker, where there was one.
    """

    def __init__(self, kind: str, message: str, raised: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.raised = raised


class Worker:
    """Starts workers and talks to them.

    Args:
        start: Fields of the ``start`` request: device, cores, measurement, pipeline, compiler.
        threads: Threads that TVM may use.
        memory_limit_mib: Resident memory at which a worker is stopped.
        builds: A worker is replaced by a fresh one after so many builds.
        lock: Shared with other programs that measure on this machine at the same time.
    """

    def __init__(
        self,
        start: Mapping[str, Any],
        threads: int = 1,
        memory_limit_mib: int = 6144,
        builds: int = 150,
        lock: TimingLock | None = None,
    ) -> None:
        self._start_request = dict(start)
        self._threads = threads
        self._memory_limit_mib = memory_limit_mib
        self._builds = builds
        self._lock = lock
        self._built = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._receiver: Receiver | None = None
        self._stderr: IO[bytes] | None = None
        self.greeting: dict[str, Any] = {}
        """Pipeline and environment of the worker that was started last."""
        self.starts = 0

    def start(self) -> dict[str, Any]:
        """Starts a worker unless one runs.

        Raises:
            CostModelError: It cannot serve: TVM is missing, the board is not there, and so on.
        """
        if self._child is not None and self._child.poll() is None:
            return self.greeting
        self.stop()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the worker
        variables = os.environ | dict.fromkeys(_ONE_THREAD, "1")
        variables["TVM_NUM_THREADS"] = str(self._threads)
        self._child = subprocess.Popen(
            [sys.executable, *PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=variables,
            start_new_session=True,
        )
        assert self._child.stdout is not None
        self._receiver = Receiver(self._child.stdout.fileno())
        self._built = 0
        self.starts += 1
        try:
            self.greeting = self.request("start", _START_TIMEOUT_S, **self._start_request)
        except WorkerFailure as failure:
            self.stop()
            kind = error_type(failure.raised) or MeasurementError
            raise kind(f"the measuring worker did not start: {failure}") from failure
        return self.greeting

    def request(self, op: str, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Sends one request and waits for its answer.

        Raises:
            WorkerFailure: An error, a time-out, too much memory or a crash. After the last three
                the worker is gone and the next ``start`` makes another.
        """
        if self._lock is None:
            return self._request(op, timeout_s, fields)
        with self._lock.timing() if op in _TIMED else self._lock.working():
            return self._request(op, timeout_s, fields)

    def _request(self, op: str, timeout_s: float, fields: Mapping[str, Any]) -> dict[str, Any]:
        child, receiver, stderr = self._child, self._receiver, self._stderr
        if child is None or receiver is None or stderr is None or child.stdin is None:
            raise WorkerFailure("crash", "no worker runs")
        begin = stderr.seek(0, os.SEEK_END)
        deadline = time.monotonic() + timeout_s
        try:
            send(child.stdin.fileno(), {"op": op, **fields})
            answer = self._wait(child, receiver, op, timeout_s, deadline)
        except (EOFError, OSError) as error:
            text = self._post_mortem(begin)
            self.stop()
            raise WorkerFailure("crash", f"{op}: {text}") from error
        except WorkerFailure:
            self.stop()
            raise
        if "error" in answer:
            raise WorkerFailure("error", answer["error"], answer.get("kind", ""))
        self._built += op in ("build", "build_variant")
        response: dict[str, Any] = answer["ok"]
        return response

    def _wait(
        self,
        child: subprocess.Popen[bytes],
        receiver: Receiver,
        op: str,
        timeout_s: float,
        deadline: float,
    ) -> dict[str, Any]:
        while True:
            remaining_s = deadline - time.monotonic()
            answer = receiver.receive(max(0.0, min(_POLL_S, remaining_s)))
            if answer is not None:
                return answer
            if remaining_s <= 0:
                raise WorkerFailure("timeout", f"{op}: no end after {timeout_s:g} s")
            used = resident_mib(child.pid)
            if used > self._memory_limit_mib:
                raise WorkerFailure(
                    "memory", f"{op}: {used} MiB of memory, over {self._memory_limit_mib} MiB"
                )

    def refresh(self) -> None:
        """Ends a worker that has served its number of builds or holds much memory."""
        child = self._child
        if child is None:
            return
        if self._built >= self._builds or resident_mib(child.pid) > self._memory_limit_mib // 2:
            self.stop()

    def stop(self) -> None:
        """Kills the worker and everything that it started."""
        child, self._child, self._receiver = self._child, None, None
        if child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def _post_mortem(self, begin: int) -> str:
        """How the worker ended and the last lines that it printed."""
        assert self._child is not None and self._stderr is not None
        try:
            code = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        ended = f"the worker ended with exit code {code}"
        if code is not None and code < 0:
            ended = f"the worker was killed by {signal.Signals(-code).name}"
        self._stderr.seek(begin)
        printed = _summary_of_output(self._stderr.read().decode(errors="replace"))
        return f"{ended}: {printed}" if printed else ended


def error_type(name: str) -> type[CostModelError] | None:
    """The package's error of that name; None when it is no error of the package."""
    kind = getattr(errors, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, CostModelError) else None


def _summary_of_output(text: str) -> str:
    """The first and last lines of what a dead worker printed, without Python's own frames."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_NOISE)]
    if len(lines) > _HEAD_LINES + _TAIL_LINES:
        lines = [*lines[:_HEAD_LINES], "...", *lines[-_TAIL_LINES:]]
    return " | ".join(lines)[:_MOST_CHARACTERS]


def resident_mib(pid: int) -> int:
    """Resident memory of a running program in MiB; 0 where it cannot be seen."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") // (1 << 20)
