"""NAS-Bench-201 (Dong and Yang, ICLR 2020) as a table: cells with accuracies and latencies."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tvm_costmodel.datasets.readers import located, positive, read_text
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import nasbench201_cell


@dataclass(frozen=True)
class Cell201:
    """One cell of NAS-Bench-201 with everything measured on it.

    Attributes:
        index: Its number in the benchmark.
        graph: The cell.
        accuracy: Data set -> validation accuracy in percent.
        latency_s: Device setting -> seconds; settings without a measurement are left out.
    """

    index: int
    graph: OpGraph
    accuracy: Mapping[str, float]
    latency_s: Mapping[str, float]


def read_nasbench201(path: str | os.PathLike[str]) -> list[Cell201]:
    """Reads a table of NAS-Bench-201 cells, plain or gzipped CSV.

    Columns: ``idx``, ``arch_str``, ``val_acc_<data set>`` in percent and ``latency_<device>_ms``;
    an empty latency is a cell that the device did not measure.

    Raises:
        ModelFileError: The file cannot be read, is truncated, empty or lacks columns, or a label
            is missing (accuracy), not positive or not finite.
    """
    rows = csv.DictReader(read_text(path).splitlines())
    columns = rows.fieldnames or []
    if not {"idx", "arch_str"} <= set(columns):
        raise ModelFileError(
            f"{path}: no table of NAS-Bench-201 cells: columns idx, arch_str, val_acc_*, "
            f"latency_*_ms are needed, it has {', '.join(columns[:4]) or 'none'}"
        )
    cells = [_cell(row, path) for row in rows]
    if not cells:
        raise ModelFileError(f"{path}: the file holds no cells; download it again")
    return cells


def _cell(row: Mapping[str, Any], path: str | os.PathLike[str]) -> Cell201:
    accuracy, latency = {}, {}
    place = f"{path}: cell {row['idx']}"
    if None in row or None in row.values():
        raise ModelFileError(f"{place}: a wrong number of columns; download the file again")
    for column, text in row.items():
        if column.startswith("val_acc_"):
            accuracy[column.removeprefix("val_acc_")] = positive(text, f"{place}, {column}")
        elif column.startswith("latency_") and text:
            device = column.removeprefix("latency_").removesuffix("_ms")
            latency[device] = positive(text, f"{place}, {column}") / 1e3
    if not row["idx"].isdigit():
        raise ModelFileError(f"{place}: the index is no number; download the file again")
    with located(path, row["idx"]):
        return Cell201(int(row["idx"]), nasbench201_cell(row["arch_str"]), accuracy, latency)
