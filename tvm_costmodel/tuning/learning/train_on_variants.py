"""Trains a predictor that reads decisions, for ``tvm-costmodel train --variants``."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.predictors.base import json_numbers
from tvm_costmodel.predictors.checkpoint import refuse_renamed
from tvm_costmodel.predictors.registry import DECISION_AWARE, build_regressor
from tvm_costmodel.profiling.label_files.variants import VariantSet
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.tuning.learning.variant_dataset import TunedLabels
from tvm_costmodel.tuning.learning.variant_metrics import DecisionMetrics, decision_metrics


@dataclass(frozen=True)
class DecisionTrainingSummary:
    """The result of a training.

    Attributes:
        checkpoint: Directory of the checkpoint.
        metrics: Absolute errors on variants of test networks, which neither the weights nor the
            choice of epoch depend on.
        decisions: Errors of the same variants within their networks.
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
    init_from: str | Path | None = None,
) -> DecisionTrainingSummary:
    """Trains on the variants of 80 % of the networks, tests on 10 % and writes a checkpoint.

    Args:
        variants: Measured variants.
        predictor: One of `tvm_costmodel.predictors.registry.DECISION_AWARE`.
        directory: Where the checkpoint goes; a network's state lies in ``<directory>.training``.
        labels: Labels of further baselines.
        seed: Seed of split and training.
        resume: Go on from an interrupted training of the same labels and settings.
        settings: Recipe to change.
        init_from: A `KernelFormer` of Relax, by name or directory, whose weights a predictor of
            Relay is initialised from.

    Raises:
        ConfigError: The predictor does not read decisions, an unknown setting, too few networks,
            or a predictor that it cannot be initialised from.
        CheckpointError: ``resume`` with other labels or settings, or the directory is in use.
    """
    refuse_renamed(predictor)
    if predictor not in DECISION_AWARE:
        raise ConfigError(
            f"{predictor} cannot distinguish variants of a network; use one of "
            f"{', '.join(DECISION_AWARE)}"
        )
    started = time.perf_counter()
    target = Path(directory)
    state_dir = target.with_name(f"{target.name}.training")
    regressor = build_regressor(predictor, seed, settings, state_dir, resume)
    if init_from is not None:
        _initialise(regressor, init_from)
    tuned = TunedLabels.of(variants, labels)
    split = tuned.split(seed)
    learn, held, test = (tuned.subset(at) for at in (split.train, split.validation, split.test))
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
        "families": sorted(set(tuned.families)),
        "test": json_numbers(asdict(metrics)),
        "test_variants": json_numbers(asdict(within)),
    }
    regressor.save(target)
    shutil.rmtree(state_dir, ignore_errors=True)
    return DecisionTrainingSummary(target, metrics, within, time.perf_counter() - started)


def _initialise(regressor: Any, init_from: str | Path) -> None:
    from tvm_costmodel.predictors.loading import load_predictor

    if not hasattr(regressor, "init_from"):
        raise ConfigError(
            f"{regressor.name} cannot be initialised from another predictor: only "
            "relay_kernel_former can"
        )
    source = load_predictor(init_from, "kernel_former", engine="torch").regressor
    regressor.init_from(source)
    regressor.card["started_from"] = {"predictor": source.name, **_origin(source.card)}


def _origin(card: Mapping[str, Any]) -> dict[str, Any]:
    return {name: card[name] for name in ("device", "training_set") if name in card}
