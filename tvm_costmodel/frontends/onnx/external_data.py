"""Weights that an ONNX model keeps in files of their own."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
from onnx import external_data_helper

from tvm_costmodel.errors import ModelFileError


def check_external_data(model: onnx.ModelProto, folder: Path, label: str) -> None:
    """Refuses a model whose weights are kept in files that do not hold them.

    Args:
        model: The model.
        folder: Its folder, which the files' names are relative to.
        label: Its name in messages.

    Raises:
        ModelFileError: A weight's file is missing, too short or outside of the folder, or its place
            is no number.
    """
    missing: dict[str, None] = {}
    for tensor in external_data_helper._get_all_tensors(model):
        if not external_data_helper.uses_external_data(tensor):
            continue
        entry = _external_entry(tensor, label)
        location = folder / entry.location
        _check_inside(location, folder, entry.location, label)
        if not location.is_file():
            missing[entry.location] = None
            continue
        end = int(entry.offset or 0) + int(entry.length or math.prod(tensor.dims) > 0)
        if location.stat().st_size < end:
            raise ModelFileError(
                f"{label}: {entry.location} holds {location.stat().st_size} bytes where the "
                f"weights need {end}, so it is truncated; export or download it again"
            )
    if missing:
        raise ModelFileError(
            f"{label}: its weights are in {', '.join(missing)}, which is not in {folder}; put the "
            'file there, or load with weights="random" (latency does not depend on the values)'
        )


def _check_inside(location: Path, folder: Path, written: str, label: str) -> None:
    """Raises ModelFileError for a file outside of the model's folder, by a link too."""
    home = folder.resolve()
    inside = location.resolve().is_relative_to(home) and not Path(written).is_absolute()
    if not inside or location.is_symlink():
        raise ModelFileError(
            f"{label}: its weights are in {written}, which is outside of {folder} or a link; put "
            "the file itself into the model's folder and name it by a relative path"
        )


def _external_entry(tensor: onnx.TensorProto, label: str) -> external_data_helper.ExternalDataInfo:
    """Where a weight's values are; raises ModelFileError where that is no place in a file."""
    try:
        entry = external_data_helper.ExternalDataInfo(tensor)
        if (
            entry.location
            and "\0" not in entry.location
            and min(int(entry.offset or 0), int(entry.length or 0)) >= 0
        ):
            return entry
        fault = f"no place in a file ({entry.location[:100]!r} from {entry.offset or 0})"
    except (TypeError, ValueError) as error:
        fault = f"no number ({str(error)[:100]})"
    raise ModelFileError(
        f"{label}: the values of {tensor.name[:100]} are kept at {fault}, so it is damaged; export "
        "or download it again"
    )
