"""Trains and tests several predictors on the same splits."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.checkpoint import current_name
from tvm_costmodel.predictors.registry import build_regressor, regressor_class
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.splits import Split, leave_one_family_out, random_split

logger = logging.getLogger(__name__)

SPLITS = ("random", "leave-one-family-out")
ALWAYS = ("xgboost", "flops")
"""Predictors in every comparison: the strongest baseline and the simplest one."""

_SCORES = ("mape", "within_5", "within_10", "kendall_tau", "spearman")
Build = Callable[[str, int], Regressor]


@dataclass(frozen=True)
class Run:
    """Result of one training and test of one predictor."""

    predictor: str
    split: str
    seed: int
    metrics: Metrics
    predict_ms: float
    fit_s: float


@dataclass(frozen=True)
class Row:
    """Results of one predictor over all runs of a split.

    Attributes:
        predictor: Its name.
        split: ``random``, a family that was left out, or ``leave-one-family-out`` for the mean
            over families.
        n: Number of test networks of a run, mean over seeds.
        mean: Metric to its mean over seeds.
        spread: Metric to its standard deviation over seeds (n - 1); NaN for one seed.
        predict_ms: Milliseconds per network of one batched predict call, mean over seeds.
        fit_s: Seconds of training, mean over seeds.
    """

    predictor: str
    split: str
    n: float
    mean: dict[str, float]
    spread: dict[str, float]
    predict_ms: float
    fit_s: float

    def to_dict(self) -> dict[str, Any]:
        """Flat JSON values: each metric's mean under its name and ``<name>_spread``; no NaN."""
        values: dict[str, Any] = {"predictor": self.predictor, "split": self.split, "n": self.n}
        for score in _SCORES:
            values[score] = self.mean[score]
            values[f"{score}_spread"] = self.spread[score]
        values |= {"predict_ms": self.predict_ms, "fit_s": self.fit_s}
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in values.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Row:
        """The row that `to_dict` wrote."""

        def number(key: str) -> float:
            return math.nan if values[key] is None else float(values[key])

        return cls(
            predictor=current_name(str(values["predictor"])),
            split=str(values["split"]),
            n=number("n"),
            mean={score: number(score) for score in _SCORES},
            spread={score: number(f"{score}_spread") for score in _SCORES},
            predict_ms=number("predict_ms"),
            fit_s=number("fit_s"),
        )


def default_build(name: str, seed: int) -> Regressor:
    """A predictor with its default settings and a seed."""
    return build_regressor(name, seed)


def compare(
    labels: LabelledGraphs,
    predictors: Sequence[str],
    split: str = "random",
    seeds: Sequence[int] = (0, 1, 2),
    build: Build = default_build,
    families: Sequence[str] | None = None,
) -> list[Row]:
    """Trains and tests predictors on the same splits; `ALWAYS` are added.

    Args:
        labels: The measured networks.
        predictors: Names from the registry.
        split: One of `SPLITS`. ``random``: a new stratified split per seed (80 % to train, 10 %
            to choose the epoch, 10 % to test). ``leave-one-family-out``: one training per family.
        seeds: Seeds of splits and trainings.
        build: Makes the regressor of a name and seed.
        families: With ``leave-one-family-out``, only these; all when not given.

    Returns:
        One row per predictor, and with ``leave-one-family-out`` one per family before it.

    Raises:
        ConfigError: An unknown predictor or split, no seeds, or too few networks or families.
    """
    names = list(dict.fromkeys([*predictors, *ALWAYS]))
    for name in names:
        regressor_class(name)
    if not seeds:
        raise ConfigError("no seeds to compare over: give at least one")
    runs = [
        _run(labels, name, chosen, seed, build)
        for seed in seeds
        for chosen in _splits(labels, split, seed, families)
        for name in names
    ]
    parts = list(dict.fromkeys(run.split for run in runs))
    rows = [
        summarise([run for run in runs if (run.predictor, run.split) == (name, part)])
        for part in parts
        for name in names
    ]
    if split == "leave-one-family-out":
        rows += [_over_families([row for row in rows if row.predictor == name]) for name in names]
    return rows


def _splits(
    labels: LabelledGraphs, split: str, seed: int, families: Sequence[str] | None
) -> Iterator[Split]:
    if split == "random":
        yield random_split(labels.families, labels.hashes, seed)
    elif split == "leave-one-family-out":
        available = set(labels.families)
        if families is not None and not set(families) <= available:
            unknown = sorted(set(families) - available)
            raise ConfigError(f"unknown families {unknown}; known: {available}")
        for chosen in leave_one_family_out(labels.families, labels.hashes, seed):
            if families is None or chosen.name in families:
                yield chosen
    else:
        raise ConfigError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


def _run(labels: LabelledGraphs, name: str, split: Split, seed: int, build: Build) -> Run:
    sides = [labels.subset(at) for at in (split.train, split.validation, split.test)]
    train, validation, test = sides
    started = time.perf_counter()
    regressor = build(name, seed).fit_labels(train, validation)
    fit_s = time.perf_counter() - started
    fresh = [replace(graph) for graph in test.graphs]  # without cached costs
    predict_started = time.perf_counter()
    predicted = regressor.predict(fresh)
    predict_s = time.perf_counter() - predict_started
    metrics = evaluate(predicted, test.latency_s)
    logger.info("%s, %s, seed %d: MAPE %.2f %%", name, split.name, seed, metrics.mape)
    return Run(name, split.name, seed, metrics, predict_s / len(test) * 1e3, fit_s)


def summarise(runs: Sequence[Run]) -> Row:
    """Mean and spread of one predictor's runs on one split."""
    values = {score: [getattr(run.metrics, score) for run in runs] for score in _SCORES}
    return Row(
        predictor=runs[0].predictor,
        split=runs[0].split,
        n=float(np.mean([run.metrics.n for run in runs])),
        mean={score: float(np.mean(value)) for score, value in values.items()},
        spread={score: _deviation(value) for score, value in values.items()},
        predict_ms=float(np.mean([run.predict_ms for run in runs])),
        fit_s=float(np.mean([run.fit_s for run in runs])),
    )


def _over_families(rows: Sequence[Row]) -> Row:
    """Mean over families of the means over seeds; the spread is the mean of the spreads."""
    return Row(
        predictor=rows[0].predictor,
        split="leave-one-family-out",
        n=float(sum(row.n for row in rows)),
        mean={score: float(np.mean([row.mean[score] for row in rows])) for score in _SCORES},
        spread={score: float(np.mean([row.spread[score] for row in rows])) for score in _SCORES},
        predict_ms=float(np.mean([row.predict_ms for row in rows])),
        fit_s=float(np.mean([row.fit_s for row in rows])),
    )


def _deviation(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
