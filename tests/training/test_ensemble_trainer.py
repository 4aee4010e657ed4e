"""Members of an ensemble that are trained together equal separate trainings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.graphs import labelled_graphs
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.models.roofline_former import RooflineFormer, RooflineFormerConfig
from tvm_costmodel.predictors.roofline_former import new_networks
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer
from tvm_costmodel.tokenizer.vocabulary import VOCABULARY
from tvm_costmodel.training.early_stopping import variant_errors
from tvm_costmodel.training.ensemble_trainer import (
    EnsembleConfig,
    EnsembleTrainer,
    _kernel_error,
    roofline_level,
)
from tvm_costmodel.training.kernel_labels import KernelTargets
from tvm_costmodel.training.ragged_dataset import GraphSet

GRAPHS, LATENCY = labelled_graphs(40)
TOKENS = [PhysicalTokenizer().encode(graph) for graph in GRAPHS]
MS = LATENCY[:, None] * 1e3
LEARNS = np.arange(40) < 32
CONV2D = VOCABULARY.index("conv2d")


def networks(count: int = 1, **changes: Any) -> list[RooflineFormer]:
    sizes = {"channels": 16, "context_channels": 8, "heads": 2, "layers": 1, **changes}
    return new_networks(RooflineFormerConfig(**sizes), count, seed=0)


def trainer(
    members: list[RooflineFormer],
    latency_ms: np.ndarray = MS,
    train: np.ndarray | None = None,
    held: np.ndarray | None = None,
    state: Path | None = None,
    targets: list[KernelTargets] | None = None,
    **recipe: Any,
) -> EnsembleTrainer:
    train = np.tile(LEARNS, (len(members), 1)) if train is None else train
    held = ~train if held is None else held
    config = EnsembleConfig(**{"epochs": 3, "batch_size": 8, **recipe})
    graphs = GraphSet(TOKENS, targets=targets)
    return EnsembleTrainer(
        members, config, graphs, latency_ms, train, held, state, state is not None
    )


ALL = np.arange(40)


def test_members_trained_together_end_as_each_alone() -> None:
    together = trainer(networks(2))
    progress = together.run()
    answers = together.predict(ALL)
    assert not np.allclose(answers[0], answers[1], rtol=1e-3)
    for m in range(2):
        alone = trainer([networks(2)[m]])
        own = alone.run()
        np.testing.assert_allclose(alone.predict(ALL)[0], answers[m], rtol=2e-3)
        np.testing.assert_allclose(own.best_error[0], progress.best_error[m], rtol=1e-2)
        assert own.best_epoch[0] == progress.best_epoch[m]


def test_the_networks_hold_the_best_epochs_weights() -> None:
    members = networks(2)
    fitted = trainer(members)
    progress = fitted.run()
    best = np.min([errors for _, errors in progress.history], axis=0)
    np.testing.assert_array_equal(progress.best_error, best)
    with torch.no_grad():
        for m, network in enumerate(members):
            batch = GraphSet(TOKENS).batch(ALL)
            np.testing.assert_allclose(network(batch)[0], fitted.predict(ALL)[m], rtol=1e-4)
            error = np.abs(network(batch)[0].numpy()[32:] / MS[32:] - 1).mean() * 100
            assert error == pytest.approx(best[m], rel=1e-3)


def test_training_learns_an_additive_law() -> None:
    fitted = trainer(networks(), epochs=12, learning_rate=5e-3)
    before = np.abs(fitted.predict(ALL)[0] / MS - 1)[32:].mean()
    progress = fitted.run()
    after = np.abs(fitted.predict(ALL)[0] / MS - 1)[32:].mean()
    assert after < 0.5 * before and after < 0.1
    assert progress.history[-1][0] < progress.history[0][0]


def test_unmeasured_labels_are_left_out() -> None:
    both = np.concatenate([MS, 2 * MS], axis=1)
    both[5:20, 1] = np.nan
    both[35, 0] = np.nan
    fitted = trainer(networks(devices=2), both, epochs=8, learning_rate=5e-3, ranking=0.1)
    progress = fitted.run()
    answers = fitted.predict(ALL)[0]
    assert np.isfinite(answers).all() and np.isfinite(progress.best_error).all()
    unseen = np.abs(answers[5:20, 1] / (2 * MS[5:20, 0]) - 1)
    assert unseen.mean() < 0.2  # learned from the other networks of the second device


def test_a_member_learns_nothing_from_what_its_mask_hides() -> None:
    hidden = np.arange(40) % 4 == 0
    train = np.array([LEARNS & ~hidden, LEARNS])
    held = np.array([~LEARNS & ~hidden, ~LEARNS])
    targets = [
        KernelTargets(np.where(graph.slot == CONV2D, 0, -1), label * 0.5)
        for graph, label in zip(TOKENS, MS, strict=True)
    ]
    changed, kernels = MS.copy(), list(targets)
    changed[hidden] *= 10
    for i in np.flatnonzero(hidden):
        kernels[i] = KernelTargets(targets[i].group, targets[i].target_ms * 10)
    answers = []
    for labels, times in ((MS, targets), (changed, kernels)):
        fitted = trainer(
            networks(2), labels, train, held, targets=times, kernels=0.5, ranking=0.2, prior=0.1
        )
        fitted.run()
        answers.append(fitted.predict(ALL))
    np.testing.assert_allclose(answers[0][0], answers[1][0], rtol=1e-5)
    assert not np.allclose(answers[0][1], answers[1][1], rtol=1e-2)


def test_the_error_of_kernels_by_hand() -> None:
    """Two graphs of 10 and 8 ms; groups {0, 1} and {2} of the first, {3} of the second."""
    parts = torch.tensor([[1.0, 3.0, 2.0, 4.0, 9.0], [2.0, 2.0, 4.0, 8.0, 9.0]])
    kernels = (
        torch.tensor([0, 0, 1, 2, 3]),
        torch.tensor([2.0, 4.0, 4.0]),
        torch.tensor([0, 0, 1]),
    )
    latency = torch.log(torch.tensor([10.0, 8.0]))
    counted = torch.tensor([[True, True], [True, False]])
    # the first member is out by log 2 in shares 0.2 and 0.4 of graph 0 and right in graph 1; the
    # second by log 2 in share 0.2 of graph 0, the only one that it may learn from
    expected = math.log(2) * torch.tensor([(0.2 + 0.4 + 0.0) / 2, 0.2])
    torch.testing.assert_close(_kernel_error(parts, kernels, latency, counted), expected)


def test_times_of_kernels_change_what_is_learned() -> None:
    convolutions = [
        KernelTargets(np.where(graph.slot == CONV2D, 0, -1), label * 0.5)
        for graph, label in zip(TOKENS, MS, strict=True)
    ]
    answers = []
    for weight in (0.0, 0.0, 0.5):
        fitted = trainer(networks(), targets=convolutions, kernels=weight)
        fitted.run()
        answers.append(fitted.predict(ALL))
    np.testing.assert_array_equal(answers[0], answers[1])
    assert not np.allclose(answers[0], answers[2], rtol=1e-3)


def test_groups_of_a_batch_follow_one_another() -> None:
    first, second = (len(graph) for graph in TOKENS[:2])
    targets = [
        KernelTargets(np.array([1, 0, *[-1] * (first - 2)]), np.array([5.0, 6.0])),
        KernelTargets(np.array([0, *[-1] * (second - 1)]), np.array([7.0])),
    ]
    batch_kernels = GraphSet(TOKENS[:2], targets=targets).kernels(np.array([1, 0]))
    assert batch_kernels is not None
    group, target_ms, owner = batch_kernels
    assert group.tolist() == [0, *[3] * (second - 1), 2, 1, *[3] * (first - 2)]
    assert target_ms.tolist() == [7.0, 5.0, 6.0] and owner.tolist() == [0, 1, 1]
    assert GraphSet(TOKENS).kernels(ALL) is None


def test_a_batch_holds_its_graphs_one_after_the_other() -> None:
    batch = GraphSet(TOKENS).batch(np.array([7, 3]))
    first, second = TOKENS[7], TOKENS[3]
    rows = len(first) + len(second)
    np.testing.assert_array_equal(batch.numbers, np.concatenate([first.numbers, second.numbers]))
    assert batch.graph.tolist() == [0] * len(first) + [1] * len(second) and batch.graphs == 2
    assert batch.source[:rows].tolist() == batch.target[:rows].tolist() == list(range(rows))
    edges = np.concatenate([first.edges, second.edges + len(first)])
    np.testing.assert_array_equal(batch.source[rows:], edges[:, 0])
    np.testing.assert_array_equal(batch.target[rows:], edges[:, 1])


@pytest.mark.parametrize("recipe", [{}, {"ranking": 0.2, "dropout": 0.1}])
def test_a_resumed_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, float]
) -> None:
    shape = {"dropout": recipe.pop("dropout", 0.0)}
    whole = networks(2, **shape)
    trainer(whole, **recipe).run()
    with monkeypatch.context() as patched:
        validate = EnsembleTrainer._validate

        def interrupted(self: EnsembleTrainer, epoch: int, loss: float) -> None:
            if epoch == 3:
                raise KeyboardInterrupt
            validate(self, epoch, loss)

        patched.setattr(EnsembleTrainer, "_validate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainer(networks(2, **shape), state=tmp_path, **recipe).run()
    torch.manual_seed(99)  # nothing may depend on what else draws numbers
    resumed = networks(2, **shape)
    second = trainer(resumed, state=tmp_path, **recipe)
    assert len(second.progress.history) == 2
    assert len(second.run().history) == 3
    for one, other in zip(whole, resumed, strict=True):
        for name, value in one.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], value, rtol=0, atol=0, msg=name)


def test_a_foreign_or_damaged_state_is_refused(tmp_path: Path) -> None:
    trainer(networks(), state=tmp_path, epochs=1).run()
    (state,) = tmp_path.iterdir()
    for changes in ({"seed": 1}, {"epochs": 2}, {"latency_ms": MS * 2}):
        with pytest.raises(CheckpointError, match="other labels or settings"):
            trainer(networks(), state=tmp_path, **{"epochs": 1, **changes})
    with pytest.raises(CheckpointError, match="other labels or settings"):
        trainer(networks(channels=32), state=tmp_path, epochs=1)
    kernels = [KernelTargets(np.zeros(len(graph), int), np.ones(1)) for graph in TOKENS]
    with pytest.raises(CheckpointError, match="other labels or settings"):
        trainer(networks(), state=tmp_path, epochs=1, targets=kernels)
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="no training state"):
        trainer(networks(), state=tmp_path, epochs=1)


def test_patience_ends_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = trainer(networks(), epochs=9, patience=2)
    monkeypatch.setattr(stuck, "predict", lambda at: np.full((1, len(at), 1), 1.0))
    assert len(stuck.run().history) == 3  # the first is the best, two more do not better it


def test_roofline_level_recovers_a_law() -> None:
    generator = np.random.default_rng(0)
    work = generator.lognormal(size=(60, 3))
    law = np.array([0.5, -1.0, -3.0])
    np.testing.assert_allclose(roofline_level(work, work @ np.exp(law)), law, atol=1e-6)
    bytes_alone = roofline_level(work, 2.0 * work[:, 1])
    assert bytes_alone[1] == pytest.approx(np.log(2.0), abs=1e-3)
    assert np.isfinite(bytes_alone).all() and bytes_alone[0] < -3 and bytes_alone[2] < -3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs 0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0"),
        ({"warmup": 1.0}, "warmup 1.0"),
    ],
)
def test_recipes_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EnsembleConfig(**changes)


def test_a_member_without_labels_is_refused() -> None:
    nothing = np.zeros((1, 40), bool)
    with pytest.raises(ConfigError, match="member 0 has no label to learn device 0 from"):
        trainer(networks(), train=nothing)
    with pytest.raises(ConfigError, match="member 0 has no label to choose its epoch by"):
        trainer(networks(), held=nothing)
    with pytest.raises(ConfigError, match="learn device 1 from"):
        trainer(networks(devices=2), np.concatenate([MS, MS * np.nan], axis=1))


def test_epochs_are_chosen_by_how_variants_differ_too() -> None:
    variants = np.arange(40) // 2
    held = np.flatnonzero(~LEARNS)
    errors = []
    for within in (0.0, 1.0):
        untrained = trainer(networks(), within=within)
        untrained.variants = variants
        untrained._validate(1, 0.0)  # of the same untrained weights
        errors.append(untrained.progress.history[0][1][0])
    counted = np.ones((1, len(held)), bool)
    between = variant_errors(untrained.predict(held), MS[held], counted, variants[held])
    assert errors[1] - errors[0] == pytest.approx(between[0]) and between[0] > 1
