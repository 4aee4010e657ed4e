from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.cells import random_cells
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.nn_former_cells import NnFormerCells, NnFormerCellsConfig
from tvm_costmodel.nas.accuracy_networks import NETWORKS, build_ensemble
from tvm_costmodel.nas.accuracy_trainer import AccuracyEnsemble, AccuracyTraining
from tvm_costmodel.nas.cell_batch import CellArrays
from tvm_costmodel.nas.cell_tokens import NASBENCH101

CELLS = CellArrays(random_cells(24, seed=6), NASBENCH101)
LABELS = np.linspace(0.2, 0.9, 24)
TRAIN = [np.arange(0, 16), np.arange(6, 20)]
RECIPE = AccuracyTraining(epochs=1, batch_size=8, steps=40, learning_rate=3e-3, ema=0.9)


def small(recipe: AccuracyTraining = RECIPE, train: list[np.ndarray] = TRAIN) -> AccuracyEnsemble:
    config = NnFormerCellsConfig(len(NASBENCH101), channels=16, blocks=2, dropout=0.0)
    torch.manual_seed(0)
    networks = [NnFormerCells(config) for _ in train]
    kind = NETWORKS["nn_former"]
    return AccuracyEnsemble(
        networks, kind.encoder(CELLS), kind.base_loss, recipe, CELLS, LABELS, train
    )


def trained() -> np.ndarray:
    training = small()
    training.run()
    return training.predict(np.arange(24))


def test_the_callers_random_numbers_stay_as_they_are() -> None:
    before = torch.get_rng_state()
    build_ensemble("nn_former", replace(RECIPE, steps=2), CELLS, LABELS, TRAIN).run()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_members_together_answer_as_each_alone(name: str) -> None:
    recipe = replace(NETWORKS[name].recipe, steps=1, batch_size=4)
    training = build_ensemble(name, recipe, CELLS, LABELS, TRAIN)
    training.stack.skeleton.eval()
    chosen = torch.tensor([[0, 5, 9], [1, 2, 3]])
    inputs = training.encode(CELLS.batch(chosen))
    with torch.no_grad():
        together = training.stack.forward(inputs, shared=False)
        alone = training.stack.forward(inputs, shared=False, together=False)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert together.shape == (2, 3) and together.std() > 0


def test_members_learn_their_own_cells() -> None:
    training = small(replace(RECIPE, steps=200, ranking=0.0, consistency=0.0))
    training.run()
    for predicted, chosen in zip(training.predict(np.arange(24)), TRAIN, strict=True):
        error = np.abs(predicted - LABELS)[chosen].mean()
        assert error < 0.5 * np.abs(LABELS[chosen] - LABELS[chosen].mean()).mean()


def test_labels_of_other_cells_are_not_read() -> None:
    global LABELS
    labels = LABELS
    first = trained()
    try:
        LABELS = np.where(np.arange(24) < 20, LABELS, np.nan)
        second = trained()
    finally:
        LABELS = labels
    np.testing.assert_array_equal(first, second)


def test_steps_are_those_of_the_epochs_unless_cut() -> None:
    assert AccuracyTraining(epochs=10, batch_size=8).total_steps(20) == 30
    assert AccuracyTraining(epochs=10, batch_size=8, steps=7).total_steps(20) == 7


def test_impossible_recipes_are_refused() -> None:
    with pytest.raises(ConfigError, match="epochs 0"):
        AccuracyTraining(epochs=0, batch_size=8)
    with pytest.raises(ConfigError, match=r"ema 1.0"):
        AccuracyTraining(epochs=1, batch_size=8, ema=1.0)
