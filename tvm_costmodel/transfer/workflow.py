"""The steps of ``tvm-costmodel`` that calibrate a trained predictor to a new device.

`choose_sources` selects the networks of a suite to measure (``profile --select``);
`calibrate_checkpoint` makes a checkpoint for the new device from the measurements (``calibrate``).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor, json_numbers
from tvm_costmodel.predictors.conformal import Interval
from tvm_costmodel.predictors.registry import DECISION_AWARE
from tvm_costmodel.training.dataset import LabelledGraphs, training_set_hash
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.splits import random_split
from tvm_costmodel.transfer.active_learning import candidate_order
from tvm_costmodel.transfer.calibration import (
    calibrate,
    choose_networks,
    leave_one_out,
    refuse_own_device,
    trained_for,
    uncalibrated,
)

if TYPE_CHECKING:
    from tvm_costmodel.profiling.sources import Source

logger = logging.getLogger(__name__)

FEWEST = 5
"""Fewest measured networks, new to the predictor, for which its error on the device is reported."""


@dataclass(frozen=True)
class CalibrationSummary:
    """Result of a calibration.

    The metrics are over the measured networks that the predictor was not trained on.

    Attributes:
        checkpoint: Directory of the checkpoint.
        device: The new device.
        source: Device that the predictor was trained for.
        predictor: Name of the predictor.
        networks: Number of measured networks that the correction was learned from.
        learned: Number of them that the predictor was trained on; None where that is not recorded.
        uncalibrated: Metrics of the predictions for its own device.
        one_factor: Metrics of these predictions times the median ratio of the other measured
            networks.
        calibrated: Metrics of a calibration to the other measured networks.
        interval: Interval of the new checkpoint.
    """

    checkpoint: Path
    device: str
    source: str
    predictor: str
    networks: int
    learned: int | None
    uncalibrated: Metrics
    one_factor: Metrics
    calibrated: Metrics
    interval: Interval

    def to_dict(self) -> dict[str, Any]:
        """JSON values; percentages in percent."""
        metrics = ("uncalibrated", "one_factor", "calibrated")
        return {
            "checkpoint": str(self.checkpoint),
            "device": self.device,
            "calibrated_from": self.source,
            "predictor": self.predictor,
            "networks": self.networks,
            "learned": self.learned,
            **{name: json_numbers(getattr(self, name).to_dict()) for name in metrics},
            "interval": asdict(self.interval),
        }


def calibrate_checkpoint(
    regressor: Regressor, labels: LabelledGraphs, directory: str | Path
) -> CalibrationSummary:
    """Calibrates a predictor to the device of some labels and writes a checkpoint.

    Args:
        regressor: A fitted or loaded predictor, which is not changed.
        labels: Measurements of the new device.
        directory: Directory of the checkpoint.

    Raises:
        ConfigError: The predictor is decision-aware, the labels belong to its own device, or they
            hold fewer than `FEWEST` networks that it was not trained on.
        CheckpointError: The directory holds something that is not a checkpoint.
    """
    _refuse(regressor, labels.device)
    learned = learned_networks(regressor.card)
    new = np.flatnonzero([graph_hash not in (learned or ()) for graph_hash in labels.hashes])
    _require_new(regressor, labels, new)
    calibrated = calibrate(regressor, labels.graphs, labels.latency_s, labels.device, learned or ())
    assert calibrated.calibration is not None and calibrated.interval is not None
    alone = uncalibrated(regressor).predict(labels.graphs)
    others = leave_one_out(regressor, labels.graphs, labels.latency_s)
    scaled = alone * _factors_of_others(labels.latency_s / alone)
    before, factor, after = (
        evaluate(answers[new], labels.latency_s[new]) for answers in (alone, scaled, others)
    )
    calibrated.card |= {
        "machine": dict(labels.machine),
        "pipeline_key": labels.pipeline_key,
        "calibrated_on": len(labels),
        "calibration_set": labels.hash,
        "leave_one_out": json_numbers(after.to_dict()),
    }
    summary = CalibrationSummary(
        checkpoint=calibrated.save(directory),
        device=labels.device,
        source=trained_for(regressor),
        predictor=regressor.name,
        networks=len(labels),
        learned=None if learned is None else len(labels) - len(new),
        uncalibrated=before,
        one_factor=factor,
        calibrated=after,
        interval=calibrated.interval,
    )
    _warn(summary)
    return summary


def choose_sources(
    regressor: Regressor,
    sources: Sequence[Source],
    count: int,
    device: str,
    strategy: str = "informative",
    seed: int = 0,
    progress: bool = False,
) -> list[Source]:
    """Selects the networks to measure on a new device, in the order to measure them.

    Args:
        regressor: Predictor that will be calibrated.
        sources: Candidates; each is built to see its graph, and left out where the predictor was
            trained on it.
        count: How many to select.
        device: Name of the new device.
        strategy: See `choose_networks`.
        seed: See `choose_networks`.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ConfigError: The predictor is decision-aware, ``device`` is its own, the strategy is
            unknown, or there are fewer candidates than measurements.
    """
    from tqdm import tqdm

    _refuse(regressor, device)
    candidate_order(len(sources), count, strategy, seed)  # refuses before anything is built
    learned = learned_networks(regressor.card) or frozenset()
    distinct: dict[str, tuple[Source, OpGraph]] = {}
    for source in tqdm(sources, desc="candidates", unit="network", disable=not progress):
        graph = source.load()[1]
        if graph.hash not in learned:
            distinct.setdefault(graph.hash, (source, graph))
    if len(distinct) < count:
        raise ConfigError(
            f"{len(distinct)} of {len(sources)} candidates are distinct networks that the "
            f"predictor was not trained on, and {count} shall be chosen: draw more of them "
            "(--count), or others (--seed)"
        )
    candidates = list(distinct.values())
    at = choose_networks(regressor, [graph for _, graph in candidates], count, strategy, seed)
    return [candidates[int(i)][0] for i in at]


def learned_networks(card: Mapping[str, Any]) -> frozenset[str] | None:
    """Content hashes of the networks that a checkpoint was trained on or its epoch chosen by.

    Args:
        card: Card of a checkpoint. Where it does not list them, the labels that ship are tried.

    Returns:
        The hashes; None where they are not recorded.

    Raises:
        StoreError: The labels that ship are damaged.
    """
    if "learned" in card:
        return frozenset(card["learned"])
    from tvm_costmodel.profiling.label_files.networks import SHIPPED, read_outline

    path = SHIPPED / f"{card.get('calibrated_from', card.get('device'))}.jsonl.xz"
    if not path.is_file():
        return None
    labels = read_outline(path)
    hashes = labels.graph_hashes
    key = training_set_hash(labels.device, labels.pipeline_key, hashes, labels.latency_s)
    if key != card.get("training_set"):
        return None
    split = random_split(labels.families, hashes, card["split_seed"])
    return frozenset(hashes[i] for i in (*split.train, *split.validation))


def _refuse(regressor: Regressor, device: str) -> None:
    """Refuses predictors that cannot be calibrated to a device."""
    if regressor.name in DECISION_AWARE:
        raise ConfigError(
            f"{regressor.name} predicts variants of a tuned network, for `tvm-costmodel tune`; "
            "calibrate another predictor of `tvm-costmodel models`"
        )
    refuse_own_device(regressor, device)


def _require_new(regressor: Regressor, labels: LabelledGraphs, new: Collection[int]) -> None:
    if len(new) < FEWEST:
        learned = len(labels) - len(new)
        trained = f", {learned} of which the predictor was trained on" if learned else ""
        raise ConfigError(
            f"there are labels of {len(labels)} networks on {labels.device}{trained}: measure at "
            f"least {FEWEST} others, which `tvm-costmodel profile --suite default --select 10 "
            f"--calibrate-for {trained_for(regressor) or 'DIR'}/{regressor.name}` selects"
        )


def _factors_of_others(ratios: np.ndarray) -> np.ndarray:
    """For each network the median ratio of the others, float64 [G]."""
    return np.array([np.median(np.delete(ratios, i)) for i in range(len(ratios))])


def _warn(summary: CalibrationSummary) -> None:
    if summary.learned is None:
        logger.warning(
            "which networks the predictor was trained on is not on record; where measured ones are "
            "among them, it errs more on others than the error and the interval say"
        )
    elif summary.learned:
        logger.warning(
            "the predictor was trained on %d of the %d measured networks; they count for the "
            "correction, but not for the error and the interval",
            summary.learned,
            summary.networks,
        )
