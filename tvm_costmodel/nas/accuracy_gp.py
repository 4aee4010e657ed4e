"""Accuracy of cells as the mean of Gaussian processes over what the cells compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from tvm_costmodel.models.cell_gp import KERNELS, CellFeatures, CellGP, CellGPConfig
from tvm_costmodel.nas.accuracy import RankScale
from tvm_costmodel.nas.accuracy_structures import StructureRegressor, check_flow_version
from tvm_costmodel.nas.cell_paths import COUNTS, FLOW_VERSION, CellStructure, Pattern

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "weights.safetensors"
_CHUNK = 4096  # cells of one posterior


class StructureFeatures:
    """Turns structures into numbers, by the patterns and spreads of the training cells.

    Args:
        vocabulary: For each of `COUNTS` its patterns; others are counted together.
        mean: Mean of the totals, float64 [T].
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
        """How often each pattern occurs, and all unknown ones together, float64 [G, F + 1]."""
        places = self._places[name]
        counts = np.zeros((len(structures), len(places) + 1))
        for row, structure in enumerate(structures):
            for pattern, times in structure.counts[name].items():
                counts[row, places.get(pattern, len(places))] += times
        return counts

    def features(self, structures: Sequence[CellStructure], device: str = "cpu") -> CellFeatures:
        """Cells as a Gaussian process compares them."""
        totals = (np.stack([s.totals for s in structures]) - self.mean) / self.spread
        blocks = {"totals": torch.from_numpy(totals).to(device)}
        for name in COUNTS:
            blocks[name] = torch.from_numpy(np.log1p(self.counts(structures, name))).to(device)
        identity = [int(s.identity, 16) - 2**63 for s in structures]
        return CellFeatures(blocks, torch.tensor(identity, dtype=torch.int64, device=device))


class CellGPAccuracy(StructureRegressor):
    """The mean of several Gaussian processes over what cells compute, see `models.cell_gp`.

    Args:
        operations: The benchmark's operations.
        config: How scales and variances are fitted.
        seed: Seed of the order of the cells, and so of those that the scales are learnt from.
        device: ``cpu`` or ``cuda``.
    """

    name = "cell_gp"

    def __init__(
        self,
        operations: Sequence[str],
        config: CellGPConfig | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(operations, seed, device)
        self.config = config or CellGPConfig()
        self.gps: list[CellGP] = []
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
        self.gps = [
            CellGP(terms, self._sizes(self._known))
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
        scores = []
        for start in range(0, len(structures), _CHUNK):
            cells = self.encoder.features(structures[start : start + _CHUNK], self.device)
            scores.append(torch.stack([gp(cells) for gp in self.gps]).mean(0).cpu().numpy())
        return np.concatenate(scores)

    def _is_fitted(self) -> bool:
        return bool(self.gps)

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
        for index, gp in enumerate(self.gps):
            tensors |= {f"gp{index}.{k}": v for k, v in gp.state_dict().items()}
        tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
        (folder / WEIGHTS).write_bytes(save_tensors(tensors))

    @classmethod
    def _read(
        cls, folder: Path, description: Mapping[str, Any], operations: Sequence[str], device: str
    ) -> Self:
        check_flow_version(folder, description)
        regressor = cls(operations, CellGPConfig(**description["config"]), device=device)
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
            gp = CellGP(terms, cls._sizes(known)).to(device)
            prefix = f"gp{index}."
            state = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            gp.weights = torch.zeros_like(state["weights"])
            gp.load_state_dict(state)
            gp.recall(known)
            regressor.gps.append(gp)
        return regressor
