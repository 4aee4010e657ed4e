"""DARTS genotypes (Liu et al., ICLR 2019) as NASLib publishes them: cell pairs with accuracy."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tvm_costmodel.datasets.naslib import key_integers, naslib_records, record_accuracy
from tvm_costmodel.datasets.readers import located, short
from tvm_costmodel.errors import ModelFileError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.cells import DARTS_OPERATIONS, darts_cell


@dataclass(frozen=True)
class DartsGenotype:
    """One DARTS network.

    Attributes:
        normal: Cell that keeps the resolution.
        reduction: Cell of half the resolution.
        accuracy: Validation accuracy in percent, as a surrogate model predicts it.
    """

    normal: OpGraph
    reduction: OpGraph
    accuracy: float


def read_darts(path: str | os.PathLike[str]) -> list[DartsGenotype]:
    """Reads NASLib's JSON of DARTS genotypes.

    Raises:
        ModelFileError: The file cannot be read, is truncated, empty or of another benchmark, or
            an accuracy is missing, not positive or not finite.
    """
    genotypes = []
    for key, record in naslib_records(path, "cifar10").items():
        numbers = key_integers(key, path)
        pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        if len(numbers) != 32 or not all(0 <= code < 7 for _, code in pairs):
            raise ModelFileError(
                f"{path}: {short(key)} is no DARTS genotype of two cells with 8 pairs of source "
                "and operation code below 7; download the file again"
            )
        named = [(source, DARTS_OPERATIONS[code]) for source, code in pairs]
        accuracy = record_accuracy(record, "val_accuracy", path, key)
        with located(path, key):
            genotypes.append(DartsGenotype(darts_cell(named[:8]), darts_cell(named[8:]), accuracy))
    return genotypes
