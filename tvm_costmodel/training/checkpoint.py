"""Checkpoint directories: ``checkpoint.json`` (the card) beside one file of weights.

A directory appears whole or not at all: it is written under another name and moved into place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.files import write_atomically

FORMAT = "tvm-costmodel-checkpoint"
FORMAT_VERSION = 1
CARD = "checkpoint.json"

Card = dict[str, Any]


def write_checkpoint(
    directory: str | Path, card: Mapping[str, Any], write_weights: Callable[[Path], None]
) -> Path:
    """Writes a checkpoint directory in one step, replacing an older checkpoint there.

    Args:
        directory: Where it shall be.
        card: What `read_card` gives back, without format, version and weights.
        write_weights: Writes the file of weights into the folder that it is given.

    Raises:
        CheckpointError: The directory holds something that is not a checkpoint.
        OSError: The disk is full or the folder cannot be written; the old checkpoint is as it was.
    """
    target = Path(directory)
    if target.exists() and not (target / CARD).exists() and any(target.iterdir()):
        raise CheckpointError(
            f"{target} exists and is not a checkpoint: choose another directory or empty it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(temporary, 0o755)
        write_weights(temporary)
        (weights,) = temporary.iterdir()
        full = {"format": FORMAT, "format_version": FORMAT_VERSION, **card}
        full["weights"] = {"file": weights.name, "sha256": _sha256(weights)}
        text = json.dumps(full, indent=2, allow_nan=False) + "\n"
        write_atomically(temporary / CARD, text)
        _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def read_card(directory: str | Path, predictor: str | None = None) -> Card:
    """Reads and checks a checkpoint's card and that its weights are whole.

    Args:
        directory: The checkpoint.
        predictor: Predictor that it must be for; any when not given.

    Raises:
        CheckpointError: It is missing, foreign, damaged, of another version or predictor.
    """
    folder = Path(directory)
    try:
        card = json.loads((folder / CARD).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {folder} ({CARD} is missing): train one with "
            "`tvm-costmodel train`, or name one of those that `tvm-costmodel models` lists"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CARD} cannot be read ({error}): train again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CARD} is not a checkpoint of this package: train one with "
            "`tvm-costmodel train`"
        )
    if card.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {card.get('format_version')}, this package reads "
            f"{FORMAT_VERSION}: train it again with `tvm-costmodel train`"
        )
    if predictor is not None and card.get("predictor") != predictor:
        raise CheckpointError(
            f"{folder} holds a {card.get('predictor')!r} predictor, not {predictor!r}: "
            "name the directory of the right one"
        )
    weights = card.get("weights") or {}
    path = folder / str(weights.get("file"))
    if not path.is_file() or _sha256(path) != weights.get("sha256"):
        raise CheckpointError(
            f"{path} is missing or damaged (its checksum is not the one in {CARD}): "
            "copy the whole directory again, or train again"
        )
    return card


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(source: Path, target: Path) -> None:
    """Moves a directory over another one; the old one comes back when the move fails."""
    if not target.exists():
        os.replace(source, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.replace(target, old / "checkpoint")
    try:
        os.replace(source, target)
    except OSError:
        os.replace(old / "checkpoint", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
