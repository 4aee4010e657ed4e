"""NAS-Bench-101 as its authors publish it: a TFRecord file of trainings.

Ying et al., ICML 2019. Each record is a JSON list of the cell's hash, the epochs, the adjacency
matrix as a string of 0 and 1, the operations joined by commas, and in base64 a protocol buffer
``ModelMetrics`` (``nasbench/lib/model_metrics.proto``) with the accuracies at the beginning, half
way and at the end. A cell was trained three times for each number of epochs.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tvm_costmodel.datasets.nasbench101 import LabelledCell
from tvm_costmodel.datasets.readers import located, positive
from tvm_costmodel.datasets.tfrecord import read_tfrecords
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.nas.cells import nasbench101_cell

EPOCHS = (4, 12, 36, 108)
"""Numbers of epochs in the full file; the small one holds 108 alone."""

_MOMENTS = 3  # evaluations in a record: beginning, half way, end


@dataclass
class _Trainings:
    """The trainings of one cell, gathered from its records."""

    adjacency: str
    operations: str
    parameters: int
    accuracies: list[float]


def read_nasbench101_tfrecord(
    path: str | os.PathLike[str], epochs: int = 108
) -> Iterator[LabelledCell]:
    """Reads ``nasbench_only108.tfrecord`` or ``nasbench_full.tfrecord``.

    The whole file is read before the first cell comes; cells are built one at a time.

    Args:
        path: The file.
        epochs: Length of the trainings to read, one of `EPOCHS`.

    Yields:
        Cells with the mean of their final validation accuracies, in the file's order.

    Raises:
        ModelFileError: The file cannot be read, is truncated, damaged or of another version, holds
            no training of that length, or an accuracy is missing, zero, negative, NaN or over 1.
    """
    cells: dict[str, _Trainings] = {}
    lengths: set[int] = set()
    for number, payload in enumerate(read_tfrecords(path)):
        place = f"{path}: record {number}"
        key, length, adjacency, operations, metrics = _record(payload, place)
        lengths.add(length)
        if length == epochs:
            accuracy, parameters = _final(metrics, place)
            cell = cells.setdefault(key, _Trainings(adjacency, operations, parameters, []))
            cell.accuracies.append(accuracy)
    if not cells:
        raise ModelFileError(
            f"{path}: holds no trainings of {epochs} epochs, but of "
            f"{', '.join(map(str, sorted(lengths))) or 'none'}; give one of these as epochs"
        )
    for key, cell in cells.items():
        size = math.isqrt(len(cell.adjacency))
        bits = [int(bit) for bit in cell.adjacency]
        matrix = [bits[start : start + size] for start in range(0, size * size, size)]
        with located(path, f"cell {key}"):
            graph = nasbench101_cell(matrix, cell.operations.split(","))
        accuracy = 100.0 * sum(cell.accuracies) / len(cell.accuracies)
        yield LabelledCell(graph, accuracy, cell.parameters / 1e6)


def _record(payload: bytes, place: str) -> tuple[str, int, str, str, str]:
    try:
        key, epochs, adjacency, operations, metrics = json.loads(payload)
    except (ValueError, TypeError):
        raise _other_version(place, "is no JSON list of five") from None
    strings = all(isinstance(text, str) for text in (key, adjacency, operations, metrics))
    if not strings or not isinstance(epochs, int):
        raise _other_version(place, "has fields of other kinds")
    square = math.isqrt(len(adjacency)) ** 2 == len(adjacency)
    if not square or set(adjacency) - {"0", "1"}:
        raise _other_version(place, f"has the adjacency {adjacency[:12]!r}")
    return key, epochs, adjacency, operations, metrics


def _final(metrics: str, place: str) -> tuple[float, int]:
    """Final validation accuracy, 0 to 1, and parameters of a record's ``ModelMetrics``."""
    from google.protobuf.message import DecodeError

    try:
        message = _model_metrics().FromString(base64.b64decode(metrics, validate=True))
    except (binascii.Error, DecodeError) as error:
        raise _other_version(place, f"holds no ModelMetrics ({error})") from None
    moments = message.evaluation_data
    if len(moments) != _MOMENTS or not moments[-1].HasField("validation_accuracy"):
        raise _other_version(place, f"has {len(moments)} evaluations, not {_MOMENTS}")
    accuracy = positive(moments[-1].validation_accuracy, f"{place}: validation_accuracy")
    if accuracy > 1.0:
        raise _other_version(place, f"has the accuracy {accuracy}, which is no share")
    return accuracy, int(message.trainable_parameters)


def _other_version(place: str, what: str) -> ModelFileError:
    return ModelFileError(
        f"{place} {what}: of another version, or not NAS-Bench-101; give nasbench_only108.tfrecord "
        "or nasbench_full.tfrecord"
    )


@functools.cache
def _model_metrics() -> Any:
    """The message class, with the fields that are read; others are skipped when parsing."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tvm_costmodel/nasbench101.proto", package="tvm_costmodel.nasbench101"
    )
    moment = file.message_type.add(name="EvaluationData")
    names = ("current_epoch", "training_time", "train_accuracy", "validation_accuracy")
    for number, name in enumerate(names, 1):
        moment.field.add(
            name=name, number=number, type=kinds.TYPE_DOUBLE, label=kinds.LABEL_OPTIONAL
        )
    metrics = file.message_type.add(name="ModelMetrics")
    metrics.field.add(
        name="evaluation_data",
        number=1,
        type=kinds.TYPE_MESSAGE,
        type_name=".tvm_costmodel.nasbench101.EvaluationData",
        label=kinds.LABEL_REPEATED,
    )
    metrics.field.add(
        name="trainable_parameters", number=2, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName("tvm_costmodel.nasbench101.ModelMetrics")
    return message_factory.GetMessageClass(descriptor)
