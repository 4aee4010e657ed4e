from __future__ import annotations

import math

import pytest
import torch

from tvm_costmodel.training.losses import (
    architecture_consistency,
    log_squared,
    pairwise_ranking,
    relative_squared,
    sequence_ranking,
    with_ranking_and_consistency,
    within_networks,
)

PREDICTED = torch.tensor([1.0, 4.0, 2.0])
MEASURED = torch.tensor([2.0, 4.0, 8.0])
ORDER = torch.tensor([1, 2, 0])  # pairs (0, 1), (1, 2), (2, 0)
COPY = torch.tensor([1.5, 4.0, 1.0])


def test_relative_and_log_squared() -> None:
    # (1/2 - 1)^2, (4/4 - 1)^2, (2/8 - 1)^2
    assert relative_squared(PREDICTED, MEASURED).item() == pytest.approx((0.25 + 0 + 0.5625) / 3)
    expected = (math.log(0.5) ** 2 + math.log(0.25) ** 2) / 3
    assert log_squared(PREDICTED, MEASURED).item() == pytest.approx(expected)


def test_ranking_compares_differences() -> None:
    # predicted gaps -3, 2, 1; measured gaps -2, -4, 6
    assert sequence_ranking(PREDICTED, MEASURED, ORDER).item() == pytest.approx((1 + 6 + 5) / 3)


def test_ranking_forgives_a_shift_and_nothing_else() -> None:
    assert sequence_ranking(MEASURED + 7.0, MEASURED, ORDER).item() == pytest.approx(0.0, abs=1e-6)
    assert sequence_ranking(MEASURED, MEASURED, torch.arange(3)).item() == 0.0
    assert sequence_ranking(-MEASURED, MEASURED, ORDER).item() == pytest.approx((4 + 8 + 12) / 3)


def test_consistency_is_the_mean_distance_to_the_copies() -> None:
    assert architecture_consistency(PREDICTED, COPY).item() == pytest.approx((0.5 + 0 + 1) / 3)


def test_the_published_sum() -> None:
    base = torch.mean((PREDICTED - MEASURED) ** 2)  # (1 + 0 + 36) / 3
    assert with_ranking_and_consistency(base, PREDICTED, MEASURED, ORDER).item() == pytest.approx(
        37 / 3 + 0.1 * 4
    )
    full = with_ranking_and_consistency(base, PREDICTED, MEASURED, ORDER, COPY)
    assert full.item() == pytest.approx(37 / 3 + 0.1 * 4 + 0.5 * 0.5)


def test_gradients_reach_both_members_of_a_pair() -> None:
    predicted = PREDICTED.clone().requires_grad_()
    sequence_ranking(predicted, MEASURED, ORDER).backward()
    # signs of the three errors (-1, +6, -5), each +1/3 at i and -1/3 at order[i]
    torch.testing.assert_close(predicted.grad, torch.tensor([0.0, 2.0, -2.0]) / 3)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_pairwise_ranking_by_hand() -> None:
    predicted = torch.tensor([[0.0], [0.1], [0.4]])
    measured = torch.tensor([[1.0], [2.0], [1.5]])
    counted = torch.ones(3, 1, dtype=torch.bool)
    # pairs (0, 1) right by 0.1, (1, 2) wrong by 0.3, (2, 0) right by 0.4
    expected = 0.1 * sum(softplus(gap / 0.1) for gap in (-0.1, 0.3, -0.4)) / 3
    loss = pairwise_ranking(predicted, measured, counted, ORDER, scale=0.1)
    assert loss.item() == pytest.approx(expected)


def test_pairwise_ranking_counts_pairs_whose_labels_both_count_and_differ() -> None:
    predicted = torch.tensor([[0.0, 5.0], [0.1, 0.0], [0.4, 9.0]])
    measured = torch.tensor([[1.0, 3.0], [2.0, 3.0], [1.5, 7.0]])
    counted = torch.tensor([[True, True], [True, True], [False, False]])
    # on the first device only (0, 1) is left; on the second its latencies are equal
    loss = pairwise_ranking(predicted, measured, counted, ORDER, scale=0.1)
    assert loss.item() == pytest.approx(0.1 * softplus(-1.0))
    assert pairwise_ranking(predicted, measured, counted & False, ORDER).item() == 0.0


def test_pairwise_ranking_gives_every_member_its_own() -> None:
    predicted = torch.randn(2, 5, 3)
    measured = torch.randn(5, 3).expand_as(predicted)
    counted = torch.rand(2, 5, 3) > 0.3
    order = torch.tensor([3, 0, 4, 2, 1])
    both = pairwise_ranking(predicted, measured, counted, order)
    for m in range(2):
        alone = pairwise_ranking(predicted[m], measured[m], counted[m], order)
        torch.testing.assert_close(both[m], alone)


def test_within_networks_forgives_what_moves_all_variants_of_a_network() -> None:
    measured = torch.tensor([[0.0, 0.1, 0.2, 1.0, 1.5]])[..., None]  # [1, 5, 1]
    network = torch.tensor([0, 0, 0, 1, 1])
    weight = torch.ones_like(measured, dtype=torch.bool)
    shifted = measured + torch.tensor([5.0, 5.0, 5.0, -1.0, -1.0])[None, :, None]
    zero = within_networks(shifted, measured, weight, network, 2)
    assert zero.tolist() == pytest.approx([0.0], abs=1e-6)
    # errors 0.3, 0, 0 around their mean 0.1; 0.2, 0 around 0.1
    wrong = measured + torch.tensor([0.3, 0.0, 0.0, 0.2, 0.0])[None, :, None]
    expected = (0.2 + 0.1 + 0.1 + 0.1 + 0.1) / 5
    assert within_networks(wrong, measured, weight, network, 2).item() == pytest.approx(expected)


def test_within_networks_leaves_out_lone_variants_and_those_without_a_label() -> None:
    measured = torch.zeros(1, 3, 1)
    predicted = torch.tensor([1.0, 3.0, 9.0])[None, :, None]
    weight = torch.tensor([True, True, False])[None, :, None]
    alone = within_networks(predicted, measured, weight, torch.tensor([0, 1, 1]), 2)
    assert alone.item() == 0.0
    both = within_networks(predicted, measured, weight, torch.tensor([0, 0, 0]), 1)
    assert both.item() == pytest.approx(1.0)  # 1 and 3 around 2
