"""Trains a predictor from labels to a checkpoint, as ``tvm-costmodel train`` does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.base import json_numbers
from tvm_costmodel.predictors.registry import build_regressor, require_decision_aware
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.variant_metrics import DecisionMetrics, decision_metrics


@dataclass(frozen=True)
class TrainingSummary:
    """Result of a training.

    Attributes:
        checkpoint: Directory of the checkpoint.
        metrics: Errors on test networks that were used neither for the weights nor to choose the
            epoch.
        decisions: With variants, their errors within these networks.
        seconds: Wall time.
    """

    checkpoint: Path
    metrics: Metrics
    decisions: DecisionMetrics | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; percentages in percent."""
        within = asdict(self.decisions) if self.decisions else {}
        return {
            "checkpoint": str(self.checkpoint),
            **json_numbers(self.metrics.to_dict()),
            **json_numbers({f"variants_{name}": value for name, value in within.items()}),
            "seconds": self.seconds,
        }


def train(
    labels: LabelledGraphs,
    predictor: str,
    directory: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
) -> TrainingSummary:
    """Trains a predictor on 80 % of the networks, tests it on 10 % and writes a checkpoint.

    While a network trains, its state after every epoch is kept in ``<directory>.training``, which
    is removed when the checkpoint is written.

    Args:
        labels: Measured networks; with variants, all of a network's are on one side.
        predictor: A name from the registry, with variants one of `registry.DECISION_AWARE`.
        directory: Directory of the checkpoint.
        seed: Seed of the split and of the training.
        resume: Resume an interrupted training with the same labels and settings.
        settings: Changes of the recipe: fields of `TrainingConfig`, or of `XGBoostRegressor`.
        init_from: A `KernelFormer` of Relax, by name or directory, whose weights a predictor of
            Relay is initialised from.

    Raises:
        ConfigError: An unknown predictor or setting, too few networks to split, a predictor that
            does not read decisions, or one that it cannot be initialised from.
        CheckpointError: ``resume`` with other labels or settings, or the directory is in use.
    """
    if labels.networks:
        require_decision_aware(predictor)
    started = time.perf_counter()
    target = Path(directory)
    state_dir = target.with_name(f"{target.name}.training")
    regressor = build_regressor(predictor, seed, settings, state_dir, resume)
    if init_from is not None:
        _initialise(regressor, init_from)
    split = labels.split(seed)
    learn, held, test = (labels.subset(at) for at in (split.train, split.validation, split.test))
    regressor.fit_labels(learn, held)
    predicted = regressor.predict(test.graphs)
    metrics = evaluate(predicted, test.latency_s)
    within = decision_metrics(predicted, test) if labels.networks else None
    regressor.card |= {
        "device": labels.device,
        "machine": dict(labels.machine),
        "pipeline_key": labels.pipeline_key,
        "training_set": labels.hash,
        "learned": sorted({*learn.hashes, *held.hashes}),
        "split_seed": seed,
        "families": sorted(set(labels.families)),
        "test": json_numbers(asdict(metrics)),
    }
    if within:
        regressor.card["test_variants"] = json_numbers(asdict(within))
    regressor.save(target)
    shutil.rmtree(state_dir, ignore_errors=True)
    return TrainingSummary(target, metrics, within, time.perf_counter() - started)


def _initialise(regressor: Any, init_from: str | Path) -> None:
    from tvm_costmodel.predictors.loading import load_predictor

    if not hasattr(regressor, "init_from"):
        raise ConfigError(
            f"{regressor.name} cannot be initialised from another predictor: only "
            "relay_kernel_former can"
        )
    source: Any = load_predictor(init_from, "kernel_former", engine="torch").regressor
    regressor.init_from(source)
    origin = {key: source.card[key] for key in ("device", "training_set") if key in source.card}
    regressor.card["started_from"] = {"predictor": source.name, **origin}
