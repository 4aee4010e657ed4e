"""NNLQP's data set: 20,000 networks of ten families, measured on inference platforms.

Liu et al., "NNLQP", ICPP 2022. The labels are lines of ``id path batch latency family platform
stage``, latency in milliseconds; the networks are ONNX files without weights, at ``path`` below
the data set's folder.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.frontends.label_files import positive, read_text
from tvm_costmodel.frontends.nasbench import nasbench201_cell
from tvm_costmodel.graph import OpGraph

if TYPE_CHECKING:
    import onnx

STAGES = ("train", "test")
_FIELDS = "id, path, batch, latency in ms, family, platform and stage (train or test)"

# Operations by the digits of the networks' numbers, most significant digit first.
_DIGITS_201 = ("none", "avg_pool_3x3", "nor_conv_3x3", "nor_conv_1x1", "skip_connect")


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
        graph: The cell (see `nasbench`).
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


def load_nnlqp_graph(label: NnlqpLabel, folder: str | os.PathLike[str]) -> OpGraph:
    """Reads a label's network at the batch size that was measured.

    Args:
        label: The measurement.
        folder: Folder of the data set, which ``label.path`` is relative to.

    Raises:
        ModelFileError: The file is missing or damaged, or cannot be imported at this batch size.
        UnsupportedOperatorError: It has operators that TVM's importer does not know.
    """
    from tvm_costmodel.frontends.onnx import from_onnx, read_onnx

    path = Path(folder) / label.path
    model = read_onnx(path)
    _set_batch(model, label.batch, str(path))
    try:
        graph = from_onnx(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path} at batch {label.batch}: {error}") from error
    return OpGraph(graph.operators, graph.outputs, Path(label.path).stem)


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
    """Arch string of ``onnx/nasbench201/<number>.onnx``: the number's six digits in base 5.

    Raises:
        GraphError: There is no such number.
    """
    if not 0 <= number < 5**6:
        raise GraphError(f"network {number}: the family nasbench201 has the numbers 0 to 15624")
    names = [_DIGITS_201[number // 5**place % 5] for place in range(5, -1, -1)]
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


def _set_batch(model: onnx.ModelProto, batch: int, label: str) -> None:
    """Changes the first dimension of the activations that go in, and forgets all that follow."""
    from tvm_costmodel.frontends.onnx import drop_initialiser_inputs
    from tvm_costmodel.frontends.onnx_weights import adopt_orphan_weights

    drop_initialiser_inputs(model)
    adopt_orphan_weights(model, label)
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_value = batch
    for value in model.graph.output:
        dims = value.type.tensor_type.shape.dim
        if dims:
            dims[0].dim_value = batch
    del model.graph.value_info[:]
