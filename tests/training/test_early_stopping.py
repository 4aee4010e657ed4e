from __future__ import annotations

import math

import numpy as np
import pytest

from tvm_costmodel.training.early_stopping import variant_errors


def test_the_error_between_variants_does_not_count_what_moves_all_of_them() -> None:
    measured = np.array([[1.0], [2.0], [1.0], [4.0], [7.0]])
    variants = np.array([0, 0, 1, 1, 2])
    everything = np.ones((2, 5), bool)
    shifted = np.stack([measured * np.array([[3.0], [3.0], [0.5], [0.5], [9.0]])] * 2)
    assert variant_errors(shifted, measured, everything, variants) == pytest.approx([0, 0])
    wrong = shifted.copy()
    wrong[1, 0] *= math.e**0.2  # its network's two are 0.1 off their mean, the other network's 0
    errors = variant_errors(wrong, measured, everything, variants)
    assert errors == pytest.approx([0.0, 100 * 0.2 / 4])
    everything[1, 1] = False  # alone, a variant has nothing to differ from
    assert variant_errors(wrong, measured, everything, variants)[1] == pytest.approx(0.0)
