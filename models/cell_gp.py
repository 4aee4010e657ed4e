"""Accuracy of cells as a Gaussian process (GP) over what the cells compute.

Cells that are the same network share one accuracy but for the noise of training, and cells that
send their input through similar operators are similar. The prior is::

    accuracy rank = f(totals, paths, steps, depths, surroundings) + g(network) + noise

``f`` has a kernel that is a sum of `Term`: each compares some blocks of features at a scale of its
own, ``x_i = block_i * exp(scale_block + scale_i)``. ``g`` is independent between networks. All
scales and variances are those under which the training labels are most likely (with a normal prior
on the scales, without which a hundred cells would not hold them), so no labels are set aside. A
prediction is the mean over several sums of kernels, `KERNELS`.

Shape legend: ``G`` cells, ``N`` training cells, ``F_b`` features of block ``b``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_SCALE = -1.2  # prior mean of a block's log scale
_SCALE_SPREAD = 2.0
_JITTER = 1e-6


@dataclass(frozen=True)
class Term:
    """One kernel (covariance function) of a sum.

    Attributes:
        blocks: Blocks of features that it compares, concatenated.
        form: Its shape, one of `FORMS`.
    """

    blocks: tuple[str, ...]
    form: str


FORMS = ("squared_exponential", "exponential", "matern32")
"""exp(-r^2 / 2), exp(-r) and (1 + sqrt(3) r) exp(-sqrt(3) r) of the distance r."""

_ALL = ("totals", "paths", "steps", "depths", "surroundings")
KERNELS: tuple[tuple[Term, ...], ...] = (
    (
        Term(("totals",), "squared_exponential"),
        Term(("paths",), "exponential"),
        Term(("depths", "steps"), "squared_exponential"),
        Term(("surroundings",), "exponential"),
    ),
    (Term(_ALL, "matern32"),),
    (
        Term(("totals",), "squared_exponential"),
        Term(("totals", "paths", "surroundings"), "matern32"),
        Term(("paths",), "exponential"),
    ),
)
"""Sums of kernels whose predictions are averaged."""


@dataclass(frozen=True, eq=False)
class CellFeatures:
    """Cells as a GP compares them.

    Attributes:
        blocks: Name -> float64 [G, F_b].
        network: int64 [G], equal for cells that are the same network.
    """

    blocks: Mapping[str, Tensor]
    network: Tensor

    def __len__(self) -> int:
        return len(self.network)

    def rows(self, chosen: slice) -> CellFeatures:
        """Some of the cells."""
        blocks = {name: block[chosen] for name, block in self.blocks.items()}
        return CellFeatures(blocks, self.network[chosen])


@dataclass(frozen=True)
class CellGPConfig:
    """How the scales and variances of a GP are fitted.

    Attributes:
        steps: Steps of Adam on the log likelihood.
        learning_rate: Learning rate of Adam.
        scale_spread: Standard deviation of a feature's log scale around its block's.
        likelihood_cells: Cells that the scales are learnt from, at most; predictions use all.
    """

    steps: int = 60
    learning_rate: float = 0.12
    scale_spread: float = 0.7
    likelihood_cells: int = 600


class CellGP(nn.Module):
    """One Gaussian process.

    Args:
        terms: Kernels that are summed.
        features: ``F_b`` of each block.
    """

    def __init__(self, terms: Sequence[Term], features: Mapping[str, int]) -> None:
        super().__init__()
        for term in terms:
            if term.form not in FORMS:
                raise ValueError(f"unknown kernel {term.form!r}; known: {', '.join(FORMS)}")
        self.terms = tuple(terms)
        double = torch.float64
        self.log_variance = nn.Parameter(torch.full((len(terms),), -0.5, dtype=double))
        self.log_network = nn.Parameter(torch.tensor(-2.5, dtype=double))
        self.log_noise = nn.Parameter(torch.tensor(-2.5, dtype=double))
        self.block_scale = nn.ParameterList(
            nn.Parameter(torch.full((len(term.blocks),), _SCALE, dtype=double)) for term in terms
        )
        self.feature_scale = nn.ParameterList(
            nn.Parameter(torch.zeros(sum(features[name] for name in term.blocks), dtype=double))
            for term in terms
        )
        self.register_buffer("weights", torch.zeros(0, dtype=double))
        self.weights: Tensor
        self._sizes = [[features[name] for name in term.blocks] for term in terms]
        self._known: CellFeatures | None = None

    def kernel(self, a: CellFeatures, b: CellFeatures) -> Tensor:
        """Prior covariance of two sets of cells without the noise, [A, B]."""
        total = self.log_network.exp() * (a.network[:, None] == b.network[None])
        for index, term in enumerate(self.terms):
            squared = _squared_distance(self._scaled(index, a), self._scaled(index, b))
            total = total + self.log_variance[index].exp() * _shape(squared, term.form)
        return total

    def _scaled(self, index: int, cells: CellFeatures) -> Tensor:
        """Features of one term at their scales, [G, sum F_b]."""
        side = torch.cat([cells.blocks[name] for name in self.terms[index].blocks], dim=1)
        sizes = torch.tensor(self._sizes[index], device=side.device)
        scale = self.block_scale[index].repeat_interleave(sizes) + self.feature_scale[index]
        features: Tensor = side * scale.exp()
        return features

    def negative_log_likelihood(self, cells: CellFeatures, target: Tensor, spread: float) -> Tensor:
        """Negative log likelihood of ``target [N]`` and the scales, up to a constant."""
        lower = torch.linalg.cholesky(self._noisy(cells))
        white = torch.linalg.solve_triangular(lower, target[:, None], upper=False)
        loss: Tensor = 0.5 * white.square().sum() + lower.diagonal().log().sum()
        for block, feature in zip(self.block_scale, self.feature_scale, strict=True):
            loss = loss + feature.square().sum() / (2 * spread**2)
            loss = loss + (block - _SCALE).square().sum() / (2 * _SCALE_SPREAD**2)
        return loss

    def _noisy(self, cells: CellFeatures) -> Tensor:
        noise = (self.log_noise.exp() + _JITTER) * torch.eye(
            len(cells), dtype=torch.float64, device=cells.network.device
        )
        return self.kernel(cells, cells) + noise

    def fit(self, cells: CellFeatures, target: Tensor, config: CellGPConfig) -> CellGP:
        """Fits scales and variances, then conditions on all cells.

        Args:
            cells: Training cells in random order, ``N``.
            target: float64 [N], about zero mean and unit variance.
            config: How scales and variances are fitted.
        """
        part = slice(0, config.likelihood_cells)
        some, some_target = cells.rows(part), target[part]
        optimizer = torch.optim.Adam(self.parameters(), lr=config.learning_rate)
        for _ in range(config.steps):
            optimizer.zero_grad(set_to_none=True)
            self.negative_log_likelihood(some, some_target, config.scale_spread).backward()
            optimizer.step()
        return self.condition(cells, target)

    @torch.no_grad()
    def condition(self, cells: CellFeatures, target: Tensor) -> CellGP:
        """Conditions the GP on ``target [N]`` of ``cells``."""
        lower = torch.linalg.cholesky(self._noisy(cells))
        self.weights = torch.cholesky_solve(target[:, None], lower)[:, 0]
        self._known = cells
        return self

    def recall(self, cells: CellFeatures) -> None:
        """Gives a GP whose state was loaded the cells that it was conditioned on."""
        self._known = cells

    @torch.no_grad()
    def forward(self, cells: CellFeatures) -> Tensor:
        """Posterior mean of cells, float64 [G]."""
        if self._known is None:
            raise ValueError("this Gaussian process knows no cells yet: call fit or condition")
        return self.kernel(cells, self._known) @ self.weights


def _squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Squared distance between rows ``[A, F]`` and ``[B, F]``, [A, B]."""
    inner = a @ b.T
    norms = a.square().sum(1)[:, None] + b.square().sum(1)[None]
    return (norms - 2.0 * inner).clamp(min=0.0)


def _shape(squared: Tensor, form: str) -> Tensor:
    """A kernel's value at squared distances."""
    if form == "squared_exponential":
        return torch.exp(-0.5 * squared)
    if form == "exponential":
        return torch.exp(-torch.sqrt(squared + 1e-8))
    distance = math.sqrt(3.0) * torch.sqrt(squared + 1e-8)
    return (1.0 + distance) * torch.exp(-distance)
