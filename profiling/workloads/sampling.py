"""Random draws that the families share: input sizes, classes, channel counts, importer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

#: Input sizes in pixels by size class.
IMAGE_SIZES = {
    "tiny": (32,),
    "small": (32, 32, 40, 48, 56, 64, 64, 72, 80, 96, 112, 128),
    "medium": (64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 224),
    "large": (160, 192, 224, 224, 224, 256),
}


def choose(rng: np.random.Generator, options: Sequence[T]) -> T:
    """One of ``options``, evenly; repeat an option to make it likelier."""
    return options[int(rng.integers(len(options)))]


def integer(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer from ``low`` to ``high``, both included."""
    return int(rng.integers(low, high + 1))


def image(rng: np.random.Generator, size: str, least: int = 32) -> int:
    """Height and width of the input in pixels."""
    return choose(rng, [pixels for pixels in IMAGE_SIZES[size] if pixels >= least] or [least])


def classes(rng: np.random.Generator) -> int:
    """Number of classes that the network distinguishes."""
    return choose(rng, (10, 100, 1000, 1000))


def divisible(value: float, divisor: int = 8) -> int:
    """``value`` rounded to ``divisor``, never more than 10 % below it (MobileNet's rule)."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def channels(rng: np.random.Generator, low: int, high: int) -> int:
    """Channels from ``low`` to ``high``, evenly by ratio; multiples of 8 in nine of ten draws."""
    value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return divisible(value, choose(rng, (16, 16, 8, 8, 8, 8, 8, 8, 4, 2)))


def form(rng: np.random.Generator, normed: bool = True, headed: bool = True) -> dict[str, Any]:
    """How the network was written: importer, batch norms, classifier (see ``Network``).

    Args:
        rng: Source of randomness.
        normed: Whether the family has batch norms.
        headed: Whether its classifier is a dense layer on the mean of the pixels.
    """
    drawn: dict[str, Any] = {"importer": choose(rng, ("onnx", "onnx", "torch"))}
    converted = drawn["importer"] == "onnx"
    if normed:
        scaled = ("scaled",) if converted else ()
        drawn["norm"] = choose(rng, ("op", "op", "op", "op", "folded", "folded", *scaled))
    if headed:
        old = ("window", "window", "mean-conv") if converted else ()
        drawn["head"] = choose(rng, ("mean", "mean", "mean", "mean", "mean", *old))
    return drawn | {"softmax": bool(rng.random() < (0.35 if converted else 0.1))}
