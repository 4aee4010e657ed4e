"""NASLib's JSON files of benchmarks: records by cell, a cell being integers written as text."""

from __future__ import annotations

import os
from typing import Any

from tvm_costmodel.datasets.readers import positive, read_json, short
from tvm_costmodel.errors import ModelFileError


def naslib_records(path: str | os.PathLike[str], *keys: str) -> dict[str, Any]:
    """The records of a file, which lie below some keys.

    Raises:
        ModelFileError: The file cannot be read, is truncated, of another benchmark or empty.
    """
    records = read_json(path)
    for key in keys:
        if not isinstance(records, dict) or not isinstance(records.get(key), dict):
            raise ModelFileError(
                f"{path}: NASLib's JSON of another benchmark: nothing under {' / '.join(keys)}"
            )
        records = records[key]
    if not records:
        raise ModelFileError(f"{path}: the file holds no cells; download it again")
    return dict(records)


def key_integers(key: str, path: str | os.PathLike[str]) -> list[int]:
    """The integers of a key, which is nested tuples or lists written as text.

    Raises:
        ModelFileError: It holds something else.
    """
    numbers = key.translate(str.maketrans("()[],", "     ")).split()
    try:
        return [int(number) for number in numbers]
    except ValueError:
        raise ModelFileError(
            f"{path}: {short(key)} is no cell in numbers; download the file again"
        ) from None


def record_accuracy(record: Any, name: str, path: str | os.PathLike[str], key: str) -> float:
    """Accuracy in percent of a record, under the name that the benchmark gives it.

    Raises:
        ModelFileError: It is missing, not positive or not finite.
    """
    value = record.get(name) if isinstance(record, dict) else None
    return positive(value, f"{path}: {name} of {short(key)}")
