"""Boosted trees that predict the accuracy of cells from the paths through them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.nas.accuracy import RankScale
from tvm_costmodel.nas.accuracy_structures import StructureRegressor, check_flow_version
from tvm_costmodel.nas.cell_paths import FLOW_VERSION, CellStructure, Pattern
from tvm_costmodel.predictors.tree_files import import_xgboost, read_booster

if TYPE_CHECKING:
    from typing_extensions import Self

TREES = "trees.json"


class XGBoostPathsAccuracy(StructureRegressor):
    """Boosted trees on the number of paths of each kind from input to output.

    Args:
        operations: The benchmark's operations.
        rounds: Number of trees.
        depth: Levels of a tree.
        learning_rate: Shrinkage of each tree.
        seed: Seed of row and column sampling.
        device: Trees grow on the CPU whatever is given.
    """

    name = "xgboost_paths"

    def __init__(
        self,
        operations: Sequence[str],
        rounds: int = 400,
        depth: int = 5,
        learning_rate: float = 0.05,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(operations, seed, device)
        self.rounds, self.depth, self.learning_rate = rounds, depth, learning_rate
        self.patterns: list[Pattern] = []
        self.booster: Any = None

    def fit_structures(self, structures: Sequence[CellStructure], accuracy: np.ndarray) -> None:
        """Learns from structures and accuracies in percent."""
        xgb = import_xgboost()
        self.scale = RankScale(accuracy)
        self.patterns = sorted({p for s in structures for p in s.counts["paths"]})
        settings = {
            "objective": "reg:squarederror",
            "eta": self.learning_rate,
            "max_depth": self.depth,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "min_child_weight": 2,
            "tree_method": "hist",
            "nthread": 1,
            "seed": self.seed,
        }
        matrix = xgb.DMatrix(self._features(structures), label=self.scale.target(accuracy))
        self.booster = xgb.train(settings, matrix, self.rounds)

    def _features(self, structures: Sequence[CellStructure]) -> np.ndarray:
        """Paths by their operators, then how often each operator is on a path, float32 [G, F]."""
        places = {pattern: place for place, pattern in enumerate(self.patterns)}
        names = {name: place for place, name in enumerate(self.operations)}
        counts = np.zeros((len(structures), len(places) + len(names)), dtype=np.float32)
        for row, structure in enumerate(structures):
            for pattern, times in structure.counts["paths"].items():
                if pattern in places:
                    counts[row, places[pattern]] += times
                for name, count in Counter(pattern[1:-1]).items():
                    counts[row, len(places) + names[name]] += times * count
        return counts

    def score_structures(self, structures: Sequence[CellStructure]) -> np.ndarray:
        """The trees' scaled rank, float64 [G]."""
        matrix = import_xgboost().DMatrix(self._features(structures))
        return np.asarray(self.booster.predict(matrix), dtype=np.float64)

    def _is_fitted(self) -> bool:
        return self.booster is not None

    def _describe(self) -> Mapping[str, Any]:
        assert self.scale is not None
        return {
            "flow_version": FLOW_VERSION,
            "patterns": [list(pattern) for pattern in self.patterns],
            "accuracy": self.scale.accuracy.tolist(),
        }

    def _write(self, folder: Path) -> None:
        (folder / TREES).write_bytes(self.booster.save_raw("json"))

    @classmethod
    def _read(
        cls, folder: Path, description: Mapping[str, Any], operations: Sequence[str], device: str
    ) -> Self:
        check_flow_version(folder, description)
        regressor = cls(operations)
        regressor.patterns = [tuple(pattern) for pattern in description["patterns"]]
        regressor.scale = RankScale(np.array(description["accuracy"]))
        regressor.booster = read_booster(folder / TREES)
        return regressor
