"""The result of a command, and how it is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Output:
    """The result of one command.

    Attributes:
        fields: The JSON object that the command documents; latencies in ms.
        text: The same as text for people.
        exit_code: 0, or 1 when part of the work failed.
    """

    fields: Mapping[str, Any]
    text: str
    exit_code: int = field(default=0)


def table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> str:
    """Formats rows as a plain table; the caller formats the numbers."""
    try:
        from tabulate import tabulate
    except ModuleNotFoundError:  # `doctor` has to say so, in a table
        cells = [[str(cell) for cell in row] for row in (headers, *rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            [cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells
        ]
        return "\n".join("  ".join(line).rstrip() for line in lines)
    return str(tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True))


def named_rows(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Fields as rows of (name, value); lists become one text, numbers have four figures."""

    def shown(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            return ", ".join(map(shown, value)) or "-"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return [(name.replace("_", " "), shown(value)) for name, value in fields.items()]


def milliseconds(seconds: float | None) -> str:
    """A latency in s as text in ms with four significant figures; ``-`` where there is none."""
    return "-" if seconds is None else f"{seconds * 1e3:.4g}"


def write_result(output: Output, form: str) -> None:
    """Prints to standard output: one JSON object, or the text."""
    text = json.dumps(output.fields, allow_nan=False) if form == "json" else output.text
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
