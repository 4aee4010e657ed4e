"""Writing files so that a crash, an interrupt or a full disk leaves the old one or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes ``content`` beside ``path`` and moves it into place in one step.

    A device or pipe, such as ``/dev/stdout``, is written to as it is; of a link, its target.

    Args:
        path: Target file; its folder is made when it is missing.
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
    """Puts the file into errors that do not say which file they are about, such as a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(target)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
