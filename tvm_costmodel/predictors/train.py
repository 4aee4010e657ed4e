"""Trains a predictor from labels to a checkpoint, as ``tvm-costmodel train`` does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_costmodel.predictors.base import json_numbers
from tvm_costmodel.predictors.registry import build_regressor
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.splits import random_split


@dataclass(frozen=True)
class TrainingSummary:
    """Result of a training.

    Attributes:
        checkpoint: Directory of the checkpoint.
        metrics: Errors on test networks that were used neither for the weights nor to choose the
            epoch.
        seconds: Wall time.
    """

    checkpoint: Path
    metrics: Metrics
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """JSON values; percentages in percent."""
        return {
            "checkpoint": str(self.checkpoint),
            **json_numbers(self.metrics.to_dict()),
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
) -> TrainingSummary:
    """Trains a predictor on 80 % of the labels, tests it on 10 % and writes a checkpoint.

    While a network trains, its state after every epoch is kept in ``<directory>.training``, which
    is removed when the checkpoint is written.

    Args:
        labels: Measured networks.
        predictor: A name from the registry.
        directory: Directory of the checkpoint.
        seed: Seed of the split and of the training.
        resume: Resume an interrupted training with the same labels and settings.
        settings: Changes of the recipe: fields of `TrainingConfig`, or of `XGBoostRegressor`.

    Raises:
        ConfigError: An unknown predictor or setting, or too few labels to split.
        CheckpointError: ``resume`` with other labels or settings, or the directory is in use.
    """
    started = time.perf_counter()
    target = Path(directory)
    state_dir = target.with_name(f"{target.name}.training")
    split = random_split(labels.families, labels.hashes, seed)
    regressor = build_regressor(predictor, seed, settings, state_dir, resume)
    train_set, held_out, test_set = (
        labels.subset(at) for at in (split.train, split.validation, split.test)
    )
    regressor.fit(
        train_set.graphs,
        train_set.latency_s,
        (held_out.graphs, held_out.latency_s),
        train_set.kernels or None,
    )
    metrics = evaluate(regressor.predict(test_set.graphs), test_set.latency_s)
    regressor.card |= {
        "device": labels.device,
        "pipeline_key": labels.pipeline_key,
        "training_set": labels.hash,
        "learned": sorted({*train_set.hashes, *held_out.hashes}),
        "split_seed": seed,
        "families": sorted(set(labels.families)),
        "test": json_numbers(asdict(metrics)),
    }
    regressor.save(target)
    shutil.rmtree(state_dir, ignore_errors=True)
    return TrainingSummary(target, metrics, time.perf_counter() - started)
