"""Base class of predictors: a regressor from graphs to seconds with scikit-learn's interface."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_costmodel.bounded_reading import require_sizes
from tvm_costmodel.errors import CheckpointError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.checkpoint import Card, Checkpointed
from tvm_costmodel.predictors.conformal import Interval
from tvm_costmodel.predictors.latency_correction import Calibration
from tvm_costmodel.training.dataset import Kernels, LabelledGraphs
from tvm_costmodel.training.metrics import evaluate

if TYPE_CHECKING:
    from typing_extensions import Self

_NO_SIZES = ("seed", "steps", "networks", "version", "features_version")
"""Integers of a card's description that say nothing of the network's size."""
SHORTEST_S, LONGEST_S = 1e-10, 1e7
"""Shortest and longest answer, a third of a year: beyond them is no latency of one pass."""

Labelled = tuple[Sequence[OpGraph], np.ndarray]


class Regressor(Checkpointed):
    """Predicts the latency of whole networks.

    The constructor only stores its settings; `fit` learns and returns the regressor; `predict`
    takes a list and is fastest on long lists; `save` and `load` use a checkpoint directory.

    Attributes:
        interval: Set by `fit`; None before.
        calibration: Correction for another device than the one it was trained for.
    """

    label_unit = "s"

    def __init__(self) -> None:
        self.interval: Interval | None = None
        self.card: dict[str, Any] = {}
        self.calibration: Calibration | None = None

    def fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        validation: Labelled | None = None,
        kernels: Sequence[Kernels] | None = None,
        networks: tuple[Sequence[str], Sequence[str]] | None = None,
    ) -> Self:
        """Learns from measured networks.

        Args:
            graphs: The networks.
            latency_s: Measured seconds, one per network.
            validation: Networks and seconds for early stopping and for the interval; a tenth of
                the training networks, held_hashes by the seed, when not given.
            kernels: Measured kernels of each training network, for predictors that also learn
                from them; needs ``validation``.
            networks: Which network each graph is a variant of, for the training graphs and for
                those of ``validation``. Used by predictors that learn how variants differ; needs
                ``validation``.

        Returns:
            This regressor.

        Raises:
            ConfigError: A label is no latency, or the lengths differ.
            GraphError: A graph is impossible or has dimensions unknown until run time.
        """
        train = LabelledGraphs(tuple(graphs), latency_s)
        if validation is None:
            return self.fit_labels(*self._hold_out(train))
        own, of_held = networks or ((), ())
        train = replace(train, kernels=tuple(kernels or ()), networks=tuple(own))
        held = LabelledGraphs(tuple(validation[0]), validation[1], networks=tuple(of_held))
        return self.fit_labels(train, held)

    def fit_labels(self, train: LabelledGraphs, validation: LabelledGraphs) -> Self:
        """Learns from measured networks with all that is known of them, as `fit` does.

        Args:
            train: The networks to learn from.
            validation: Networks for early stopping and for the interval.

        Raises:
            GraphError: A graph is impossible or has dimensions unknown until run time.
        """
        for graph in train.graphs:
            graph.require_static()
            graph.require_plausible()
        self.calibration = None
        self._fit_labels(train, validation)
        predicted = self.predict(validation.graphs)
        self.interval = Interval.from_residuals(np.log(validation.latency_s / predicted))
        self.card["trained_on"] = len(train)
        self.card["validation"] = json_numbers(evaluate(predicted, validation.latency_s).to_dict())
        return self

    def predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds of each network, float64 [G].

        Raises:
            CheckpointError: The regressor was neither fitted nor loaded.
            GraphError: A graph is impossible (see `OpGraph.require_plausible`), has dimensions
                unknown until run time, or attributes that the predictor cannot read.
        """
        self.require_fitted("fit or load")
        if not graphs:
            return np.zeros(0)
        for graph in graphs:
            graph.require_static()
            graph.require_plausible()
        try:
            latency = self._predict(graphs)
            latency = self.calibration.apply(graphs, latency) if self.calibration else latency
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise GraphError(
                f"the {self.name} predictor cannot read the graph's attributes "
                f"({type(error).__name__}: {error}); export the model again with "
                "`tvm-costmodel export`"
            ) from error
        possible = (latency > SHORTEST_S) & (latency < LONGEST_S)
        if not np.all(possible):
            worst = latency[~possible][0]
            raise CheckpointError(
                f"the {self.name} predictor answers {worst:g} s, which is no latency: its "
                "checkpoint is damaged, or the graph is unlike all that it learned from; take "
                "another predictor, or train again with `tvm-costmodel train`"
            )
        return latency

    def _entries(self) -> dict[str, Any]:
        return {
            "interval": asdict(self.interval) if self.interval else None,
            "calibration": self.calibration.to_dict() if self.calibration else None,
        }

    @classmethod
    def _of_card(cls, folder: Path, card: Card) -> Self:
        require_sizes(card["model"], folder / card["weights"]["file"], _NO_SIZES)
        regressor = cls._read(folder, card["model"])
        interval, calibration = card["interval"], card.get("calibration")
        regressor.interval = Interval.from_card(interval) if interval else None
        regressor.calibration = Calibration.from_dict(calibration) if calibration else None
        return regressor

    def per_operator(self, graph: OpGraph) -> np.ndarray | None:
        """Each operator's share of the predicted latency, where the predictor has shares.

        Returns:
            Seconds, float64 [N], which sum to the prediction; None when it predicts only the
            whole network.
        """
        return None

    def bounds(self, latency_s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper seconds around predictions; NaN when there is no interval."""
        low = self.interval.low if self.interval else math.nan
        high = self.interval.high if self.interval else math.nan
        return np.minimum(latency_s, latency_s * low), np.maximum(latency_s, latency_s * high)

    def _hold_out(self, labels: LabelledGraphs) -> tuple[LabelledGraphs, LabelledGraphs]:
        """Splits off a tenth of the networks; with few networks both sides are all of them."""
        if len(labels) < 20:
            return labels, labels
        hashes = sorted({graph.hash for graph in labels.graphs})
        order = np.random.default_rng(getattr(self, "seed", 0)).permutation(len(hashes))
        held_hashes = {hashes[int(i)] for i in order[: max(1, len(hashes) // 10)]}
        inside = np.array([graph.hash in held_hashes for graph in labels.graphs])
        return labels.subset(np.flatnonzero(~inside)), labels.subset(np.flatnonzero(inside))

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        """Learns from checked labels; ``held`` are the validation networks."""
        self._fit(train.graphs, train.latency_s, held.graphs, held.latency_s)

    def _fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        held: Sequence[OpGraph],
        held_latency_s: np.ndarray,
    ) -> None:
        """What `_fit_labels` calls unless a predictor replaces it: graphs and seconds alone."""
        raise NotImplementedError(f"{type(self).__name__} has neither _fit nor _fit_labels")

    @abstractmethod
    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds of at least one graph."""

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """The regressor that `_describe` and `_write` recorded."""


def json_numbers(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN."""
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}
