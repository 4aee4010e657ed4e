"""The acquisition function: which candidates of a search are worth a measurement.

The scorer's log latencies are taken as means of a joint normal distribution. How wrong they may be
grows with the ensemble's spread and with the predicted difference, and candidates that share
decisions are wrong together: their errors correlate by what they share. A measurement then also
informs about its neighbours, so that eight near-copies of the favourite are never the eight best to
measure (batch Bayesian optimisation by "kriging believer", Ginsbourger et al., 2010).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_costmodel.gaussian_process import Factored
from tvm_costmodel.tuning.search.ledger import Scored
from tvm_costmodel.tuning.space.candidate import NETWORK, Candidate

FAVOURITE, IMPROVEMENT, UNKNOWN = "predicted best", "expected improvement", "least known"
RULE_OF_THUMB = "rule of thumb"

# Standard deviation of a prediction's error: a floor, and a share of the predicted difference.
_FLOOR = 0.03
_SHARE = 0.5
_POOL, _POOL_UNSURE = 256, 64
# A candidate is a near-copy of a better one where their log latencies differ by less than
# `_ALIKE_LOG` and the cosine of their decisions is above `_ALIKE`.
_ALIKE_LOG, _ALIKE = 0.01, 0.9
_COULD_WIN = 2.0  # standard deviations
_HOPELESS = 1.645  # standard deviations: one in twenty


@dataclass(frozen=True)
class Outcome:
    """The measured ratio of a candidate.

    Attributes:
        log_ratio: Logarithm of its latency over the default's.
        error: Standard error of that logarithm.
    """

    log_ratio: float
    error: float


FAILED = Outcome(1.0, 0.5)
"""Stands for the ratio of a candidate that failed: slow, as are those that share its decisions."""


@dataclass(frozen=True)
class Proposal:
    """A candidate to measure, and why.

    Attributes:
        scored: The candidate with its score.
        why: `FAVOURITE`, `IMPROVEMENT`, `UNKNOWN` or `RULE_OF_THUMB`.
    """

    scored: Scored
    why: str


def propose(
    ranked: Sequence[Scored],
    default: Scored,
    measured: Mapping[Candidate, Outcome],
    count: int,
    unsure: int = 0,
) -> list[Proposal]:
    """Proposes the next candidates to measure.

    Args:
        ranked: Scored candidates, the fastest first.
        default: The score of the default candidate, which is measured together with all others.
        measured: Outcome of each candidate that was measured already.
        count: How many to propose.
        unsure: How many of them shall be those that the model knows least about, among those that
            could still be the fastest.

    Returns:
        At most ``count`` candidates that differ from the default and were not measured; none that
        is less than once in twenty expected to beat the default, but for the first.
    """
    pool = _pool(ranked, default.candidate, measured, count)
    open_to_choice = np.array([scored.candidate not in measured for scored in pool], bool)
    if not open_to_choice.any():
        return []
    mean, cov = _posterior(pool, default, measured)
    best = min([0.0, *(outcome.log_ratio for outcome in measured.values())])
    proposals: list[Proposal] = []
    for number in range(count):
        if not open_to_choice.any():
            break
        why = IMPROVEMENT if measured or proposals else FAVOURITE
        if number >= count - unsure:
            why = UNKNOWN
        if measured or proposals:
            deviation = np.sqrt(np.maximum(np.diag(cov), 1e-12))
            hopeful = open_to_choice & (mean - _HOPELESS * deviation < 0)
            if not hopeful.any():
                break
        else:
            hopeful = open_to_choice
        at = _argbest(why, mean, cov, best, hopeful)
        proposals.append(Proposal(pool[at], why))
        open_to_choice[at] = False
        best = min(best, float(mean[at]))
        cov = _conditioned(cov, at)
    return proposals


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
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    gain: np.ndarray = (best - mean) * ndtr(z) + deviation * density
    return gain


def _pool(
    ranked: Sequence[Scored],
    default: Candidate,
    measured: Mapping[Candidate, Outcome],
    count: int,
) -> list[Scored]:
    """The fastest without near-copies, the least sure of the rest, and those measured already.

    Near-copies are in it only where there are fewer than ``count`` others.
    """
    others = [s for s in ranked if s.candidate != default and math.isfinite(s.latency_s)]
    known = {i for i, scored in enumerate(others) if scored.candidate in measured}
    pool = known | set(_distinct(others, known, _POOL))
    rest = [i for i in range(len(others)) if i not in pool]
    unsure = sorted((i for i in rest if others[i].spread > 0), key=lambda i: -others[i].spread)
    pool.update(unsure[:_POOL_UNSURE])
    lacking = count - (len(pool) - len(known))
    pool.update([i for i in rest if i not in pool][: max(0, lacking)])
    return [others[i] for i in sorted(pool)]


def _distinct(ranked: Sequence[Scored], known: Collection[int], most: int) -> list[int]:
    """The first of ``ranked`` that are no near-copies of one another nor of those ``known``."""
    marks = _marks([scored.candidate for scored in ranked])
    logs = np.log([scored.latency_s for scored in ranked])
    chosen = list(known)
    chosen_marks = np.zeros((most + len(chosen), marks.shape[1]), np.float32)
    chosen_marks[: len(chosen)] = marks[chosen]
    chosen_logs = np.zeros(len(chosen_marks))
    chosen_logs[: len(chosen)] = logs[chosen]
    for i in range(len(ranked)):
        n = len(chosen)
        if n == len(chosen_marks):
            break
        alike = chosen_marks[:n] @ marks[i] > _ALIKE
        alike &= np.abs(chosen_logs[:n] - logs[i]) < _ALIKE_LOG
        if i not in known and not alike.any():
            chosen_marks[n], chosen_logs[n] = marks[i], logs[i]
            chosen.append(i)
    return chosen


def _posterior(
    pool: Sequence[Scored], default: Scored, measured: Mapping[Candidate, Outcome]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean [N] and covariance [N, N] of log(latency / default's), given the measurements."""
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
    surprise = np.array([outcome.log_ratio for outcome in outcomes]) - mean[seen]
    gain, loss = Factored(cov[np.ix_(seen, seen)] + noise).update(cov[seen], surprise)
    return mean + gain, cov - loss


def _conditioned(cov: np.ndarray, at: int) -> np.ndarray:
    """The covariance once candidate ``at`` will have been measured."""
    return cov - np.outer(cov[:, at], cov[at]) / max(float(cov[at, at]), 1e-12)


def _marks(candidates: Sequence[Candidate]) -> np.ndarray:
    """Unit vectors over decisions, float32 [N, decisions]: their inner products are cosines.

    A decision about the network counts as much as one for each of the operators that the
    candidates decide for.
    """
    columns: dict[tuple[int, str, object], int] = {}
    operators = {i for candidate in candidates for i, _, _ in candidate.operators}
    for candidate in candidates:
        for entry in candidate.entries:
            columns.setdefault(entry, len(columns))
    marks = np.zeros((len(candidates), max(1, len(columns))), np.float32)
    of_network = math.sqrt(max(1, len(operators)))
    for row, candidate in enumerate(candidates):
        for entry in candidate.entries:
            marks[row, columns[entry]] = of_network if entry[0] == NETWORK else 1.0
    norms = np.linalg.norm(marks, axis=1, keepdims=True)
    return np.asarray(marks / np.maximum(norms, 1e-12))
