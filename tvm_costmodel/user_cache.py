"""The folder of this user's own files: what was learned of this machine and outlives a command."""

from __future__ import annotations

import os
from pathlib import Path

from tvm_costmodel.errors import ConfigError

VARIABLE = "TVM_COSTMODEL_CACHE"


def cache_folder() -> Path:
    """Where own files are kept: ``$TVM_COSTMODEL_CACHE``, or ``tvm-costmodel`` in the XDG cache."""
    if own := os.environ.get(VARIABLE):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvm-costmodel"


def make_folder(*names: str) -> Path:
    """A folder in the cache, made where it is missing.

    Raises:
        ConfigError: It cannot be made or written to; the message says what to set.
    """
    folder = cache_folder().joinpath(*names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot write to the cache folder {folder} ({error.strerror}); set {VARIABLE} to a "
            "folder of your own"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ConfigError(
            f"cannot write to the cache folder {folder}; set {VARIABLE} to a folder of your own"
        )
    return folder
