"""The folder of this user's own files: what was learned of this machine and outlives a command."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from tvm_costmodel.atomic_files import write_atomically
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


@dataclass(frozen=True)
class Speed:
    """How fast a device is.

    Attributes:
        reference_s: Seconds of the reference kernel.
        doubtful: Whether the machine was busy meanwhile.
    """

    reference_s: float
    doubtful: bool = False


def stored_speed(device: str) -> Speed | None:
    """A device's speed, where `keep_speed` has kept it."""
    try:
        record = json.loads(_speed_file(cache_folder(), device).read_text())
        speed = Speed(float(record["reference_s"]), bool(record["doubtful"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # it is measured again
    return speed if 0 < speed.reference_s < math.inf else None


def keep_speed(device: str, speed: Speed) -> None:
    """Keeps a device's speed.

    Raises:
        ConfigError: The cache cannot be written.
    """
    make_folder("speed")
    write_atomically(_speed_file(cache_folder(), device), json.dumps(asdict(speed)))


def _speed_file(cache: Path, device: str) -> Path:
    return cache / "speed" / f"{device}.json"
