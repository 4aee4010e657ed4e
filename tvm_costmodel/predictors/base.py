"""Base class of predictors: a regressor from graphs to seconds with scikit-learn's interface."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tvm_costmodel.errors import CheckpointError, CostModelError, GraphError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.checkpoint import Export, read_card, write_checkpoint
from tvm_costmodel.predictors.conformal import Interval
from tvm_costmodel.predictors.latency_correction import Calibration
from tvm_costmodel.training.dataset import Kernels, check_labels
from tvm_costmodel.training.metrics import evaluate

if TYPE_CHECKING:
    from typing_extensions import Self

LONGEST_S = 1e7
"""Longest answer, a third of a year: beyond it is no latency of one pass."""

Labelled = tuple[Sequence[OpGraph], np.ndarray]


class Regressor(ABC):
    """Predicts the latency of whole networks.

    The constructor only stores its settings; `fit` learns and returns the regressor; `predict`
    takes a list and is fastest on long lists; `save` and `load` use a checkpoint directory.

    Attributes:
        name: Name in the registry and in checkpoints.
        interval: Set by `fit`; None before.
        card: The checkpoint's record of the training (device, training set, metrics).
        calibration: Correction for another device than the one it was trained for.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.interval: Interval | None = None
        self._kernels: Sequence[Kernels] | None = None
        self._networks: tuple[Sequence[str], Sequence[str]] | None = None
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
        latency = check_labels(graphs, latency_s)
        for graph in graphs:
            graph.require_static()
            graph.require_plausible()
        self.calibration = None
        if validation is None:
            (graphs, latency), (held_out, held_out_s) = self._hold_out(graphs, latency)
        else:
            held_out, held_out_s = validation[0], check_labels(*validation)
        self._kernels = kernels if validation is not None else None
        self._networks = networks if validation is not None else None
        self._fit(graphs, latency, held_out, held_out_s)
        self._kernels = self._networks = None
        predicted = self.predict(held_out)
        self.interval = Interval.from_residuals(np.log(held_out_s / predicted))
        self.card["trained_on"] = len(graphs)
        self.card["validation"] = json_numbers(evaluate(predicted, held_out_s).to_dict())
        return self

    def predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds of each network, float64 [G].

        Raises:
            CheckpointError: The regressor was neither fitted nor loaded.
            GraphError: A graph is impossible (see `OpGraph.require_plausible`), has dimensions
                unknown until run time, or attributes that the predictor cannot read.
        """
        if not self._is_fitted():
            raise CheckpointError(f"this {self.name} predictor is not trained: call fit or load")
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
        if not np.all((latency > 0) & (latency < LONGEST_S)):
            worst = latency[~((latency > 0) & (latency < LONGEST_S))][0]
            raise CheckpointError(
                f"the {self.name} predictor answers {worst:g} s, which is no latency: its "
                "checkpoint is damaged, or the graph is unlike all that it learned from; take "
                "another predictor, or train again with `tvm-costmodel train`"
            )
        return latency

    def save(self, directory: str | Path) -> Path:
        """Writes a checkpoint directory, whole or not at all.

        Raises:
            CheckpointError: Not fitted, or the directory holds something else.
        """
        if not self._is_fitted():
            raise CheckpointError(f"this {self.name} predictor is not trained: call fit first")
        card = {
            "predictor": self.name,
            "label_unit": "s",
            "interval": asdict(self.interval) if self.interval else None,
            "calibration": self.calibration.to_dict() if self.calibration else None,
            **self.card,
            "model": self._describe(),
        }
        return write_checkpoint(directory, card, self._write, self._export())

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: Missing, damaged, foreign, or of another version or vocabulary.
        """
        card = read_card(directory, cls.name)
        try:
            regressor = cls._read(Path(directory), card["model"])
            interval = card["interval"]
            regressor.interval = Interval.from_card(interval) if interval else None
            calibration = card.get("calibration")
            regressor.calibration = Calibration.from_dict(calibration) if calibration else None
        except CostModelError:
            raise
        except Exception as error:  # weights of other shapes and types raise many kinds
            raise CheckpointError(
                f"{directory} does not hold a {cls.name} predictor of this version "
                f"({type(error).__name__}: {error}): train it again with `tvm-costmodel train`"
            ) from error
        model_keys = {
            "format",
            "format_version",
            "predictor",
            "label_unit",
            "interval",
            "calibration",
        }
        skip = model_keys | {"model", "weights", "onnx"}
        regressor.card = {key: value for key, value in card.items() if key not in skip}
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

    def _hold_out(
        self, graphs: Sequence[OpGraph], latency: np.ndarray
    ) -> tuple[Labelled, Labelled]:
        """Splits off a tenth of the networks; with few networks both sides are all of them."""
        if len(graphs) < 20:
            return (graphs, latency), (graphs, latency)
        hashes = sorted({graph.hash for graph in graphs})
        order = np.random.default_rng(getattr(self, "seed", 0)).permutation(len(hashes))
        held_hashes = {hashes[int(i)] for i in order[: max(1, len(hashes) // 10)]}
        inside = np.array([graph.hash in held_hashes for graph in graphs])
        sides = []
        for mask in (~inside, inside):
            at = [int(i) for i in np.flatnonzero(mask)]
            sides.append(([graphs[i] for i in at], latency[at]))
        return sides[0], sides[1]

    @abstractmethod
    def _fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        held: Sequence[OpGraph],
        held_latency_s: np.ndarray,
    ) -> None:
        """Learns from checked labels; ``held`` are the validation networks."""

    @abstractmethod
    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds of at least one graph."""

    @abstractmethod
    def _is_fitted(self) -> bool:
        """Whether there is something to predict with."""

    @abstractmethod
    def _describe(self) -> Mapping[str, Any]:
        """JSON values from which `_read` makes an equal regressor, without its weights."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Writes the one file of weights."""

    def _export(self) -> Export | None:
        """The network in ONNX to store in the checkpoint together with the weights, if any."""
        return None

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """The regressor that `_describe` and `_write` recorded."""


def json_numbers(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN."""
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}
