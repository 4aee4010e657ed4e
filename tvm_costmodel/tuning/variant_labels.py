"""Making labels for decisions: networks, each measured under drawn candidates in turns."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from tvm_costmodel.errors import CostModelError, DeviceError, StoreError
from tvm_costmodel.profiling.profiler import ProfileSummary, SourceResult
from tvm_costmodel.profiling.sources import Source
from tvm_costmodel.profiling.trials import Trial, TrialProfiler, TrialResult
from tvm_costmodel.tuning.candidate import Candidate
from tvm_costmodel.tuning.space import DecisionSpace

logger = logging.getLogger(__name__)

LABEL_TOLERANCE = 1e-2
"""Labels are also made of decisions that a usual tolerance does not offer."""
_MOST_DRAWS = 200


def draw_candidates(space: DecisionSpace, count: int, seed: int) -> list[Candidate]:
    """Up to ``count`` candidates to learn from, distinct and other than the default."""
    rng = np.random.default_rng(seed)
    found: dict[str, Candidate] = {}
    for _ in range(_MOST_DRAWS):
        if len(found) >= count:
            break
        candidate = space.explore(rng)
        if candidate.decided:
            found.setdefault(candidate.key, candidate)
    return list(found.values())


def measure_variants(
    profiler: TrialProfiler,
    sources: Sequence[Source],
    count: int,
    minutes: float | None = None,
    tolerance: float = LABEL_TOLERANCE,
    compiler: str = "relax",
    compare: bool = True,
) -> ProfileSummary:
    """Measures each network undecided and under drawn candidates; resumes where it stopped.

    The candidates of a network follow from its source, so that a run which is started again draws
    the same ones.

    Args:
        profiler: Measures into its store.
        sources: The networks.
        count: Candidates of each.
        minutes: Start no further network after this time.
        tolerance: Of the decisions offered; larger output differences become ``wrong_output``.
        compiler: The profiler's, whose decisions are drawn.
        compare: Hold outputs against the undecided network's; not where the profiler's pipeline
            builds for the sake of timing alone.

    Returns:
        Counts and results of variants; a keyboard interrupt ends the run and is told in
        ``stopped``.

    Raises:
        StoreError: The store cannot be written.
        DeviceError: The board went away.
    """
    begin = time.monotonic()
    results: list[SourceResult] = []
    stopped = "finished"
    try:
        for source in sources:
            if minutes is not None and time.monotonic() - begin >= minutes * 60:
                stopped = "minutes"
                break
            results += _of_network(profiler, source, count, tolerance, compiler, compare)
            logger.info("%s: %d variants in all", source.family, len(results))
    except KeyboardInterrupt:
        stopped = "interrupted"
    finally:
        profiler.close()
    return profiler.summary(results, stopped, time.monotonic() - begin)


def _of_network(
    profiler: TrialProfiler,
    source: Source,
    count: int,
    tolerance: float,
    compiler: str,
    compare: bool,
) -> list[SourceResult]:
    try:
        space = DecisionSpace.for_graph(profiler.open(source), tolerance, compiler=compiler)
        drawn = draw_candidates(space, count, int(source.key[:8], 16))
        trials = [Trial(space.config_fields(c), c.to_dict()) for c in drawn]
        results = profiler.measure(trials, tolerance if compare else None)
        return [_told(source, result) for result in results]
    except (DeviceError, StoreError):
        raise
    except CostModelError as error:  # this network alone cannot be measured
        logger.warning("%s: %s", source.family, error)
        return [SourceResult(source.family, "", "", "source_failed", None, False, str(error))]


def _told(source: Source, result: TrialResult) -> SourceResult:
    row = result.row
    latency_s = row.latency_s if row.status == "ok" else None
    return SourceResult(
        source.family, row.key, row.graph_hash, row.status, latency_s, result.reused, row.error
    )
