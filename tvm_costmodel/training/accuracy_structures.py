"""Regressors that read what a cell computes: our process over structures, and boosted trees."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from tvm_costmodel.errors import CheckpointError, MissingDependencyError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.models.cell_process import (
    KERNELS,
    CellFeatures,
    CellProcess,
    ProcessConfig,
)
from tvm_costmodel.tokenizer.cell_flow import (
    COUNTS,
    FLOW_VERSION,
    CellStructure,
    cell_structure,
)
from tvm_costmodel.tokenizer.cell_flow import (
    Path as Pattern,
)
from tvm_costmodel.training.accuracy import AccuracyRegressor, RankScale

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "weights.safetensors"
TREES = "trees.json"
_CHUNK = 4096  # cells of one posterior


class StructureFeatures:
    """Structures as numbers, by the patterns and spreads of the training cells.

    Args:
        vocabulary: For each of `COUNTS` its patterns; others are counted together.
        mean: Of the totals, float64 [T].
        spread: Standard deviation of the totals, float64 [T].
    """

    def __init__(
        self, vocabulary: Mapping[str, Sequence[Pattern]], mean: np.ndarray, spread: np.ndarray
    ) -> None:
        self.vocabulary = {name: list(patterns) for name, patterns in vocabulary.items()}
        self.mean, self.spread = mean, spread
        self._places = {
            name: {pattern: place for place, pattern in enumerate(patterns)}
            for name, patterns in self.vocabulary.items()
        }

    @classmethod
    def learn(cls, structures: Sequence[CellStructure]) -> StructureFeatures:
        """Patterns and spreads of training cells."""
        vocabulary = {}
        for name in COUNTS:
            cells_with = Counter(pattern for s in structures for pattern in s.counts[name])
            # a pattern of one cell compares it with no other
            vocabulary[name] = sorted(p for p, cells in cells_with.items() if cells > 1)
        totals = np.stack([s.totals for s in structures])
        spread = totals.std(axis=0)
        return cls(vocabulary, totals.mean(axis=0), np.where(spread > 1e-9, spread, 1.0))

    def counts(self, structures: Sequence[CellStructure], name: str) -> np.ndarray:
        """float64 [G, F + 1]: how often each pattern occurs, and all unknown ones."""
        places = self._places[name]
        found = np.zeros((len(structures), len(places) + 1))
        for row, structure in enumerate(structures):
            for pattern, times in structure.counts[name].items():
                found[row, places.get(pattern, len(places))] += times
        return found

    def features(self, structures: Sequence[CellStructure], device: str = "cpu") -> CellFeatures:
        """Cells as a process compares them."""
        totals = (np.stack([s.totals for s in structures]) - self.mean) / self.spread
        blocks = {"totals": torch.from_numpy(totals).to(device)}
        for name in COUNTS:
            blocks[name] = torch.from_numpy(np.log1p(self.counts(structures, name))).to(device)
        identity = [int(s.identity, 16) - 2**63 for s in structures]
        return CellFeatures(blocks, torch.tensor(identity, dtype=torch.int64, device=device))


class StructureRegressor(AccuracyRegressor):
    """A regressor on `cell_structure`; reading cells and learning from them can be done apart."""

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


class CellProcessAccuracy(StructureRegressor):
    """Ours: mean of Gaussian processes over what cells compute, `models.cell_process`.

    Args:
        operations: The benchmark's operations.
        config: How scales and variances are found.
        seed: Of the order of the cells, and so of those that the scales are learnt from.
        device: ``cpu`` or ``cuda``.
    """

    name = "cell_process"

    def __init__(
        self,
        operations: Sequence[str],
        config: ProcessConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(operations, seed, device)
        self.config = config or ProcessConfig()
        self.processes: list[CellProcess] = []
        self.encoder: StructureFeatures | None = None
        self._known: CellFeatures | None = None

    def fit_structures(self, structures: Sequence[CellStructure], accuracy: np.ndarray) -> None:
        """Learns from structures and accuracies in percent."""
        order = np.random.default_rng(self.seed).permutation(len(structures))
        structures, accuracy = [structures[i] for i in order], np.asarray(accuracy)[order]
        self.scale = RankScale(accuracy)
        self.encoder = StructureFeatures.learn(structures)
        self._known = self.encoder.features(structures, self.device)
        target = torch.from_numpy(self.scale.target(accuracy)).to(self.device)
        self.processes = [
            CellProcess(terms, self._sizes(self._known))
            .to(self.device)
            .fit(self._known, target, self.config)
            for terms in KERNELS
        ]

    @staticmethod
    def _sizes(cells: CellFeatures) -> dict[str, int]:
        return {name: block.shape[1] for name, block in cells.blocks.items()}

    def score_structures(self, structures: Sequence[CellStructure]) -> np.ndarray:
        """Posterior mean of the scaled rank, float64 [G]."""
        assert self.encoder is not None
        found = []
        for start in range(0, len(structures), _CHUNK):
            cells = self.encoder.features(structures[start : start + _CHUNK], self.device)
            found.append(torch.stack([p(cells) for p in self.processes]).mean(0).cpu().numpy())
        return np.concatenate(found)

    def _is_fitted(self) -> bool:
        return bool(self.processes)

    def _describe(self) -> Mapping[str, Any]:
        assert self.encoder is not None
        return {
            "flow_version": FLOW_VERSION,
            "vocabulary": {name: list(v) for name, v in self.encoder.vocabulary.items()},
            "config": asdict(self.config),
        }

    def _write(self, folder: Path) -> None:
        assert self.encoder is not None and self._known is not None and self.scale is not None
        tensors = {f"known.{name}": block for name, block in self._known.blocks.items()}
        tensors |= {
            "network": self._known.network,
            "mean": torch.from_numpy(self.encoder.mean),
            "spread": torch.from_numpy(self.encoder.spread),
            "accuracy": torch.from_numpy(self.scale.accuracy),
        }
        for index, process in enumerate(self.processes):
            tensors |= {f"process{index}.{k}": v for k, v in process.state_dict().items()}
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        (folder / WEIGHTS).write_bytes(save_tensors(tensors))

    @classmethod
    def _read(
        cls, folder: Path, description: Mapping[str, Any], operations: Sequence[str], device: str
    ) -> Self:
        _check_version(folder, description)
        regressor = cls(operations, ProcessConfig(**description["config"]), device=device)
        tensors = load_file(folder / WEIGHTS, device=device)
        vocabulary = {
            name: [tuple(pattern) for pattern in patterns]
            for name, patterns in description["vocabulary"].items()
        }
        mean, spread = (tensors[name].cpu().numpy() for name in ("mean", "spread"))
        regressor.encoder = StructureFeatures(vocabulary, mean, spread)
        regressor.scale = RankScale(tensors["accuracy"].cpu().numpy())
        blocks = {name: tensors[f"known.{name}"] for name in ("totals", *COUNTS)}
        known = regressor._known = CellFeatures(blocks, tensors["network"])
        for index, terms in enumerate(KERNELS):
            process = CellProcess(terms, cls._sizes(known)).to(device)
            prefix = f"process{index}."
            state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            process.weights = torch.zeros_like(state["weights"])
            process.load_state_dict(state)
            process.recall(known)
            regressor.processes.append(process)
        return regressor


class XGBoostPathsAccuracy(StructureRegressor):
    """Boosted trees on how many ways of each kind lead from input to output.

    Args:
        operations: The benchmark's operations.
        rounds: Trees.
        depth: Levels of a tree.
        learning_rate: Shrinkage of each tree.
        seed: Of row and column sampling.
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
        xgb = _xgboost()
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
        """float32 [G, F]: ways by operators, then the sums over ways of each operator."""
        places = {pattern: place for place, pattern in enumerate(self.patterns)}
        names = {name: place for place, name in enumerate(self.operations)}
        found = np.zeros((len(structures), len(places) + len(names)), dtype=np.float32)
        for row, structure in enumerate(structures):
            for pattern, times in structure.counts["paths"].items():
                if pattern in places:
                    found[row, places[pattern]] += times
                for name, count in Counter(pattern[1:-1]).items():
                    found[row, len(places) + names[name]] += times * count
        return found

    def score_structures(self, structures: Sequence[CellStructure]) -> np.ndarray:
        """The trees' scaled rank, float64 [G]."""
        matrix = _xgboost().DMatrix(self._features(structures))
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
        _check_version(folder, description)
        regressor = cls(operations)
        regressor.patterns = [tuple(pattern) for pattern in description["patterns"]]
        regressor.scale = RankScale(np.array(description["accuracy"]))
        content = (folder / TREES).read_bytes()
        json.loads(content)  # XGBoost's own message on a damaged file is a page long
        regressor.booster = _xgboost().Booster()
        regressor.booster.load_model(bytearray(content))
        return regressor


def _check_version(folder: Path, description: Mapping[str, Any]) -> None:
    if description.get("flow_version") != FLOW_VERSION:
        raise CheckpointError(
            f"{folder} reads cells as version {description.get('flow_version')}, this package as "
            f"{FLOW_VERSION}: train it again"
        )


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise MissingDependencyError(
            "the xgboost_paths predictor needs XGBoost: pip install xgboost"
        ) from error
    return xgboost
