"""A test of this machine's speed that takes a second or two, once for a processor."""

from __future__ import annotations

import logging

from tvm_costmodel.profiling.devices import Device, this_machine
from tvm_costmodel.user_cache import Speed, keep_speed, stored_speed

logger = logging.getLogger(__name__)

_REPEATS = 300  # a second or two
_BUSY = 1.3  # wall over processor time from which the machine is too busy to be sure


def speed_of(device: Device) -> float | None:
    """Seconds of the reference kernel on this machine, measured where it is not yet known.

    Predictors that learned on another processor scale their answers by it, see
    `tvm_costmodel.predictors.loading.Predictor`. It is the fastest of some hundred runs: other
    programs on the same core disturb few of them all.

    Args:
        device: The device to predict for.

    Returns:
        The seconds, which are kept in this user's cache, and on a busy machine are measured again
        the next time; None for devices other than this machine.

    Raises:
        ConfigError: The cache cannot be written.
    """
    if device.runner != "local" or device.name != this_machine().name:
        return None
    known = stored_speed(device.name)
    if known is not None and not known.doubtful:
        return known.reference_s
    from tvm_costmodel.compilers.relax.target import cpu_target
    from tvm_costmodel.profiling.runners.local import LocalRunner

    timed = LocalRunner(cpu_target(1)).reference(1, _REPEATS)
    seconds, share = min(timed.times_s), timed.wall_s / (timed.cpu_s or timed.wall_s)
    if known is not None:
        seconds = min(seconds, known.reference_s)
    keep_speed(device.name, Speed(seconds, doubtful=share > _BUSY))
    if share > _BUSY:
        logger.warning(
            "the machine is busy (%.0f%% of the time went elsewhere): its speed, which answers are "
            "scaled by, is measured again the next time",
            100 * (1 - 1 / share),
        )
    return seconds
