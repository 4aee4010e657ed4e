"""A process that runs commands on mutated files, one after the other.

Many cases run in one process that was forked from this one; where a case kills it, the next case
gets a new one.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import resource
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.security import pt2_mutations

LONGEST_LINE = 1500
MEMORY = 2 << 30
SECONDS = 120

Write = Callable[[str, int, Path], "Case"]
"""Writes the mutated file of a (kind, seed) into an empty folder."""


@dataclass(frozen=True)
class Case:
    """One mutated file.

    Attributes:
        kind: What was mutated.
        seed: Seed of the mutation.
        argv: The command line; `{W}` is the case's folder.
    """

    kind: str
    seed: int
    argv: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What a command did: ``accepted``, ``refused``, or a fault."""

    case: Case
    what: str
    text: str = ""

    @property
    def is_fault(self) -> bool:
        return self.what not in ("accepted", "refused")


def run_cases(write: Write, cases: Sequence[tuple[str, int]], folder: Path) -> list[Outcome]:
    """Runs the command of each (kind, seed), as many as possible in one forked process."""
    if any(kind == "pt2" for kind, _ in cases):
        pt2_mutations.warm()
    outcomes: list[Outcome] = []
    while len(outcomes) < len(cases):
        left = cases[len(outcomes) :]
        lines, ending = _forked(lambda say, left=left: _serve(write, left, folder, say))
        for (kind, seed), line in zip(left, lines, strict=False):
            record = json.loads(line)
            case = Case(kind, seed, tuple(record["argv"]))
            outcomes.append(Outcome(case, record["what"], record["text"]))
        if len(lines) < len(left):
            kind, seed = left[len(lines)]
            outcomes.append(Outcome(Case(kind, seed, ()), ending or "crash"))
    return outcomes


def _serve(
    write: Write, cases: Sequence[tuple[str, int]], folder: Path, say: Callable[[str], None]
) -> None:
    pt2_mutations.read_in_forks()
    for kind, seed in cases:
        place = folder / f"{kind}-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        case = write(kind, seed, place)
        signal.alarm(SECONDS)
        what, text = run_command(case.argv)
        signal.alarm(0)
        say(json.dumps({"argv": case.argv, "what": what, "text": text[-2000:]}))
        shutil.rmtree(place, ignore_errors=True)


def run_command(argv: Sequence[str]) -> tuple[str, str]:
    """What a command does in this process: its kind (see `Outcome`) and what it printed."""
    from tvm_costmodel.cli import main

    out, err = io.StringIO(), io.StringIO()
    logging.getLogger().handlers.clear()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(argv))
    except SystemExit as error:
        return "refused", str(error.code)
    except BaseException as error:
        import traceback

        return "traceback", "".join(traceback.format_exception(error)[-6:])
    text = err.getvalue()
    errors = [line for line in text.splitlines() if line.startswith("error:")]
    if "too large for the memory" in text or "needs more memory than it may take" in text:
        return "memory", text
    if code == 0:
        return "accepted", out.getvalue()
    if code != 2 or len(errors) != 1 or "Traceback" in text:
        return f"exit {code}", text
    return ("long" if len(errors[0]) > LONGEST_LINE else "refused"), text


def _forked(work: Callable[[Callable[[str], None]], None]) -> tuple[list[str], str]:
    """Lines that a forked process says until it ends, and how it ended if not well."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            with os.fdopen(writing, "w", buffering=1) as stream:
                work(lambda line: print(line, file=stream, flush=True))
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as stream:
        lines = stream.read().splitlines()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ending = "hang" if code == -signal.SIGALRM else f"crash {-code}" if code < 0 else ""
    return lines, ending
