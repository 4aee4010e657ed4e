"""A small Transformer that predicts the time of each statement of a lowered loop nest.

    statement features [S, 164] -> linear -> + attention -> + feed-forward -> correction
                                                                                  |
    log seconds of a statement = log of its roofline estimate + bounded correction
    log seconds of a candidate = log of the sum over its statements

A candidate takes as long as its statements together, no statement takes negative time, and none
differs from the time of its operations and bytes by more than a bounded factor. The network learns
that factor from tiling, vectors, unrolling and reuse, in the context of the other statements.

Shape legend: ``M`` ensemble members, ``B`` candidates, ``S`` statements of the longest, ``F``
features of a statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tvm_costmodel.schedules.numpy_layers import (
    Array,
    Back,
    Weights,
    attend,
    linear,
    normalise,
    rectify,
)

HEADS = 4
_BOUND = np.float32(6.0)
"""Largest correction of a statement's roofline estimate, as a natural logarithm."""


@dataclass(frozen=True)
class Batch:
    """Candidates, padded to the longest.

    Attributes:
        features: [B, S, F], standardised.
        prior: [B, S], log of the roofline estimate in seconds.
        present: [B, S], False where padded.
    """

    features: Array
    prior: Array
    present: NDArray[np.bool_]

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """Some of the candidates."""
        return Batch(self.features[rows], self.prior[rows], self.present[rows])

    def __len__(self) -> int:
        return len(self.features)


def pad(features: Sequence[Array], priors: Sequence[Array]) -> Batch:
    """Puts candidates with different numbers of statements into one batch.

    Args:
        features: One [S_i, F] for each candidate.
        priors: One [S_i] for each.
    """
    longest = max(len(prior) for prior in priors)
    shape = (len(priors), longest)
    batch = Batch(
        np.zeros((*shape, features[0].shape[1]), np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, bool),
    )
    for row, (one, prior) in enumerate(zip(features, priors, strict=True)):
        batch.features[row, : len(prior)] = one
        batch.prior[row, : len(prior)] = prior
        batch.present[row, : len(prior)] = True
    return batch


def initial_weights(features: int, width: int, members: int, seed: int) -> Weights:
    """Random weights (He et al., arXiv:1502.01852); corrections start near zero."""
    rng = np.random.default_rng(seed)

    def layer(name: str, inputs: int, outputs: int, gain: float) -> Weights:
        weight = rng.standard_normal((members, inputs, outputs)) * gain / np.sqrt(inputs)
        bias = np.zeros((members, 1, outputs), np.float32)
        return {f"{name}.weight": weight.astype(np.float32), f"{name}.bias": bias}

    return {
        **layer("embed", features, width, 1.0),
        **layer("mix", width, 3 * width, 1.0),
        **layer("merge", width, width, 0.5),
        **layer("widen", width, 2 * width, 1.4),
        **layer("narrow", 2 * width, width, 0.5),
        **layer("price", width, 1, 0.01),  # the name of this layer in stored models
    }


def forward(weights: Weights, batch: Batch, gradients: Weights) -> tuple[Array, Array, Back]:
    """Predicts the time of candidates with every ensemble member.

    Args:
        weights: As `initial_weights` makes them.
        batch: The candidates.
        gradients: Filled when the returned function is called.

    Returns:
        Log seconds of candidates [M, B], of statements [M, B, S] (minus infinity where padded), and
        the function from the gradient of the first to ``gradients``.
    """
    embedded, back_embed = linear(weights, gradients, "embed", batch.features[None])
    level_in, back_level_in = normalise(embedded)
    attended, back_attended = attend(weights, gradients, level_in, batch.present, HEADS)
    middle = embedded + attended
    level, back_level = normalise(middle)
    wide, back_wide = linear(weights, gradients, "widen", level)
    active, back_active = rectify(wide)
    narrow, back_narrow = linear(weights, gradients, "narrow", active)
    final, back_final = normalise(middle + narrow)
    raw, back_raw = linear(weights, gradients, "price", final)
    bent = np.tanh(raw[..., 0] / _BOUND)
    statements = np.where(batch.present, batch.prior + _BOUND * bent, -np.inf)
    top = statements.max(-1, keepdims=True)
    parts = np.exp(statements - top)
    total = parts.sum(-1, keepdims=True)
    candidates = (top + np.log(total))[..., 0]

    def back(upper: Array) -> Array:
        of_raw = upper[..., None] * (parts / total) * (1 - bent**2)
        of_sum = back_final(back_raw(of_raw[..., None]))
        of_middle = of_sum + back_level(back_wide(back_active(back_narrow(of_sum))))
        return back_embed(of_middle + back_level_in(back_attended(of_middle)))

    return candidates, statements, back
