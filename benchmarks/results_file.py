"""Writes the tables of benchmarks: ``results/NAME.<machine>.md``, with environment and command.

All benchmarks share this module; it is not a benchmark itself.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tvm_costmodel.processor import microarchitecture
from tvm_costmodel.profiling.measuring.environment import describe, machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"


def write(
    title: str,
    protocol: str,
    body: str,
    *,
    facts: Mapping[str, Any] | None = None,
    stem: str = "",
    suffix: str = "",
    also: str = "",
    folder: Path | None = None,
) -> Path:
    """Writes a benchmark's table as Markdown.

    Args:
        title: Heading.
        protocol: How the figures were taken.
        body: The tables.
        facts: Machine and software as `machine_facts` gives them; this machine's by default.
        stem: First part of the file's name; the running script's name by default.
        suffix: Second part; the processor's name by default.
        also: Software and settings that ``facts`` does not hold.
        folder: Where the file goes; ``results/`` by default.

    Returns:
        The file, whose path is also printed on standard output.
    """
    facts = machine_facts() if facts is None else facts
    suffix = suffix or machine_name(facts)
    folder = folder or RESULTS
    path = folder / f"{stem or Path(sys.argv[0]).stem}.{suffix}.md"
    environment = ", ".join(filter(None, (describe(facts), also)))
    folder.mkdir(exist_ok=True)
    path.write_text(
        f"# {title}\n\n{protocol}\n{environment}.\nMade by `{command_line()}`.\n\n{body}\n"
    )
    print(f"written to {path}")
    return path


def machine_name(facts: Mapping[str, Any]) -> str:
    """The processor's name as part of a file's name, such as ``amd-zen5``."""
    cpu = facts.get("cpu", {})
    model = microarchitecture(cpu) or cpu.get("model name", "unknown")
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")


def command_line() -> str:
    """The command that is running, without the folders of absolute paths."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]
    return shlex.join(["python", str(name), *words])
