"""Trains a predictor of decisions, as ``tvm-costmodel train --variants`` runs it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.profiling.variants import VariantSet
from tvm_costmodel.training.labels import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.registry import DECIDED, build_regressor
from tvm_costmodel.training.regressor import json_numbers
from tvm_costmodel.tuning.evaluation import DecisionMetrics, decision_metrics
from tvm_costmodel.tuning.labels import DecidedLabels


@dataclass(frozen=True)
class DecisionTrainingSummary:
    """What a training ended with.

    Attributes:
        checkpoint: Directory of the checkpoint.
        metrics: Absolute errors on variants of networks that neither the weights nor the choice of
            epoch saw.
        decisions: Errors of the same within their networks.
        seconds: Wall time.
    """

    checkpoint: Path
    metrics: Metrics
    decisions: DecisionMetrics
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; percentages in percent."""
        return {
            "checkpoint": str(self.checkpoint),
            **json_numbers(self.metrics.to_dict()),
            **json_numbers({f"variants_{k}": v for k, v in asdict(self.decisions).items()}),
            "seconds": self.seconds,
        }


def train_on_variants(
    variants: VariantSet,
    predictor: str,
    directory: str | Path,
    *,
    labels: LabelledGraphs | None = None,
    seed: int = 0,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    start: str | Path | None = None,
) -> DecisionTrainingSummary:
    """Trains on the variants of 80 % of the networks, tests on 10 % and writes a checkpoint.

    Args:
        variants: Measured variants.
        predictor: One of `tvm_costmodel.training.registry.DECIDED`.
        directory: Where the checkpoint goes; a network's state lies in ``<directory>.training``.
        labels: Further networks, measured undecided.
        seed: Of split and training.
        resume: Go on from an interrupted training of the same labels and settings.
        settings: Recipe to change.
        start: A kernel former of Relax, by name or directory, at which one of Relay begins.

    Raises:
        ConfigError: The predictor does not read decisions, an unknown setting, too few networks,
            or a start that it cannot begin at.
        CheckpointError: ``resume`` with other labels or settings, or the directory is in use.
    """
    if predictor not in DECIDED:
        raise ConfigError(
            f"{predictor} cannot tell variants of a network apart; use one of {', '.join(DECIDED)}"
        )
    started = time.perf_counter()
    target = Path(directory)
    state_dir = target.with_name(f"{target.name}.training")
    regressor = build_regressor(predictor, seed, settings, state_dir, resume)
    if start is not None:
        _begin(regressor, start)
    decided = DecidedLabels.of(variants, labels)
    split = decided.split(seed)
    learn, held, test = (decided.subset(at) for at in (split.train, split.validation, split.test))
    regressor.fit(
        learn.graphs,
        learn.latency_s,
        (held.graphs, held.latency_s),
        networks=(learn.networks, held.networks),
    )
    predicted = regressor.predict(test.graphs)
    metrics, within = evaluate(predicted, test.latency_s), decision_metrics(predicted, test)
    regressor.card |= {
        "device": variants.device,
        "pipeline_key": variants.pipeline_key,
        "training_set": variants.hash[:16] + (f"+{labels.hash}" if labels else ""),
        "split_seed": seed,
        "families": sorted(set(decided.families)),
        "test": json_numbers(asdict(metrics)),
        "test_variants": json_numbers(asdict(within)),
    }
    regressor.save(target)
    shutil.rmtree(state_dir, ignore_errors=True)
    return DecisionTrainingSummary(target, metrics, within, time.perf_counter() - started)


def _begin(regressor: Any, start: str | Path) -> None:
    from tvm_costmodel.predictor import load_predictor

    if not hasattr(regressor, "begin_at"):
        raise ConfigError(f"{regressor.name} begins at nothing: a start is for relay_kernel_former")
    begun = load_predictor(start, "kernel_former", engine="torch").regressor
    regressor.begin_at(begun)
    regressor.card["started_from"] = {"predictor": begun.name, **_origin(begun.card)}


def _origin(card: Mapping[str, Any]) -> dict[str, Any]:
    return {name: card[name] for name in ("device", "training_set") if name in card}
