from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tvm_costmodel.models.cell_gp import (
    FORMS,
    KERNELS,
    CellFeatures,
    CellGP,
    CellGPConfig,
    Term,
)
from tvm_costmodel.training.metrics import kendall_tau

BLOCKS = {"totals": 3, "paths": 4, "steps": 2, "depths": 2, "surroundings": 5}


def cells(count: int, seed: int) -> CellFeatures:
    generator = torch.Generator().manual_seed(seed)
    blocks = {
        name: torch.rand(count, size, generator=generator, dtype=torch.float64)
        for name, size in BLOCKS.items()
    }
    return CellFeatures(blocks, torch.arange(count) + 1000 * seed)


def accuracy(of: CellFeatures) -> torch.Tensor:
    rank = 2.0 * of.blocks["totals"][:, 0] + of.blocks["paths"][:, 1] ** 2
    return (rank - 1.3) / 0.65


def naive_kernel(gp: CellGP, a: CellFeatures, b: CellFeatures) -> np.ndarray:
    covariance = np.zeros((len(a), len(b)))
    for i in range(len(a)):
        for j in range(len(b)):
            if a.network[i] == b.network[j]:
                covariance[i, j] += math.exp(gp.log_network)
            for at, term in enumerate(gp.terms):
                squared, place = 0.0, 0
                for block, name in enumerate(term.blocks):
                    for x, y in zip(a.blocks[name][i], b.blocks[name][j], strict=True):
                        scale = gp.block_scale[at][block] + gp.feature_scale[at][place]
                        squared += (math.exp(scale) * float(x - y)) ** 2
                        place += 1
                r = math.sqrt(squared)
                shape = {
                    "squared_exponential": math.exp(-(r**2) / 2),
                    "exponential": math.exp(-r),
                    "matern32": (1 + math.sqrt(3) * r) * math.exp(-math.sqrt(3) * r),
                }[term.form]
                covariance[i, j] += math.exp(gp.log_variance[at]) * shape
    return covariance


@pytest.mark.parametrize("form", FORMS)
def test_predictions_are_the_posterior_mean_of_the_formulas(form: str) -> None:
    gp = CellGP([Term(("totals", "paths"), form), Term(("steps",), "matern32")], BLOCKS)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in gp.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    gp.requires_grad_(False)
    known, queries = cells(9, 1), cells(4, 2)
    queries.network[1] = known.network[3]
    target = accuracy(known)
    predicted = gp.condition(known, target)(queries)
    noise = math.exp(gp.log_noise) + 1e-6
    covariance = naive_kernel(gp, known, known) + noise * np.eye(9)
    expected = naive_kernel(gp, queries, known) @ np.linalg.solve(covariance, target.numpy())
    np.testing.assert_allclose(predicted.numpy(), expected, rtol=2e-3)


def test_forty_cells_order_a_hundred_others() -> None:
    known, others = cells(40, 3), cells(100, 4)
    for terms in KERNELS:
        gp = CellGP(terms, BLOCKS).fit(known, accuracy(known), CellGPConfig())
        assert kendall_tau(gp(others).numpy(), accuracy(others).numpy()) > 0.75


def test_fitting_makes_the_labels_more_likely_and_is_repeatable() -> None:
    known, others = cells(30, 5), cells(10, 6)
    target, config = accuracy(known), CellGPConfig(steps=20)
    gp = CellGP(KERNELS[0], BLOCKS)
    before = float(gp.negative_log_likelihood(known, target, config.scale_spread).detach())
    first = gp.fit(known, target, config)(others)
    assert gp.negative_log_likelihood(known, target, config.scale_spread) < before - 5
    again = CellGP(KERNELS[0], BLOCKS).fit(known, target, config)(others)
    torch.testing.assert_close(again, first, rtol=0, atol=0)


def test_scales_are_learnt_from_a_part_and_predictions_from_all() -> None:
    known = cells(60, 7)
    config = CellGPConfig(steps=5, likelihood_cells=20)
    whole = CellGP(KERNELS[1], BLOCKS).fit(known, accuracy(known), config)
    part = known.rows(slice(0, 20))
    alone = CellGP(KERNELS[1], BLOCKS).fit(part, accuracy(part), config)
    torch.testing.assert_close(whole.block_scale[0], alone.block_scale[0])
    assert len(whole.weights) == 60 and len(alone.weights) == 20


def test_a_process_that_knows_nothing_says_so() -> None:
    with pytest.raises(ValueError, match="knows no cells"):
        CellGP(KERNELS[0], BLOCKS)(cells(2, 8))
    with pytest.raises(ValueError, match="unknown kernel 'cosine'"):
        CellGP([Term(("totals",), "cosine")], BLOCKS)
