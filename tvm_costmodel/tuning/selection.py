"""Which candidates of a search are worth a measurement.

The scorer's log latencies are taken as means of a joint normal belief. How wrong they may be grows
with the ensemble's spread and with the predicted difference, and candidates that share decisions
are wrong together: their errors correlate by what they share. A measurement then tells of its
neighbours too, so that eight near-copies of the favourite are never the eight best to measure
(batch Bayesian optimisation by "kriging believer", Ginsbourger et al., 2010).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.tuning.candidate import NETWORK, Candidate
from tvm_costmodel.tuning.search import Scored

FAVOURITE, IMPROVEMENT, UNKNOWN = "predicted best", "expected improvement", "least known"

# Standard deviation of a prediction's error: a floor, and a share of the predicted difference.
_FLOOR = 0.03
_SHARE = 0.5
_POOL, _POOL_UNSURE = 256, 64
# What is as fast as a better candidate, within so much, and decides the same but for so little, is
# a near-copy of it.
_ALIKE_LOG, _ALIKE = 0.01, 0.9
_COULD_WIN = 2.0  # standard deviations


@dataclass(frozen=True)
class Outcome:
    """What measuring a candidate gave.

    Attributes:
        log_ratio: Logarithm of its latency over the default's.
        error: Standard error of it.
    """

    log_ratio: float
    error: float


FAILED = Outcome(1.0, 0.5)
"""What a candidate that failed counts as: slow, and a warning of those that share its decisions."""


@dataclass(frozen=True)
class Pick:
    """A candidate to measure, and why."""

    scored: Scored
    why: str


def choose(
    ranked: Sequence[Scored],
    default: Scored,
    measured: Mapping[Candidate, Outcome],
    count: int,
    unsure: int = 0,
) -> list[Pick]:
    """Chooses the next candidates to measure.

    Args:
        ranked: Scored candidates, the fastest first.
        default: The score of the default candidate, which is measured beside all others.
        measured: What was measured already.
        count: How many to choose.
        unsure: How many of them shall be those that the model knows least about, among those that
            could still be the fastest.

    Returns:
        At most ``count`` candidates that differ from the default and were not measured.
    """
    pool = _pool(ranked, default.candidate, measured, count)
    open_to_choice = np.array([scored.candidate not in measured for scored in pool], bool)
    if not open_to_choice.any():
        return []
    mean, cov = _belief(pool, default, measured)
    best = min([0.0, *(outcome.log_ratio for outcome in measured.values())])
    picks: list[Pick] = []
    for number in range(count):
        if not open_to_choice.any():
            break
        why = IMPROVEMENT if measured or picks else FAVOURITE
        if number >= count - unsure:
            why = UNKNOWN
        at = _argbest(why, mean, cov, best, open_to_choice)
        picks.append(Pick(pool[at], why))
        open_to_choice[at] = False
        best = min(best, float(mean[at]))
        cov = _conditioned(cov, at)
    return picks


def _argbest(
    why: str, mean: np.ndarray, cov: np.ndarray, best: float, open_to_choice: np.ndarray
) -> int:
    deviation = np.sqrt(np.maximum(np.diag(cov), 1e-12))
    if why == FAVOURITE:
        value = -mean
    elif why == UNKNOWN:
        could_win = mean - _COULD_WIN * deviation < best
        value = np.where(could_win, deviation, deviation - 1e6)
    else:
        value = _expected_improvement(mean, deviation, best)
    return int(np.argmax(np.where(open_to_choice, value, -np.inf)))


def _expected_improvement(mean: np.ndarray, deviation: np.ndarray, best: float) -> np.ndarray:
    """How much a candidate is expected to fall below ``best`` (Jones et al., 1998)."""
    from scipy.special import ndtr

    z = (best - mean) / deviation
    return (best - mean) * ndtr(z) + deviation * np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)


def _pool(
    ranked: Sequence[Scored],
    default: Candidate,
    measured: Mapping[Candidate, Outcome],
    count: int,
) -> list[Scored]:
    """The fastest without near-copies, the least sure of the rest, and what was measured.

    Near-copies are in where there are no ``count`` others.
    """
    others = [s for s in ranked if s.candidate != default and math.isfinite(s.latency_s)]
    known = {i for i, scored in enumerate(others) if scored.candidate in measured}
    kept = known | set(_distinct(others, known, _POOL))
    rest = [i for i in range(len(others)) if i not in kept]
    unsure = sorted((i for i in rest if others[i].spread > 0), key=lambda i: -others[i].spread)
    kept.update(unsure[:_POOL_UNSURE])
    lacking = count - (len(kept) - len(known))
    kept.update([i for i in rest if i not in kept][: max(0, lacking)])
    return [others[i] for i in sorted(kept)]


def _distinct(ranked: Sequence[Scored], taken: Collection[int], most: int) -> list[int]:
    """The first of ``ranked`` that are no near-copies of one another nor of those taken."""
    marks = _marks([scored.candidate for scored in ranked])
    logs = np.log([scored.latency_s for scored in ranked])
    found = list(taken)
    held = np.zeros((most + len(found), marks.shape[1]), np.float32)
    held[: len(found)] = marks[found]
    held_logs = np.zeros(len(held))
    held_logs[: len(found)] = logs[found]
    for i in range(len(ranked)):
        n = len(found)
        if n == len(held):
            break
        alike = held[:n] @ marks[i] > _ALIKE
        if i not in taken and not (alike & (np.abs(held_logs[:n] - logs[i]) < _ALIKE_LOG)).any():
            held[n], held_logs[n] = marks[i], logs[i]
            found.append(i)
    return found


def _belief(
    pool: Sequence[Scored], default: Scored, measured: Mapping[Candidate, Outcome]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [N] and covariance [N, N] of log(latency / default's) after what was measured."""
    mean = np.log([scored.latency_s / default.latency_s for scored in pool])
    spread = np.array([scored.spread for scored in pool])
    deviation = np.sqrt(spread**2 + (_SHARE * mean) ** 2 + _FLOOR**2)
    marks = _marks([scored.candidate for scored in pool]).astype(float)
    cov = deviation[:, None] * deviation[None, :] * (marks @ marks.T)
    seen = [i for i, scored in enumerate(pool) if scored.candidate in measured]
    if not seen:
        return mean, cov
    outcomes = [measured[pool[i].candidate] for i in seen]
    noise = np.diag([outcome.error**2 + 1e-8 for outcome in outcomes])
    gain = np.linalg.solve(cov[np.ix_(seen, seen)] + noise, cov[seen]).T
    surprise = np.array([outcome.log_ratio for outcome in outcomes]) - mean[seen]
    return mean + gain @ surprise, cov - gain @ cov[seen]


def _conditioned(cov: np.ndarray, at: int) -> np.ndarray:
    """The covariance once candidate ``at`` will have been measured."""
    return cov - np.outer(cov[:, at], cov[at]) / max(float(cov[at, at]), 1e-12)


def _marks(candidates: Sequence[Candidate]) -> np.ndarray:
    """Unit vectors over decisions, float32 [N, decisions]: products are cosines.

    A decision about the network counts as much as one for each of the operators that the
    candidates decide for.
    """
    columns: dict[tuple[int, str, object], int] = {}
    operators = {i for candidate in candidates for i, _, _ in candidate.operators}
    for candidate in candidates:
        for entry in candidate.decided:
            columns.setdefault(entry, len(columns))
    marks = np.zeros((len(candidates), max(1, len(columns))), np.float32)
    of_network = math.sqrt(max(1, len(operators)))
    for row, candidate in enumerate(candidates):
        for entry in candidate.decided:
            marks[row, columns[entry]] = of_network if entry[0] == NETWORK else 1.0
    norms = np.linalg.norm(marks, axis=1, keepdims=True)
    return np.asarray(marks / np.maximum(norms, 1e-12))
