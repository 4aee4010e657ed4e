"""What the accuracy regressors that read cells as structures share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.nas.accuracy import AccuracyRegressor, RankScale
from tvm_costmodel.nas.cell_paths import FLOW_VERSION, CellStructure, cell_structure


class StructureRegressor(AccuracyRegressor):
    """A regressor on `cell_structure`.

    Reading cells and learning from them are separate steps, so that several trainings on one
    benchmark can share the first.
    """

    scale: RankScale | None = None

    def structures(self, cells: Sequence[OpGraph]) -> list[CellStructure]:
        """What `fit_structures` and `score_structures` take, one per cell."""
        return [cell_structure(cell, self.operations) for cell in cells]

    def fit_structures(self, structures: Sequence[CellStructure], accuracy: np.ndarray) -> None:
        """Learns from structures and accuracies in percent."""
        raise NotImplementedError

    def score_structures(self, structures: Sequence[CellStructure]) -> np.ndarray:
        """Scores that order cells by accuracy, float64 [G]."""
        raise NotImplementedError

    def _fit(self, cells: Sequence[OpGraph], accuracy: np.ndarray) -> None:
        self.fit_structures(self.structures(cells), accuracy)

    def _predict(self, cells: Sequence[OpGraph]) -> np.ndarray:
        assert self.scale is not None
        return self.scale.percent(self.score_structures(self.structures(cells)))


def check_flow_version(folder: Path, description: Mapping[str, Any]) -> None:
    """Refuses a checkpoint that reads cells in another way.

    Raises:
        CheckpointError: Its version of `cell_structure` is not this package's.
    """
    if description.get("flow_version") != FLOW_VERSION:
        raise CheckpointError(
            f"{folder} reads cells as version {description.get('flow_version')}, this package as "
            f"{FLOW_VERSION}: train it again"
        )
