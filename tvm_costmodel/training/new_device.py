"""A trained predictor for a new device, as ``tvm-costmodel`` makes it: what to measure, and then.

`choose_sources` says which networks of a suite to measure (``profile --choose``);
`calibrate_checkpoint` takes the measurements to a checkpoint of the new device (``calibrate``).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.training.adaptation import candidate_order
from tvm_costmodel.training.calibration import (
    calibrate,
    choose_networks,
    leave_one_out,
    refuse_own_device,
    trained_for,
    uncalibrated,
)
from tvm_costmodel.training.labels import LabelledGraphs, training_set_hash
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.registry import DECIDED
from tvm_costmodel.training.regressor import Interval, Regressor, json_numbers
from tvm_costmodel.training.splits import random_split

if TYPE_CHECKING:
    from tvm_costmodel.profiling.sources import Source

logger = logging.getLogger(__name__)

FEWEST = 5
"""Measured networks, new to the predictor, below which its error on the device is not told."""


@dataclass(frozen=True)
class CalibrationSummary:
    """What a calibration ended with.

    The metrics are over the measured networks that the predictor did not learn from.

    Attributes:
        checkpoint: Directory of the checkpoint.
        device: The new device.
        source: Device that the predictor was trained for.
        predictor: Name of the predictor.
        networks: How many measured networks the correction was learned from.
        learned: How many of them the predictor was trained on; None where that is not on record.
        uncalibrated: Of the predictor's answers for its own device.
        one_factor: Of these times the median ratio of the other measured networks.
        calibrated: Of the correction that the other measured networks give.
        interval: Of the new checkpoint.
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
        regressor: Fitted or loaded; stays as it is.
        labels: What the new device measured.
        directory: Where the checkpoint goes.

    Raises:
        ConfigError: The predictor is one of decisions, the labels are of its own device, or they
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
    rule: str = "informative",
    seed: int = 0,
    progress: bool = False,
) -> list[Source]:
    """The networks to measure on a new device, in the order to measure them.

    Args:
        regressor: Predictor that will be calibrated.
        sources: Candidates; each is built to see its graph, and left out where the predictor was
            trained on it.
        count: How many to choose.
        device: Name of the new device.
        rule: As for `choose_networks`.
        seed: As for `choose_networks`.
        progress: Show a bar on standard error.

    Raises:
        ConfigError: The predictor is one of decisions, ``device`` is its own, the rule is unknown,
            or there are fewer candidates than measurements.
    """
    from tqdm import tqdm

    _refuse(regressor, device)
    candidate_order(len(sources), count, rule, seed)  # refuses before anything is built
    learned = learned_networks(regressor.card) or frozenset()
    found: dict[str, tuple[Source, OpGraph]] = {}
    for source in tqdm(sources, desc="candidates", unit="network", disable=not progress):
        graph = source.load()[1]
        if graph.hash not in learned:
            found.setdefault(graph.hash, (source, graph))
    if len(found) < count:
        raise ConfigError(
            f"{len(found)} of {len(sources)} candidates are distinct networks that the predictor "
            f"was not trained on, and {count} shall be chosen: draw more of them (--count), or "
            "others (--seed)"
        )
    candidates = list(found.values())
    at = choose_networks(regressor, [graph for _, graph in candidates], count, rule, seed)
    return [candidates[int(i)][0] for i in at]


def learned_networks(card: Mapping[str, Any]) -> frozenset[str] | None:
    """Content hashes of the networks that a checkpoint was trained on or its epoch chosen by.

    Args:
        card: Of a checkpoint; one that does not list them may be of the labels that ship.

    Returns:
        The hashes; None where they are not on record.

    Raises:
        StoreError: The labels that ship are damaged.
    """
    if "learned" in card:
        return frozenset(card["learned"])
    from tvm_costmodel.profiling.dataset import SHIPPED, read_outline

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
    """Refuses what cannot be calibrated to a device."""
    if regressor.name in DECIDED:
        raise ConfigError(
            f"{regressor.name} tells decisions about a network apart, for `tvm-costmodel tune`; "
            "calibrate another predictor of `tvm-costmodel models`"
        )
    refuse_own_device(regressor, device)


def _require_new(regressor: Regressor, labels: LabelledGraphs, new: Collection[int]) -> None:
    if len(new) < FEWEST:
        known = len(labels) - len(new)
        trained = f", {known} of which the predictor was trained on" if known else ""
        raise ConfigError(
            f"there are labels of {len(labels)} networks on {labels.device}{trained}: measure at "
            f"least {FEWEST} others, which `tvm-costmodel profile --suite default --choose 10 "
            f"--for {trained_for(regressor) or 'DIR'}/{regressor.name}` chooses"
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
