"""Random operators for every schedule template, each with what it must compute.

A case draws extents (1, primes, multiples of a vector and their neighbours, 0 where asked), types,
strides and attributes from a `Source`: NumPy's random generator, or hypothesis.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.compiler import differential_compute as compute
from benchmarks.compiler import differential_movement as movement
from benchmarks.compiler.differential_draws import Case, Source

TEMPLATES: dict[str, Callable[[Source], Case]] = {
    "convolution": compute.convolution,
    "winograd2": compute.winograd2,
    "winograd4": compute.winograd4,
    "im2col": compute.im2col,
    "depthwise": compute.depthwise,
    "pooling": compute.pooling,
    "reduction": compute.reduction,
    "normalisation": compute.normalisation,
    "elementwise": compute.elementwise,
    "broadcast": compute.broadcast,
    "tile": movement.tile,
    "concatenation": movement.concatenation,
    "split": movement.split,
    "padding": movement.padding,
    "transpose": movement.transpose,
    "shuffle": movement.shuffle,
    "gather": movement.gather,
    "slices": movement.slices,
    "matmul": compute.matmul,
    "empty": movement.empty,
}
"""What draws a case, by name of the schedule template or kind of operator."""
