"""The predictors as networks, one published model per file, and ``zoo/`` with released weights.

Layout of the zoo: ``zoo/<device>/<predictor>/`` holds ``checkpoint.json`` and its weights.
"""

from __future__ import annotations

from pathlib import Path

ZOO = Path(__file__).parent / "zoo"
"""Folder of the checkpoints that ship with the package."""
