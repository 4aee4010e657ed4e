"""NNLQP's data set: 20,000 networks of ten families, measured on inference platforms.

Liu et al., "NNLQP", ICPP 2022. The labels are lines of ``id path batch latency family platform
stage``, latency in milliseconds; the networks are ONNX files without weights, at ``path`` below
the data set's folder, which `frontends.onnx.batch_size.from_onnx_at_batch` reads.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass

from tvm_costmodel.datasets.readers import positive, read_text
from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import nasbench201_cell

STAGES = ("train", "test")
_FIELDS = "id, path, batch, latency in ms, family, platform and stage (train or test)"

# Operations by the base-5 digit that stands for them in a network's number.
_OPERATION_OF_DIGIT = ("none", "avg_pool_3x3", "nor_conv_3x3", "nor_conv_1x1", "skip_connect")


@dataclass(frozen=True)
class NnlqpLabel:
    """One measurement.

    Attributes:
        name: Its id.
        path: ONNX file, relative to the data set's folder.
        batch: Batch size that was measured.
        latency_s: Seconds.
        family: Family of the network.
        platform: Number of the platform.
        stage: ``train`` or ``test``, the official split.
    """

    name: str
    path: str
    batch: int
    latency_s: float
    family: str
    platform: int
    stage: str


@dataclass(frozen=True)
class NnlqpCell:
    """A network of the family nasbench201, decoded to its cell.

    Attributes:
        number: Number of the network within its family.
        graph: The cell (see `nas.cells`).
        latency_s: Seconds.
        stage: ``train`` or ``test``, the official split.
        accuracy: Validation accuracy on CIFAR-10 in percent.
    """

    number: int
    graph: OpGraph
    latency_s: float
    stage: str
    accuracy: float


def read_nnlqp_labels(path: str | os.PathLike[str]) -> list[NnlqpLabel]:
    """Reads ``gt.txt`` or ``gt_stage.txt``, plain or gzipped.

    Raises:
        ModelFileError: The file cannot be read, is truncated or empty, or a line lacks fields or
            its latency is not positive and finite.
    """
    labels = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            labels.append(_label(line, f"{path}, line {number}"))
    if not labels:
        raise ModelFileError(f"{path}: the file holds no labels; download it again")
    return labels


def read_nnlqp_cells(path: str | os.PathLike[str]) -> list[NnlqpCell]:
    """Reads the table of the family nasbench201, its networks decoded to cells.

    Columns: ``nnlqp_idx``, ``arch_str``, ``latency_ms``, ``stage`` and ``val_acc_cifar10``.

    Raises:
        ModelFileError: As `read_nnlqp_labels`; or an arch string is malformed.
    """
    cells = []
    for number, row in enumerate(csv.DictReader(read_text(path).splitlines()), 2):
        where = f"{path}, line {number}"
        cells.append(_cell(row, where))
    if not cells:
        raise ModelFileError(f"{path}: the file holds no cells; download it again")
    return cells


def nasbench201_arch(number: int) -> str:
    """Arch string of ``onnx/nasbench201/<number>.onnx``: the number written in base 5, six places.

    Raises:
        GraphError: There is no such number.
    """
    if not 0 <= number < 5**6:
        raise GraphError(f"network {number}: the family nasbench201 has the numbers 0 to 15624")
    names = [_OPERATION_OF_DIGIT[number // 5**place % 5] for place in range(5, -1, -1)]
    a, b, c, d, e, f = names
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def _label(line: str, where: str) -> NnlqpLabel:
    fields = line.split()
    if len(fields) != 7 or fields[6] not in STAGES:
        raise ModelFileError(
            f"{where}: needs {_FIELDS}, got {line[:60]!r}; download the file again"
        )
    name, path, batch, latency, family, platform, stage = fields
    if not batch.isdigit() or not int(batch) or not platform.isdigit():
        raise ModelFileError(f"{where}: batch {batch!r} and platform {platform!r} must be numbers")
    seconds = positive(latency, f"{where}: the latency", "line") / 1e3
    return NnlqpLabel(name, path, int(batch), seconds, family, int(platform), stage)


def _cell(row: Mapping[str, str | None], where: str) -> NnlqpCell:
    names = ("nnlqp_idx", "arch_str", "latency_ms", "stage", "val_acc_cifar10")
    fields = [row.get(name) or "" for name in names]
    index, arch, latency, stage, accuracy = fields
    if not all(fields) or not index.isdigit() or stage not in STAGES:
        raise ModelFileError(f"{where}: needs {', '.join(names)}, got {fields}")
    try:
        graph = nasbench201_cell(arch)
    except GraphError as error:
        raise ModelFileError(f"{where}: {error}") from None
    seconds = positive(latency, f"{where}: the latency", "line") / 1e3
    return NnlqpCell(
        int(index), graph, seconds, stage, positive(accuracy, f"{where}: accuracy", "line")
    )
