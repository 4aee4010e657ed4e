"""NAS-Bench-101 (Ying et al., ICML 2019) as NASLib publishes it: cells with their accuracy."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from tvm_costmodel.datasets.naslib import key_integers, naslib_records, record_accuracy
from tvm_costmodel.datasets.readers import located, positive, short
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import nasbench101_cell

# Codes of NASLib's compact form, which differ from those of the benchmark's own tools.
_NASLIB_OPERATIONS = ("input", "output", "maxpool3x3", "conv1x1-bn-relu", "conv3x3-bn-relu")


@dataclass(frozen=True)
class LabelledCell:
    """One trained cell.

    Attributes:
        graph: The cell.
        accuracy: Validation accuracy in percent.
        parameters: Millions of parameters of the whole network; NaN where unknown.
    """

    graph: OpGraph
    accuracy: float
    parameters: float = math.nan


def read_nasbench101(path: str | os.PathLike[str]) -> list[LabelledCell]:
    """Reads NASLib's JSON of NAS-Bench-101 cells (49 adjacency values, then 7 operation codes).

    Raises:
        ModelFileError: The file cannot be read, is damaged or of another benchmark, or a cell's
            label is missing or no accuracy.
    """
    cells = []
    for key, record in naslib_records(path, "nasbench101", "cifar10").items():
        numbers = key_integers(key, path)
        if len(numbers) != 56 or not all(0 <= code < 5 for code in numbers[49:]):
            raise ModelFileError(
                f"{path}: {short(key)} is no NAS-Bench-101 cell of 49 adjacency values and 7 "
                "operation codes below 5; download the file again"
            )
        matrix = [numbers[start : start + 7] for start in range(0, 49, 7)]
        names = [_NASLIB_OPERATIONS[code] for code in numbers[49:]]
        accuracy, parameters = record_accuracy(record, "val_accuracy", path, key), math.nan
        if "params" in record:
            parameters = positive(record["params"], f"{path}: params of {short(key)}")
        with located(path, key):
            graph = nasbench101_cell(matrix, names)
        cells.append(LabelledCell(graph, accuracy, parameters))
    return cells
