"""Networks trained together on one set of tokens are separate trainings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.nn_meter.padded_ensemble import PaddedEnsemble, TokenSet, is_directed
from tests.graphs import labelled_graphs
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.models.nn_former_networks import NnFormerNetworks, NnFormerNetworksConfig
from tvm_costmodel.tokenizer import Tokenizer, collate
from tvm_costmodel.training.trainer import TrainingConfig

GRAPHS, LATENCY = labelled_graphs(24)
TOKENS = [Tokenizer().encode(graph) for graph in GRAPHS]
LABELS = np.stack([LATENCY * 1e3, LATENCY * 2e3], axis=1)
LEARNS = np.arange(24) < 18
ALL = np.arange(24)


def networks(count: int = 2, platforms: int = 2) -> list[nn.Module]:
    torch.manual_seed(0)
    config = NarFormerV2Config(channels=32, groups=4, dropout=0.0, platforms=platforms)
    return [NarFormerV2(config) for _ in range(count)]


def trainer(
    made: list[nn.Module], labels: np.ndarray = LABELS, parts: int = 2, **recipe: object
) -> PaddedEnsemble:
    config = TrainingConfig(**{"epochs": 3, "batch_size": 8, **recipe})
    learns = np.tile(LEARNS, (len(made), 1))
    graphs = TokenSet(TOKENS, directed=is_directed(made[0]))
    every = np.tile(labels, (len(made), 1, 1))
    return PaddedEnsemble(made, config, graphs, every, learns, ~learns, parts)


@pytest.mark.parametrize("directed", [False, True])
def test_a_gathered_batch_equals_a_collated_one(directed: bool) -> None:
    chosen = np.array([5, 0, 17])
    found = TokenSet(TOKENS, directed=directed).batch(chosen)
    expected = collate([TOKENS[i] for i in chosen], directed=directed)
    wanted = (expected.features, expected.adjacency, expected.mask, expected.static)
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs)


def test_members_trained_together_end_as_each_alone() -> None:
    together = trainer(networks())
    progress = together.run()
    answers = together.predict(ALL)
    assert answers.shape == (2, 24, 2) and not np.allclose(answers[0], answers[1], rtol=1e-3)
    for m in range(2):
        alone = trainer([networks()[m]])
        assert alone.run().best_epoch[0] == progress.best_epoch[m]
        np.testing.assert_allclose(alone.predict(ALL)[0], answers[m], rtol=2e-3)


def test_parts_of_similar_length_only_change_the_padding() -> None:
    whole, split = trainer(networks(1), parts=1), trainer(networks(1), parts=4)
    whole.run()
    split.run()
    np.testing.assert_allclose(whole.predict(ALL), split.predict(ALL), rtol=2e-3)


def test_the_networks_hold_the_best_epochs_weights() -> None:
    made = networks(1)
    done = trainer(made, epochs=4)
    progress = done.run()
    errors = [row[1][0] for row in progress.history]
    assert progress.best_epoch[0] == 1 + int(np.argmin(errors))
    with torch.no_grad():
        answers = made[0](*TokenSet(TOKENS).batch(ALL)).double().numpy()
    np.testing.assert_allclose(answers, done.predict(ALL)[0], rtol=1e-4)
    held = ~LEARNS
    error = np.abs(answers[held] / LABELS[held] - 1.0).mean() * 100
    assert error == pytest.approx(min(errors), rel=1e-3)


def test_what_is_not_measured_or_not_its_own_teaches_nothing() -> None:
    strange = LABELS.copy()
    strange[~LEARNS] *= 50  # only chooses the epoch
    strange[3, 1] = math.nan
    plain = LABELS.copy()
    plain[3, 1] = math.nan
    one, other = trainer(networks(1), plain, epochs=1), trainer(networks(1), strange, epochs=1)
    one.run()
    other.run()
    np.testing.assert_array_equal(one.predict(ALL), other.predict(ALL))


def test_a_directed_network_learns_eight_networks_by_heart() -> None:
    torch.manual_seed(0)
    made = [NnFormerNetworks(NnFormerNetworksConfig(channels=32, dropout=0.0))]
    eight = np.arange(24)[None] < 8
    config = TrainingConfig(epochs=150, batch_size=8)
    labels = LABELS[None, :, :1]
    done = PaddedEnsemble(made, config, TokenSet(TOKENS, directed=True), labels, eight, eight)
    assert done.run().best_error[0] < 3.0


def test_a_member_without_labels_is_refused() -> None:
    labels = LABELS.copy()
    labels[~LEARNS] = math.nan
    with pytest.raises(ConfigError, match="member 0 has no label"):
        trainer(networks(1), labels)
