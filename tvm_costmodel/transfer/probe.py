"""A probe of this processor: networks of a suite, measured for minutes, that correct a predictor.

Which networks, and in which order, is fixed: those first that tell most of the correction per
second that building and measuring them takes. What was measured is kept in this user's cache
folder, so that a probe that was stopped goes on, and a longer one adds to a shorter one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tvm_costmodel.errors import ConfigError, MeasurementError
from tvm_costmodel.profiling.label_files.networks import read_labels
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.transfer.workflow import FEWEST, CalibrationSummary, calibrate_checkpoint
from tvm_costmodel.user_cache import make_folder

if TYPE_CHECKING:
    from tvm_costmodel.predictors.base import Regressor
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.profiling.profiler import ProfileSummary
    from tvm_costmodel.profiling.sources import Source

logger = logging.getLogger(__name__)

CANDIDATES, SEED = 200, 1
"""The probe's networks are of the first of the suite ``default`` with this seed, which no label
that ships is of."""
ORDER: tuple[int, ...] = (
    82, 105, 103, 15, 86, 176, 135, 163, 151, 153, 167, 83, 0, 197, 52, 4, 24, 3, 97, 156, 81, 62,
    108, 111, 78, 79, 119, 85, 165, 51, 98, 172, 187, 141, 50, 44, 74, 166, 63, 13, 57, 49, 40,
    134, 180, 41, 183, 48, 94, 45, 189, 106, 68, 75, 61, 35, 190, 123, 125, 80, 168, 149, 71, 140,
    21, 191, 192, 146, 5, 129, 124, 99, 137, 114, 1, 186, 162, 185, 16, 29, 120, 30, 37, 115, 145,
    2, 130, 102, 177, 34, 148, 118, 7, 182, 8, 88, 113, 19, 67, 59, 171, 155, 136, 193, 126, 100,
    32, 161, 22, 107, 36, 158, 170, 87, 133, 198, 14, 181, 169, 128, 17, 89, 77, 194, 23, 104,
    160, 43, 42, 174, 95, 147, 84, 11, 70, 112, 73, 142, 150, 152, 188, 196, 154, 65, 72, 164,
    116, 144, 18, 76, 25, 122, 56, 179, 121, 91, 175, 66, 39, 46, 10, 26, 109, 20, 31, 173, 138,
    55, 96, 184, 101, 143, 110, 139, 6, 60, 9, 117, 132, 64, 199, 69, 53, 127, 54, 58, 27, 178,
    131, 157, 12, 159, 195, 28, 93, 38, 33, 47, 90, 92,
)  # fmt: skip
"""Their numbers, in the order to measure; ``benchmarks/new_device/probe.py --order`` prints it."""
SECONDS = 180.0
_FIRST = 0.85  # share of the time for new networks; noisy ones are measured again in the rest
_NOISY = 0.5  # share of noisy labels from which the machine counts as busy


@dataclass(frozen=True)
class Probe:
    """What a probe gave.

    Attributes:
        calibration: The correction, with errors before and after, and where it was written.
        store: The measurements.
        measured: Networks that this run measured; further ones were there before.
        noisy: Share of all labels that stayed noisy.
        seconds: What it took.
    """

    calibration: CalibrationSummary
    store: Path
    measured: int
    noisy: float
    seconds: float


def probe(
    regressor: Regressor,
    device: Device,
    seconds: float = SECONDS,
    output: str | Path | None = None,
    store: str | Path | None = None,
    progress: bool = True,
) -> Probe:
    """Measures networks on a device for some minutes and corrects a predictor with them.

    Args:
        regressor: A predictor of another processor, which is not changed.
        device: Where to measure: this machine, or a board.
        seconds: Start no further network after this time.
        output: Checkpoint directory; by default in the cache, where `load_predictor` finds it.
        store: Where measurements are kept; by default in the cache.
        progress: Whether to show a bar on standard error.

    Raises:
        ConfigError: Too few networks in this time, the predictor is this device's own, the cache
            cannot be written to, or another probe of the device is running.
        MeasurementError: No network could be measured.
    """
    from tvm_costmodel.profiling.measuring.record import MeasurementConfig
    from tvm_costmodel.profiling.profiler import Profiler
    from tvm_costmodel.profiling.store.store import Store

    folder = make_folder(device.name) if None in (output, store) else Path()
    path = Path(store) if store is not None else folder / "probe.db"
    began = time.monotonic()
    with _alone(path), Store(path) as opened:
        measurement = MeasurementConfig(kernels=False)
        profiler = Profiler(device, opened, measurement, progress=progress)
        summary = profiler.run(_sources(), minutes=_FIRST * seconds / 60)
        if not summary.interrupted:
            left = seconds - (time.monotonic() - began)
            again = profiler.remeasure_noisy(minutes=left / 60) if left > 0 else summary
        if summary.interrupted or again.interrupted:
            raise KeyboardInterrupt
    _require_enough(summary, path, seconds)
    labels = read_labels(path, device.name)
    noisy = 1.0 - float(np.mean([record.quiet for record in labels.records]))
    if noisy > _NOISY:
        logger.warning(
            "%.0f %% of the labels stayed noisy: this machine is busy, and the interval is as "
            "wide; stop what else runs and give the same command again",
            100 * noisy,
        )
    target = folder / regressor.name if output is None else output
    calibration = calibrate_checkpoint(regressor, LabelledGraphs.of(labels), target)
    return Probe(calibration, path, summary.measured, noisy, time.monotonic() - began)


def _sources() -> Iterator[Source]:
    from tvm_costmodel.profiling.sources import suite

    candidates = list(suite("default", CANDIDATES, SEED))
    return (candidates[number] for number in ORDER)


def _require_enough(summary: ProfileSummary, path: Path, seconds: float) -> None:
    count = summary.measured + summary.reused
    if not count and summary.failed:
        worst = summary.results[-1]
        raise MeasurementError(
            f"none of {summary.failed} networks could be measured: {worst.status}: "
            f"{worst.error[:200]}; `tvm-costmodel doctor` looks for the cause ({path})"
        )
    if count < FEWEST:
        raise ConfigError(
            f"{count} networks were measured in {seconds:g} s, and {FEWEST} are needed; they are "
            "kept: give the same command again, or more --seconds"
        )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps a second probe away, whose measurements would disturb this one's."""
    import fcntl

    with open(path.with_name(f"{path.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another probe is measuring into {path}; wait until it ends: its result will be "
                "used from then on"
            ) from None
        yield
