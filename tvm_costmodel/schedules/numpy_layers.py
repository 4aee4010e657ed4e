"""Layers of a small network in NumPy, each with the function that carries gradients back.

A layer returns its output and a function from the gradient of the output to that of its input,
which adds the gradients of the layer's weights to ``gradients``.

Shape legend: ``M`` ensemble members, ``B`` candidates, ``S`` statements of the longest, ``D`` and
``E`` channels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Weights = dict[str, Array]
Back = Callable[[Array], Array]

_MASKED = np.float32(-1e9)


def linear(weights: Weights, gradients: Weights, name: str, inputs: Array) -> tuple[Array, Back]:
    """``inputs @ weight + bias``, per member.

    Args:
        weights: Holds ``NAME.weight`` [M, D, E] and ``NAME.bias`` [M, 1, E].
        gradients: Filled under the same names when the returned function is called.
        name: Name of the layer.
        inputs: [M, B, S, D], or [1, B, S, D] when all members see the same.

    Returns:
        [M, B, S, E], and the function that carries gradients back.
    """
    weight = weights[f"{name}.weight"]
    rows = inputs.reshape(inputs.shape[0], -1, inputs.shape[-1])
    output = rows @ weight + weights[f"{name}.bias"]

    def back(upper: Array) -> Array:
        flat = upper.reshape(weight.shape[0], -1, weight.shape[2])
        gradients[f"{name}.weight"] = rows.transpose(0, 2, 1) @ flat
        gradients[f"{name}.bias"] = flat.sum(1, keepdims=True)
        lower: Array = flat @ weight.transpose(0, 2, 1)
        return lower.reshape(-1, *inputs.shape[1:])

    return output.reshape(-1, *inputs.shape[1:3], weight.shape[2]), back


def normalise(inputs: Array) -> tuple[Array, Back]:
    """Zero mean and unit variance over the last axis, without gain or bias.

    Ba et al., Layer Normalization, arXiv:1607.06450.
    """
    centred = inputs - inputs.mean(-1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    output = centred * scale

    def back(upper: Array) -> Array:
        along = (upper * output).mean(-1, keepdims=True)
        lower: Array = scale * (upper - upper.mean(-1, keepdims=True) - output * along)
        return lower

    return output, back


def rectify(inputs: Array) -> tuple[Array, Back]:
    """``max(inputs, 0)``."""
    return np.maximum(inputs, 0), lambda upper: upper * (inputs > 0)


def attend(
    weights: Weights, gradients: Weights, inputs: Array, present: NDArray[np.bool_], heads: int
) -> tuple[Array, Back]:
    """Every statement looks at all statements of its candidate.

    Vaswani et al., Attention Is All You Need, arXiv:1706.03762.

    Args:
        weights: Hold ``mix`` (D to 3 D: queries, keys, values) and ``merge`` (D to D).
        gradients: Filled when the returned function is called.
        inputs: [M, B, S, D].
        present: [B, S]; padding is not looked at.
        heads: Attention heads, among which D is divided.
    """
    members, candidates, statements, width = inputs.shape
    mixed, back_mix = linear(weights, gradients, "mix", inputs)
    split = mixed.reshape(members, candidates, statements, 3, heads, width // heads)
    query, key, value = split.transpose(3, 0, 1, 4, 2, 5)  # each [M, B, heads, S, D / heads]
    scale = np.float32(1 / np.sqrt(width // heads))
    scores = query @ key.swapaxes(-1, -2) * scale
    scores = np.where(present[None, :, None, None, :], scores, _MASKED)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    attended = (shares @ value).transpose(0, 1, 3, 2, 4).reshape(inputs.shape)
    merged, back_merge = linear(weights, gradients, "merge", attended)

    def back(upper: Array) -> Array:
        lower = back_merge(upper).reshape(members, candidates, statements, heads, -1)
        lower = lower.transpose(0, 1, 3, 2, 4)
        of_shares = lower @ value.swapaxes(-1, -2)
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdims=True)) * scale
        of_split = np.stack(
            [of_scores @ key, of_scores.swapaxes(-1, -2) @ query, shares.swapaxes(-1, -2) @ lower]
        )
        return back_mix(of_split.transpose(1, 2, 4, 0, 3, 5).reshape(mixed.shape))

    return merged, back
