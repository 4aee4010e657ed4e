"""Where the published data sets lie that tests read when they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [
    Path(os.environ["TVM_COSTMODEL_DATA"]) if os.environ.get("TVM_COSTMODEL_DATA") else None,
    ROOT.parent / "shared" / "data",
]


def published(name: str) -> Path:
    """Path of a published file, or skips the test that asks for it."""
    for folder in FOLDERS:
        if folder and (folder / name).exists():
            return folder / name
    pytest.skip(f"{name} is not here: set TVM_COSTMODEL_DATA to the folder of the published data")
