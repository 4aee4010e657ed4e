"""Parsers of others run in a child process with limits, and hand back bytes.

A parser that was not written for hostile files may crash, hang, take all memory, or do what the
file says. In a child process a crash costs one message, limits of the system bound time and
memory, and where the kernel offers it the child may write no file, start no program and reach no
network (Landlock, namespaces).
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import re
import select
import signal
import site
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm_costmodel import errors
from tvm_costmodel.confinement import forbid_writing, leave_network
from tvm_costmodel.errors import CostModelError

logger = logging.getLogger(__name__)

_GIB = 1 << 30
# Everything else stays out: variables hold keys and passwords.
_ENVIRONMENT = re.compile(
    r"PATH|LANG|LC_\w+|TZ|VIRTUAL_ENV|PYTHON(HOME|UTF8)|(DY)?LD_LIBRARY_PATH|LD_PRELOAD"
    r"|TVM_(HOME|LIBRARY_PATH|USE_RUNTIME_LIB|FFI_\w+)|(OMP|MKL|OPENBLAS|TVM)_NUM_THREADS"
)


class ChildFailure(Exception):
    """The child crashed, ran out of time or memory; the text says which."""


@dataclass(frozen=True)
class Limits:
    """What a child process may take.

    Attributes:
        memory_bytes: Address space, beyond what the process has already.
        seconds: Time on the clock; half of it in addition to its own processor time.
        files: Open files.
    """

    memory_bytes: int = 4 * _GIB
    seconds: float = 120.0
    files: int = 256

    @classmethod
    def for_content(cls, size: int) -> Limits:
        """Limits for parsing so many bytes."""
        return cls(memory_bytes=2 * _GIB + 16 * size, seconds=60.0 + size / 1e6)


def in_fork(
    action: Callable[[], bytes],
    limits: Limits | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> bytes:
    """Runs an action in a fork of this process and returns its result.

    Args:
        action: Runs in the child, with this process' memory as it is now; what it changes is lost.
        limits: What it may take.
        meanwhile: Runs in this process at the same time.

    Raises:
        CostModelError: The action raised it.
        ChildFailure: The child crashed, took too long or too much memory, or raised another error.
    """
    limits = limits or Limits()
    meanwhile = meanwhile or (lambda: None)
    if not hasattr(os, "fork"):  # no such thing on Windows
        meanwhile()
        return action()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # on forks of threaded processes
        child = os.fork()
    if child == 0:
        _serve(action, writing, limits)
    os.close(writing)
    try:
        meanwhile()
        answer = _read_all(reading, limits.seconds)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    return _result(answer, os.waitstatus_to_exitcode(status))


def in_program(module: str, request: Mapping[str, Any], limits: Limits | None = None) -> bytes:
    """Runs ``python -m module`` on a request, for parsers that do not bear a fork.

    Args:
        module: A module of this package that calls `answer_request`.
        request: JSON values, without paths relative to the working directory.
        limits: What it may take.

    Raises:
        CostModelError: The program raised it.
        ChildFailure: As for `in_fork`.
    """
    limits = limits or Limits()
    message = {
        "request": dict(request),
        "memory_bytes": limits.memory_bytes,
        "seconds": limits.seconds,
        "files": limits.files,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", module],
            input=json.dumps(message).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=clean_environment(tempfile.gettempdir()),
            timeout=limits.seconds,
        )
    except subprocess.TimeoutExpired:
        raise ChildFailure(f"it did not end within {limits.seconds:.0f} s") from None
    return _result(done.stdout, done.returncode)


def clean_environment(folder: str) -> dict[str, str]:
    """Variables for a program of this package that need not know the user's.

    Args:
        folder: What it takes for the home and temporary folder.
    """
    root = str(Path(__file__).resolve().parent.parent)
    search = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    kept = {name: text for name, text in os.environ.items() if _ENVIRONMENT.fullmatch(name)}
    return kept | {
        "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in search),
        "PYTHONUSERBASE": site.getuserbase(),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": folder,
        "TMPDIR": folder,
        "TORCHINDUCTOR_CACHE_DIR": folder,  # is there, so that none is made
    }


def answer_request(
    answer: Callable[[Mapping[str, Any]], bytes], prepare: Callable[[], Any]
) -> None:
    """The program behind `in_program`: reads a request from stdin, answers it on stdout.

    Args:
        answer: Makes the answer, once the process is confined.
        prepare: Imports what ``answer`` needs, before memory is limited.
    """
    message = json.loads(sys.stdin.buffer.read())
    writing = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    leave_network()
    tempfile.tempdir = tempfile.gettempdir()  # found now: later nothing can be written there
    prepare()
    limits = Limits(message["memory_bytes"], message["seconds"], message["files"])
    _serve(lambda: answer(message["request"]), writing, limits)


def _serve(action: Callable[[], bytes], writing: int, limits: Limits) -> None:
    """Runs an action in this process, which ends with it."""
    code = 70
    try:
        faulthandler.disable()
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        _limit(limits)
        forbid_writing()
        with os.fdopen(writing, "wb") as stream:
            stream.write(_answer_of(action))
        code = 0
    except BaseException:
        code = 71
    finally:
        os._exit(code)


def _answer_of(action: Callable[[], bytes]) -> bytes:
    try:
        return b"+" + action()
    except CostModelError as error:
        record = {"kind": type(error).__name__, "text": str(error)}
    except MemoryError:
        record = {"kind": "", "text": "it needs more memory than it may take"}
    except BaseException as error:
        record = {"kind": "", "text": f"{type(error).__name__}: {_first_line(error)}"}
    return b"-" + json.dumps(record).encode()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:300]


def _limit(limits: Limits) -> None:
    import resource

    size = int(Path("/proc/self/statm").read_text().split()[0]) if _has_proc() else 0
    memory = size * resource.getpagesize() + limits.memory_bytes
    used = int(time.process_time())
    for kind, amount in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, used + int(limits.seconds) + 1),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(kind, (most, most))


def _has_proc() -> bool:
    return Path("/proc/self/statm").exists()


def _read_all(reading: int, seconds: float) -> bytes:
    end = time.monotonic() + seconds
    chunks: list[bytes] = []
    while True:
        left = end - time.monotonic()
        if left <= 0 or not select.select([reading], [], [], left)[0]:
            raise ChildFailure(f"it did not end within {seconds:.0f} s")
        chunk = os.read(reading, 1 << 20)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _result(answer: bytes, code: int) -> bytes:
    if code < 0:
        raise ChildFailure(f"it crashed ({signal.Signals(-code).name})")
    if code or not answer:
        raise ChildFailure(f"it ended with code {code}")
    if answer[:1] == b"+":
        return answer[1:]
    record = json.loads(answer[1:])
    kind = getattr(errors, str(record["kind"]), None) if record["kind"] else None
    if isinstance(kind, type) and issubclass(kind, CostModelError):
        raise kind(record["text"])
    raise ChildFailure(str(record["text"]))
