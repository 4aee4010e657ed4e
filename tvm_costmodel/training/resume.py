"""The state of an interrupted training, as one safetensors file written in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.errors import CheckpointError

STATE_FILE = "training.safetensors"

Groups = dict[str, dict[str, Tensor]]


def save_state(
    path: Path, groups: Mapping[str, Mapping[str, Tensor]], progress: object, fingerprint: str
) -> None:
    """Writes named groups of tensors with the progress of the training.

    Args:
        path: File to replace.
        groups: Group name (without dots) to named tensors.
        progress: JSON values.
        fingerprint: Hash of everything that a resumed training must share with the interrupted
            one.
    """
    tensors = {
        f"{group}.{name}": value.detach().contiguous()
        for group, members in groups.items()
        for name, value in members.items()
    }
    metadata = {"progress": json.dumps(progress), "fingerprint": fingerprint}
    write_atomically(path, save_tensors(tensors, metadata))


def load_state(path: Path, fingerprint: str) -> tuple[Groups, dict[str, Any]]:
    """Reads the file that `save_state` wrote.

    Returns:
        The groups and the progress.

    Raises:
        CheckpointError: The file is damaged, or belongs to another training.
    """
    try:
        content = path.read_bytes()
        tensors = load_tensors(content)
        header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header["__metadata__"]
        progress = dict(json.loads(metadata["progress"]))
        stored_fingerprint = metadata["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} is no training state ({error}): remove it or train without --resume"
        ) from error
    if stored_fingerprint != fingerprint:
        raise CheckpointError(
            f"{path} belongs to a training with other labels or settings: give those again, "
            "or train without --resume"
        )
    groups: Groups = {}
    for key, value in tensors.items():
        group, name = key.split(".", 1)
        groups.setdefault(group, {})[name] = value
    return groups, progress
