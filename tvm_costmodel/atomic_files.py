"""Writes files so that a crash, an interrupt or a full disk leaves the old file or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes ``content`` to a temporary file next to ``path`` and moves it there in one step.

    A device or pipe, such as ``/dev/stdout``, is written to directly; a link is followed.

    Args:
        path: Target file; its folder is created when it is missing.
        content: Text (written as UTF-8) or bytes.

    Raises:
        OSError: The folder cannot be written or the disk is full; ``path`` is as it was.
    """
    packed = content.encode() if isinstance(content, str) else content
    target = Path(path)
    if target.exists() and not target.is_file():
        with _naming(target):
            target.write_bytes(packed)
        return
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with _naming(target), os.fdopen(handle, "wb") as stream:
            stream.write(packed)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def _naming(target: Path) -> Iterator[None]:
    """Adds the file's name to errors that lack it, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
