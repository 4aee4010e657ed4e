"""Regressors from cells to accuracy: fit, predict, score, save, load.

The counterpart of `predictors.base`, which is about latency of whole networks. A cell is an
`OpGraph` as `nas.cells` builds it; accuracy is in percent.
"""

from __future__ import annotations

import importlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.checkpoint import Card, Checkpointed
from tvm_costmodel.training.metrics import kendall_tau

if TYPE_CHECKING:
    from typing_extensions import Self

LabelledCells = tuple[Sequence[OpGraph], np.ndarray]

_CLASSES = {
    "cell_gp": "tvm_costmodel.nas.accuracy_gp:CellGPAccuracy",
    "xgboost_paths": "tvm_costmodel.nas.accuracy_xgboost:XGBoostPathsAccuracy",
    "nar_former": "tvm_costmodel.nas.accuracy_networks:NarFormerAccuracy",
    "nar_former_v2_cells": "tvm_costmodel.nas.accuracy_networks:NarFormerV2Accuracy",
    "nn_former": "tvm_costmodel.nas.accuracy_networks:NnFormerAccuracy",
}

ACCURACY_REGRESSORS = tuple(_CLASSES)
"""Names that `accuracy_regressor_class` knows."""

RENAMED: Mapping[str, str] = {"cell_process": "cell_gp"}
"""Name on an older card to the predictor's name in `ACCURACY_REGRESSORS`."""


def accuracy_regressor_class(name: str) -> type[AccuracyRegressor]:
    """The class of a regressor, imported when it is first needed.

    Raises:
        ConfigError: No regressor has this name; for a name that only older checkpoints hold, the
            message gives the one in use.
    """
    if name in RENAMED:
        raise ConfigError(f"accuracy predictor {name!r} is now called {RENAMED[name]!r}")
    if name not in _CLASSES:
        raise ConfigError(f"unknown accuracy predictor {name!r}; known: {', '.join(_CLASSES)}")
    module, _, attribute = _CLASSES[name].partition(":")
    regressor_type: type[AccuracyRegressor] = getattr(importlib.import_module(module), attribute)
    return regressor_type


class AccuracyRegressor(Checkpointed):
    """Predicts the accuracy of cells.

    Args:
        operations: The benchmark's operations, such as `nas.cell_tokens.NASBENCH101`.
        seed: Seed of everything random.
        device: ``cpu`` or ``cuda``.
    """

    prefix, label_unit = "accuracy/", "percent"

    def __init__(self, operations: Sequence[str], seed: int = 0, device: str = "cpu") -> None:
        self.operations = tuple(operations)
        self.seed, self.device = seed, device
        self.card: dict[str, Any] = {}

    def fit(
        self,
        cells: Sequence[OpGraph],
        accuracy: np.ndarray,
        validation: LabelledCells | None = None,
    ) -> Self:
        """Learns from trained cells.

        Args:
            cells: The cells.
            accuracy: Percent, one per cell.
            validation: Cells whose Kendall tau is written into the card; nothing is chosen by it.

        Raises:
            ConfigError: A label is not in (0, 100], lengths differ, fewer than 10 cells, or a
                validation cell is also a training cell.
            GraphError: A cell has an operation that the benchmark does not.
        """
        labels = check_accuracies(cells, accuracy)
        if len(cells) < 10:
            raise ConfigError(f"{len(cells)} cells are too few to learn from: give at least 10")
        if validation is not None:
            check_accuracies(*validation)
            both = {cell.hash for cell in cells} & {cell.hash for cell in validation[0]}
            if both:
                raise ConfigError(
                    f"{len(both)} cells are in training and validation, {min(both)} first: "
                    "split by graph hash"
                )
        self._fit(cells, labels)
        self.card["trained_on"] = len(cells)
        if validation is not None:
            tau = kendall_tau(self.predict(validation[0]), np.asarray(validation[1], float))
            self.card["validation_kendall_tau"] = tau if np.isfinite(tau) else None
        return self

    def predict(self, cells: Sequence[OpGraph]) -> np.ndarray:
        """Accuracy in percent of each cell, float64 [G].

        Raises:
            CheckpointError: The regressor was neither fitted nor loaded.
            GraphError: A cell has an operation that the benchmark does not.
        """
        self.require_fitted("fit or load")
        return self._predict(cells) if cells else np.zeros(0)

    def _entries(self) -> dict[str, Any]:
        return {"operations": list(self.operations)}

    @classmethod
    def _of_card(cls, folder: Path, card: Card, device: str = "cpu") -> Self:
        return cls._read(folder, card["model"], card["operations"], device)

    @abstractmethod
    def _fit(self, cells: Sequence[OpGraph], accuracy: np.ndarray) -> None:
        """Learns from cells whose labels are checked."""

    @abstractmethod
    def _predict(self, cells: Sequence[OpGraph]) -> np.ndarray:
        """Accuracy in percent of at least one cell."""

    @classmethod
    @abstractmethod
    def _read(
        cls, folder: Path, description: Mapping[str, Any], operations: Sequence[str], device: str
    ) -> Self:
        """The regressor that `_describe` and `_write` recorded."""


def check_accuracies(cells: Sequence[OpGraph], accuracy: np.ndarray) -> np.ndarray:
    """Accuracies as float64 [G].

    Raises:
        ConfigError: Lengths differ, or one is not above 0 and at most 100.
    """
    labels = np.asarray(accuracy, dtype=np.float64)
    if labels.shape != (len(cells),):
        raise ConfigError(f"{len(cells)} cells need as many accuracies, got {labels.shape}")
    wrong = np.flatnonzero(~((labels > 0) & (labels <= 100)))
    if len(wrong):
        raise ConfigError(
            f"accuracy {labels[wrong[0]]} of cell {wrong[0]} is not in (0, 100] percent: "
            "leave the cell out"
        )
    return labels


class RankScale:
    """Maps accuracies to ranks of zero mean and unit variance, and back.

    A rank weighs every pair of cells alike, as Kendall's tau does; most cells' accuracies lie
    within a few points while a few are no better than guessing.

    Args:
        accuracy: Training accuracies, percent.
    """

    def __init__(self, accuracy: np.ndarray) -> None:
        self.accuracy = np.sort(np.asarray(accuracy, dtype=np.float64))

    def target(self, accuracy: np.ndarray) -> np.ndarray:
        """Scaled mid-ranks of the training accuracies, float64 [N]."""
        low = np.searchsorted(self.accuracy, accuracy, "left")
        high = np.searchsorted(self.accuracy, accuracy, "right")
        ranks: np.ndarray = ((low + high) / (2 * len(self.accuracy)) - 0.5) * np.sqrt(12.0)
        return ranks

    def percent(self, score: np.ndarray) -> np.ndarray:
        """Accuracy that a score stands for; rises strictly with it, also beyond both ends."""
        count = len(self.accuracy)
        at = ((np.arange(count) + 0.5) / count - 0.5) * np.sqrt(12.0)
        percent: np.ndarray = np.interp(score, at, self.accuracy)
        return percent + 1e-3 * score  # keeps order where training accuracies are equal
