"""Inputs of the schedule model: TVM's features of each statement, and a roofline estimate.

TVM lowers a schedule to a loop nest and describes each statement that stores to a buffer by 164
numbers: operations by kind, vectorised, unrolled and parallel loops, bytes and cache lines that
each of up to five buffers touches, their reuse, arithmetic intensity by loop depth, and allocation
(Zheng et al., Ansor, OSDI 2020, appendix B; TVM's ``src/auto_scheduler/feature.cc``). Counts are
given as ``log2(1 + count)``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from tvm_costmodel.errors import ConfigError, MeasurementError

FEATURES = 164
"""Numbers that describe a statement, with TVM's default of five buffers."""

_OPERATIONS = slice(0, 16)
_BUFFER_START, _BUFFER_STRIDE, _BUFFERS, _UNIQUE_BYTES = 57, 18, 5, 4
_PEAK_PER_S = 50e9
_BYTES_PER_S = 20e9
"""Rates of one core of a usual server. They need not be exact: the network corrects them."""

Features = NDArray[np.float32]


def checked(features: Iterable[NDArray[np.floating]]) -> list[Features]:
    """Checks candidates' features and converts them to float32.

    Args:
        features: One [S, 164] for each candidate, S at least 1.

    Raises:
        ConfigError: One has another shape, or holds a value that is not finite.
    """
    arrays = [np.asarray(one, np.float32) for one in features]
    for number, one in enumerate(arrays):
        if one.ndim != 2 or not len(one) or one.shape[1] != FEATURES:
            raise ConfigError(
                f"features of candidate {number} have shape {list(one.shape)}; use [statements, "
                f"{FEATURES}], as tvm.auto_scheduler.feature gives them"
            )
        if not np.isfinite(one).all():
            raise ConfigError(f"features of candidate {number} are not all finite numbers")
    return arrays


def lowered(features: Features) -> bool:
    """Whether TVM could lower the candidate; it gives zeros for one that it could not."""
    return bool(features.any())


def log_roofline(features: Features) -> NDArray[np.float32]:
    """Log of the seconds that each statement takes at fixed peak rates, [S].

    Operations at one rate plus bytes at another; each buffer's bytes are counted once.
    """
    operations = np.expm1(features[:, _OPERATIONS] * np.log(2)).sum(1)
    first = _BUFFER_START + _UNIQUE_BYTES
    columns = first + _BUFFER_STRIDE * np.arange(_BUFFERS)
    moved = np.expm1(features[:, columns] * np.log(2)).sum(1)
    seconds = operations / _PEAK_PER_S + moved / _BYTES_PER_S + 1e-9
    return np.asarray(np.log(seconds), np.float32)


def log_seconds(seconds: Sequence[float]) -> NDArray[np.float32]:
    """Log of measured seconds; a candidate that failed (infinity) ranks behind all that ran.

    Raises:
        MeasurementError: A time is zero, negative or not a number, or all failed.
    """
    times = np.asarray(seconds, np.float64)
    wrong = np.isnan(times) | (times <= 0)
    if wrong.any():
        raise MeasurementError(
            f"candidate {int(wrong.argmax())} took {times[wrong.argmax()]} s; use positive "
            "seconds, and infinity for one that failed"
        )
    ran = np.isfinite(times)
    if not ran.any():
        raise MeasurementError(f"all {len(times)} candidates failed; a model needs one that ran")
    return np.log(np.where(ran, times, 2 * times[ran].max())).astype(np.float32)
