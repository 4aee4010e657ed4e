"""Labels for decisions: networks, each measured under random candidates, interleaved."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np

from tvm_costmodel.errors import CostModelError, DeviceError, StoreError
from tvm_costmodel.profiling.outcome import ProfileSummary, SourceResult
from tvm_costmodel.profiling.paired_profiler import PairedProfiler
from tvm_costmodel.profiling.sources import Source
from tvm_costmodel.profiling.variants import VariantResult, VariantRun
from tvm_costmodel.tuning.space.candidate import Candidate
from tvm_costmodel.tuning.space.decision_space import DecisionSpace

logger = logging.getLogger(__name__)

LABEL_TOLERANCE = 1e-2
"""Labels also cover decisions that a usual tolerance does not offer."""
_MOST_DRAWS = 200


def draw_candidates(space: DecisionSpace, count: int, seed: int) -> list[Candidate]:
    """Up to ``count`` candidates to learn from, distinct and other than the default."""
    rng = np.random.default_rng(seed)
    candidates: dict[str, Candidate] = {}
    for _ in range(_MOST_DRAWS):
        if len(candidates) >= count:
            break
        candidate = space.explore(rng)
        if candidate.entries:
            candidates.setdefault(candidate.key, candidate)
    return list(candidates.values())


def measure_variants(
    profiler: PairedProfiler,
    sources: Sequence[Source],
    count: int,
    minutes: float | None = None,
    tolerance: float = LABEL_TOLERANCE,
    compiler: str = "relax",
    compare: bool = True,
) -> ProfileSummary:
    """Measures each network's baseline and random candidates; resumes where it stopped.

    The candidates of a network follow from its source, so that a run which is started again draws
    the same ones.

    Args:
        profiler: Measures into its store.
        sources: The networks.
        count: Candidates of each network.
        minutes: Start no further network after this time.
        tolerance: Error of the decisions offered; larger output differences become
            ``wrong_output``.
        compiler: The profiler's compiler, whose decisions are drawn.
        compare: Compare outputs with the baseline's; not where the profiler's pipeline builds for
            the sake of timing alone.

    Returns:
        Counts and results of variants; a keyboard interrupt ends the run, and ``stopped`` says so.

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
    profiler: PairedProfiler,
    source: Source,
    count: int,
    tolerance: float,
    compiler: str,
    compare: bool,
) -> list[SourceResult]:
    try:
        space = DecisionSpace.for_graph(profiler.open(source), tolerance, compiler=compiler)
        drawn = draw_candidates(space, count, int(source.key[:8], 16))
        runs = [VariantRun(space.config_fields(c), c.to_dict()) for c in drawn]
        results = profiler.measure(runs, tolerance if compare else None)
        return [_source_result(source, result) for result in results]
    except (DeviceError, StoreError):
        raise
    except CostModelError as error:  # this network alone cannot be measured
        logger.warning("%s: %s", source.family, error)
        return [SourceResult(source.family, "", "", "source_failed", None, False, str(error))]


def _source_result(source: Source, result: VariantResult) -> SourceResult:
    row = result.row
    latency_s = row.latency_s if row.status == "ok" else None
    return SourceResult(
        source.family, row.key, row.graph_hash, row.status, latency_s, result.reused, row.error
    )
