"""What every predictor is: a regressor from graphs to seconds, in scikit-learn's manners."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.training.calibration import Calibration
from tvm_costmodel.training.checkpoint import Export, read_card, write_checkpoint
from tvm_costmodel.training.labels import Kernels, check_labels
from tvm_costmodel.training.metrics import evaluate

if TYPE_CHECKING:
    from typing_extensions import Self

Labelled = tuple[Sequence[OpGraph], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """Split-conformal interval of a latency, as factors on the prediction.

    With ``n`` validation networks that are like the ones to come, the interval holds the measured
    latency in at least ``coverage`` of them (Vovk et al.; Lei et al., JASA 2018), a little less
    where validation also chose the epoch.

    Attributes:
        low: Factor of the lower end.
        high: Factor of the upper end.
        coverage: Share of networks that shall lie inside.
        n: Validation networks behind it.
    """

    low: float
    high: float
    coverage: float
    n: int

    @classmethod
    def from_residuals(cls, log_ratio: np.ndarray, coverage: float = 0.9) -> Interval:
        """Quantiles of ``log(measured / predicted)`` with the finite-sample correction."""
        ordered = np.sort(np.asarray(log_ratio, float))
        count = len(ordered)
        tail = (1.0 - coverage) / 2.0
        low = max(0, math.floor(tail * (count + 1)) - 1)
        high = min(count - 1, math.ceil((1.0 - tail) * (count + 1)) - 1)
        return cls(math.exp(ordered[low]), math.exp(ordered[high]), coverage, count)


class Regressor(ABC):
    """Latency of whole networks.

    The constructor only stores its settings; `fit` learns and returns the regressor; `predict`
    takes a list and is fastest on long ones; `save` and `load` go through a checkpoint directory.

    Attributes:
        name: Name in the registry and in checkpoints.
        interval: Set by `fit`; None before.
        card: What the checkpoint says about its training (device, training set, metrics).
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
                the training networks, chosen by the seed, when not given.
            kernels: Measured kernels of each training network, for predictors that learn from
                them too; needs ``validation``.
            networks: Which network each graph is a variant of, those to learn from and those of
                ``validation``, for predictors that learn how variants differ; needs
                ``validation``.

        Returns:
            This regressor.

        Raises:
            ConfigError: A label is not positive and finite, or the lengths differ.
            GraphError: A graph has dimensions unknown until run time.
        """
        latency = check_labels(graphs, latency_s)
        self.calibration = None
        if validation is None:
            (graphs, latency), (held, held_latency) = self._hold_out(graphs, latency)
        else:
            held, held_latency = validation[0], check_labels(*validation)
        self._kernels = kernels if validation is not None else None
        self._networks = networks if validation is not None else None
        self._fit(graphs, latency, held, held_latency)
        self._kernels = self._networks = None
        predicted = self.predict(held)
        self.interval = Interval.from_residuals(np.log(held_latency / predicted))
        self.card["trained_on"] = len(graphs)
        self.card["validation"] = json_numbers(evaluate(predicted, held_latency).to_dict())
        return self

    def predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds of each network, float64 [G].

        Raises:
            CheckpointError: The regressor was neither fitted nor loaded.
            GraphError: A graph is empty or has dimensions unknown until run time.
        """
        if not self._is_fitted():
            raise CheckpointError(f"this {self.name} predictor is not trained: call fit or load")
        if not graphs:
            return np.zeros(0)
        latency = self._predict(graphs)
        return self.calibration.apply(graphs, latency) if self.calibration else latency

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
            regressor.interval = Interval(**interval) if interval else None
            calibration = card.get("calibration")
            regressor.calibration = Calibration.from_dict(calibration) if calibration else None
        except (KeyError, TypeError, ValueError) as error:
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
        """Each operator's share of the predicted latency, where the predictor tells.

        Returns:
            Seconds, float64 [N], which sum to the prediction; None when it knows the whole alone.
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
        """A tenth of the networks, equal graphs on one side; all of them when there are few."""
        if len(graphs) < 20:
            return (graphs, latency), (graphs, latency)
        hashes = sorted({graph.hash for graph in graphs})
        order = np.random.default_rng(getattr(self, "seed", 0)).permutation(len(hashes))
        held = {hashes[int(i)] for i in order[: max(1, len(hashes) // 10)]}
        inside = np.array([graph.hash in held for graph in graphs])
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
        """Learns; labels are checked."""

    @abstractmethod
    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds of at least one graph."""

    @abstractmethod
    def _is_fitted(self) -> bool:
        """Whether there is something to predict with."""

    @abstractmethod
    def _describe(self) -> Mapping[str, Any]:
        """JSON values from which `_read` makes an equal regressor, weights apart."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Writes the one file of weights."""

    def _export(self) -> Export | None:
        """The network in ONNX that a checkpoint shall hold beside the weights."""
        return None

    @classmethod
    @abstractmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        """The regressor that `_describe` and `_write` recorded."""


def json_numbers(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers for JSON, which has no NaN."""
    return {key: value if math.isfinite(value) else None for key, value in numbers.items()}
