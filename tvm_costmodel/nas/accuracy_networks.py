"""The published networks that predict the accuracy of cells, as regressors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors
from torch import nn

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.layers import with_weights
from tvm_costmodel.models.nar_former import NarFormer
from tvm_costmodel.models.nar_former_v2_cells import NarFormerV2Cells
from tvm_costmodel.models.nn_former_cells import NnFormerCells, NnFormerCellsConfig
from tvm_costmodel.nas.accuracy import AccuracyRegressor
from tvm_costmodel.nas.accuracy_trainer import AccuracyEnsemble, AccuracyTraining, BaseLoss, Inputs
from tvm_costmodel.nas.cell_batch import CellArrays, PositionTokens, Structures
from tvm_costmodel.nas.cell_tokens import NAR_FORMER_CELLS, NAR_FORMER_V2_CELLS
from tvm_costmodel.training.losses import relative_squared

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "weights.safetensors"
Encode = Callable[[Structures], Inputs]


@dataclass(frozen=True)
class NetworkKind:
    """One published network on cells.

    Attributes:
        build: Makes it for a number of operations.
        encoder: Makes the function from structures to its inputs.
        base_loss: Loss of predictions and labels, without ranking and consistency.
        recipe: Its training, as published.
    """

    build: Callable[[int], nn.Module]
    encoder: Callable[[CellArrays], Encode]
    base_loss: BaseLoss
    recipe: AccuracyTraining


def _nar_former_inputs(cells: CellArrays) -> Encode:
    nodes = cells.codes.shape[1]
    return PositionTokens(NAR_FORMER_CELLS, len(cells.operations), nodes, cells.device)


def _nar_former_v2_inputs(cells: CellArrays) -> Encode:
    nodes = cells.codes.shape[1]
    tokens = PositionTokens(NAR_FORMER_V2_CELLS, len(cells.operations), nodes, cells.device)

    def encode(structures: Structures) -> Inputs:
        features, mask, _ = tokens(structures)
        return features, structures.adjacency, mask

    return encode


def _nn_former_inputs(cells: CellArrays) -> Encode:
    count = len(cells.operations)

    def encode(structures: Structures) -> Inputs:
        one_hot = F.one_hot(structures.codes, count + 1)[..., :count].float()
        return one_hot, structures.adjacency, structures.mask

    return encode


NETWORKS: Mapping[str, NetworkKind] = {
    "nar_former": NetworkKind(
        lambda operations: NarFormer(),
        _nar_former_inputs,
        F.mse_loss,
        AccuracyTraining(epochs=6000, batch_size=128, ema=0.99),
    ),
    "nar_former_v2_cells": NetworkKind(
        lambda operations: NarFormerV2Cells(),
        _nar_former_v2_inputs,
        relative_squared,
        AccuracyTraining(epochs=1000, batch_size=8, weight_decay=0.0),
    ),
    "nn_former": NetworkKind(
        lambda operations: NnFormerCells(NnFormerCellsConfig(operations)),
        _nn_former_inputs,
        F.mse_loss,
        # The prediction does not depend on the order of the operators: consistency is always 0.
        AccuracyTraining(epochs=3000, batch_size=128, ranking=0.2, consistency=0.0, ema=0.99),
    ),
}
"""Networks by name."""


def build_ensemble(
    name: str,
    recipe: AccuracyTraining,
    cells: CellArrays,
    labels: np.ndarray,
    train: Sequence[np.ndarray],
    seed: int = 0,
) -> AccuracyEnsemble:
    """An ensemble of a published network, ready to train.

    Args:
        name: One of `NETWORKS`.
        recipe: How its members are trained.
        cells: All cells.
        labels: float [G], accuracy as a share; only training cells' are read.
        train: For each member its training cells, int64.
        seed: Seed of weights, batches and copies; members differ in their weights.
    """
    kind = NETWORKS[name]
    networks = []
    with torch.random.fork_rng(devices=[]):
        for m in range(len(train)):
            torch.manual_seed(1000 * seed + m)
            networks.append(kind.build(len(cells.operations)))
    encode, recipe = kind.encoder(cells), replace(recipe, seed=seed)
    return AccuracyEnsemble(networks, encode, kind.base_loss, recipe, cells, labels, train)


class NetworkAccuracyRegressor(AccuracyRegressor):
    """A published network.

    Args:
        operations: The benchmark's operations.
        recipe: How it is trained; as published when not given.
        seed: Seed of weights, batches and copies.
        device: ``cpu`` or ``cuda``.
    """

    name: ClassVar[str]

    def __init__(
        self,
        operations: Sequence[str],
        recipe: AccuracyTraining | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(operations, seed, device)
        self.recipe = recipe or NETWORKS[self.name].recipe
        self.network: nn.Module | None = None

    def _fit(self, cells: Sequence[OpGraph], accuracy: np.ndarray) -> None:
        arrays = CellArrays(cells, self.operations, self.device)
        everything = np.arange(len(cells))
        training = build_ensemble(
            self.name, self.recipe, arrays, accuracy / 100, [everything], self.seed
        )
        training.run()
        shares = training.predict(everything)[0]
        if np.ptp(shares) == 0:
            raise ConfigError(
                f"the {self.name} network predicts {100 * shares[0]:.2f} percent for every cell: "
                f"lower learning_rate (it is {self.recipe.learning_rate})"
            )
        self.network = training.networks[0]

    @torch.no_grad()
    def _predict(self, cells: Sequence[OpGraph]) -> np.ndarray:
        assert self.network is not None
        shares = []
        for start in range(0, len(cells), 1024):
            part = CellArrays(cells[start : start + 1024], self.operations, self.device)
            encode = NETWORKS[self.name].encoder(part)
            everything = torch.arange(len(part), device=part.device)
            shares.append(self.network(*encode(part.batch(everything))).double().cpu().numpy())
        return 100 * np.concatenate(shares)

    def _is_fitted(self) -> bool:
        return self.network is not None

    def _describe(self) -> Mapping[str, Any]:
        return {"recipe": asdict(self.recipe)}

    def _write(self, folder: Path) -> None:
        assert self.network is not None
        state = {
            name: value.cpu().contiguous() for name, value in self.network.state_dict().items()
        }
        (folder / WEIGHTS).write_bytes(save_tensors(state))

    @classmethod
    def _read(
        cls, folder: Path, description: Mapping[str, Any], operations: Sequence[str], device: str
    ) -> Self:
        recipe = replace(AccuracyTraining(1, 1), **description["recipe"])
        regressor = cls(operations, recipe, device=device)
        make = partial(NETWORKS[cls.name].build, len(operations))
        regressor.network = with_weights(make, load_file(folder / WEIGHTS)).to(device)
        return regressor


class NarFormerAccuracy(NetworkAccuracyRegressor):
    """NAR-Former: MSE, ranking and consistency, moving average of the weights."""

    name = "nar_former"


class NarFormerV2Accuracy(NetworkAccuracyRegressor):
    """NAR-Former V2 on cells: relative squared error, ranking and consistency."""

    name = "nar_former_v2_cells"


class NnFormerAccuracy(NetworkAccuracyRegressor):
    """NN-Former on cells: MSE and ranking, moving average of the weights."""

    name = "nn_former"
