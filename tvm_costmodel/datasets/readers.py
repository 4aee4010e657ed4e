"""Functions that the readers of published labels share: reading a file, and refusing a label."""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import GraphError, ModelFileError

_GZIP_MAGIC = b"\x1f\x8b"


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file.

    Raises:
        ModelFileError: It cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def read_text(path: str | os.PathLike[str]) -> str:
    """The content of a text file, plain or gzipped.

    Raises:
        ModelFileError: It cannot be read, is truncated, or is no text.
    """
    content = read_bytes(path)
    try:
        return (gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content).decode()
    except (OSError, EOFError, ValueError) as error:
        raise ModelFileError(f"{path}: damaged or truncated ({error}); download it again") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """The content of a JSON file, plain or gzipped.

    Raises:
        ModelFileError: It cannot be read, is truncated, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except ValueError as error:
        raise ModelFileError(
            f"{path}: damaged or truncated JSON ({error}); download it again"
        ) from None


def positive(value: Any, what: str, unit: str = "cell") -> float:
    """A label as a number.

    Args:
        value: Number or text.
        what: Name of the label in the message.
        unit: What to leave out of the file.

    Raises:
        ModelFileError: It is missing, or no positive finite number.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ModelFileError(
            f"{what} is {value!r}: labels are positive finite numbers; leave the {unit} out"
        )
    return number


@contextlib.contextmanager
def located(path: str | os.PathLike[str], key: str) -> Iterator[None]:
    """Adds file and cell to the message of a malformed cell."""
    try:
        yield
    except GraphError as error:
        raise ModelFileError(f"{path}: {short(key)}: {error}") from None


def short(key: str) -> str:
    """A key that fits into a message."""
    return key if len(key) <= 40 else f"{key[:37]}..."
