"""Every schedule template against NumPy and torch, on operators that hypothesis draws.

The draws are the same in every run; ``--slow`` draws 2,000 operators a template. So does
``benchmarks/compiler/differential.py --examples 2000``, which prints a table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tvm import relax

from benchmarks.compiler.differential import SETTINGS, Settings, Tally, check, tally_of
from benchmarks.compiler.differential_cases import TEMPLATES
from benchmarks.compiler.differential_draws import Case

nn, op = relax.op.nn, relax.op
T = TypeVar("T")

QUICK = {"convolution": 1, "winograd2": 1, "winograd4": 1, "im2col": 1, "depthwise": 1}
AT_ONCE = 3
"""Operators of one build."""

# An example is a build of several operators: drawing more of them or shrinking takes minutes.
QUIET = settings(
    max_examples=2,  # the first is the least of everything
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class DrawnSource:
    """Choices of hypothesis."""

    def __init__(self, data: st.DataObject) -> None:
        self._data = data

    def integer(self, low: int, high: int) -> int:
        """See `Source`."""
        return self._data.draw(st.integers(low, high))

    def pick(self, options: Sequence[T]) -> T:
        """See `Source`."""
        return self._data.draw(st.sampled_from(options))


def right(cases: Sequence[Case], how: Settings, template: str) -> None:
    """Asserts that operators are built and compute what they must.

    An algorithm that cannot compute a convolution says so.
    """
    tally = Tally()
    check(cases, how, template, tally)
    unclear = [text for text in tally.refused if "leave the algorithm" not in text]
    assert (tally.wrong, unclear) == ([], [])
    assert tally.examples == len(cases)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_compute_what_numpy_does(template: str) -> None:
    how = SETTINGS[list(TEMPLATES).index(template) % len(SETTINGS)]

    @QUIET
    @given(st.data())
    def run(data: st.DataObject) -> None:
        source = DrawnSource(data)
        cases = [TEMPLATES[template](source) for _ in range(QUICK.get(template, AT_ONCE))]
        right(cases, how, template)

    run()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("template", TEMPLATES)
def test_many_more(template: str) -> None:
    tally = tally_of(template, 2000, seed=1)
    assert (tally.examples, tally.wrong) == (2000, [])


def tiled(shape: tuple[int, ...], counts: tuple[int, ...]) -> Case:
    x = np.random.default_rng(0).standard_normal(shape).astype("float32")
    return Case(
        f"{shape} by {counts}", (x,), lambda emit, a: op.tile(a, counts), np.tile(x, counts), 0
    )


def windows(shift: int) -> Case:
    """Windows of 4x4 of an image that was moved by ``shift``, as windowed attention takes them."""
    x = np.random.default_rng(0).standard_normal((1, 16, 16, 24)).astype("float32")

    def make(emit, a):
        for axis in (1, 2):
            parts = [op.strided_slice(a, [axis], [i], [j]) for i, j in ((shift, 16), (0, shift))]
            a = emit(op.concat([emit(part) for part in parts], axis))
        a = emit(op.reshape(a, (1, 4, 4, 4, 4, 24)))
        return op.reshape(emit(op.permute_dims(a, [0, 1, 3, 2, 4, 5])), (16, 16, 24))

    moved = np.roll(x, (-shift, -shift), (1, 2)).reshape(4, 4, 4, 4, 24)
    return Case("windows", (x,), make, moved.transpose(0, 2, 1, 3, 4).reshape(16, 16, 24), 0)


def merged_axes() -> Case:
    """A reshape that no cut of its axes makes affine."""
    x = np.random.default_rng(0).standard_normal((6, 8, 10)).astype("float32")

    def make(emit, a):
        return op.reshape(emit(op.permute_dims(a, [2, 1, 0])), (15, 32))

    return Case("merged", (x,), make, x.transpose(2, 1, 0).reshape(15, 32), 0)


@pytest.mark.parametrize("cpu", [None, "emeraldrapids", "znver5"])
def test_reads_that_repeat_along_an_axis(cpu: str | None) -> None:
    """Loops over ``x[v % 4]``, which LLVM's vectoriser may take for consecutive reads.

    For processors with AVX-512 the optimised LLVM IR is what runs.
    """
    cases = [
        tiled((3, 4, 5), (2, 8, 5)),
        tiled((2, 3, 4, 5), (7, 6, 6, 4)),
        tiled((1, 3, 4, 5), (1, 2, 2, 4)),
        tiled((1, 10, 64), (32, 1, 1)),
        tiled((4,), (9,)),
        tiled((8, 3), (5, 1)),
        windows(1),
        merged_axes(),
    ]
    right(cases, dataclasses.replace(Settings(), mcpu=cpu), "tile")


def test_rows_that_are_masked_as_a_whole() -> None:
    """As ONNX Runtime: not a number where all are -inf, even where all are the least number."""
    x = np.zeros((4, 70), np.float32)
    x[0] = -np.inf
    x[1] = np.finfo(np.float32).min
    x[2, 10:] = -np.inf
    x[3, 5] = np.nan
    expected = np.zeros_like(x)
    expected[[0, 3]] = np.nan
    expected[1], expected[2, :10] = 1 / 70, 0.1
    case = Case("masked", (x,), lambda emit, a: nn.softmax(a, -1), expected, 1e-7)
    for how in SETTINGS[:3]:
        right([case], how, "normalisation")
