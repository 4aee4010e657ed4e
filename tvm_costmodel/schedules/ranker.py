"""The schedule model: a Transformer trained on earlier tasks, corrected by a search's measurements.

A Transformer (`numpy_transformer`) learns from logs of earlier tasks to predict the time of
statements from their features. A Gaussian process (`task_gp`) learns the task that is searched from
its own measurements, and how far the Transformer can be trusted on it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tvm_costmodel.bounded_reading import require_sizes
from tvm_costmodel.errors import CheckpointError, ConfigError
from tvm_costmodel.schedules.numpy_layers import Weights
from tvm_costmodel.schedules.numpy_transformer import HEADS, Batch, forward, initial_weights, pad
from tvm_costmodel.schedules.rank_loss import ranking_loss
from tvm_costmodel.schedules.statement_features import (
    FEATURES,
    Features,
    checked,
    log_roofline,
    log_seconds,
    lowered,
)
from tvm_costmodel.schedules.task_gp import TaskGP

FORMAT = "schedule_ranker/1"
_CHUNK = 512
"""Candidates of one forward pass."""

_CLIP = 8.0


@dataclass(frozen=True)
class RankerConfig:
    """Size of the model, and how it is trained.

    Attributes:
        width: Channels of the Transformer; a multiple of 4.
        members: Transformers in the ensemble, each of which weighs the candidates a little
            differently.
        steps: Training steps over the logs of earlier tasks.
        batch: Candidates in a step, all of one task.
        learning_rate: Learning rate of Adam, which falls to zero along a cosine.
        regression: Weight of the squared error of log seconds, which is added to the ranking loss.
        trust: How readily the Transformer's order is followed on a new task.
        boldness: Standard deviations that are added to a score: above 0, uncertain candidates are
            tried sooner.
    """

    width: int = 32
    members: int = 3
    steps: int = 300
    batch: int = 64
    learning_rate: float = 2e-3
    regression: float = 0.3
    trust: float = 0.3
    boldness: float = 0.3

    def __post_init__(self) -> None:
        if self.width < HEADS or self.width % HEADS:
            raise ConfigError(f"width is {self.width}; use a positive multiple of {HEADS}")
        for name in ("members", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; use 1 or more")


class MeasuredTask(NamedTuple):
    """Measured candidates of one task.

    Attributes:
        features: Features of each candidate, [S, 164].
        seconds: Seconds of each candidate; infinity where it failed.
    """

    features: Sequence[Features]
    seconds: Sequence[float]


class ScheduleRanker:
    """Ranks the schedule candidates of a task, from TVM's features of their statements.

    Scores are comparable within a task only: higher is faster.

    Args:
        config: Size of the model, and how it is trained.
        seed: Seed of weights, of the members' weighting and of the order of training.
    """

    def __init__(self, config: RankerConfig | None = None, seed: int = 0) -> None:
        self.config = config or RankerConfig()
        self.seed = seed
        self._weights: Weights | None = None
        self._mean = np.zeros(FEATURES, np.float32)
        self._scale = np.ones(FEATURES, np.float32)
        self._posterior: TaskGP | None = None

    @property
    def is_ready(self) -> bool:
        """Whether it has learned from anything yet."""
        return self._weights is not None or self._posterior is not None

    def pretrain(self, tasks: Sequence[MeasuredTask]) -> ScheduleRanker:
        """Learns what is common to earlier tasks, and forgets what `fit` learned.

        Args:
            tasks: Logs, one entry for each task.

        Raises:
            ConfigError: No task has two candidates, or features have another shape.
            MeasurementError: A time is impossible, or all candidates of a task failed.
        """
        usable = [task for task in tasks if len(task.seconds) > 1]
        if not usable:
            raise ConfigError("no task to learn from has two candidates or more; add logs")
        rows = np.concatenate([one for task in usable for one in checked(task.features)])
        self._mean, self._scale = rows.mean(0), 1 / (rows.std(0) + 0.1)
        self._weights, self._posterior = self._train(usable), None
        return self

    def fit(self, task: MeasuredTask) -> ScheduleRanker:
        """Learns a task anew from all of its measurements.

        Raises:
            ConfigError: There are fewer than two candidates, or features have another shape.
            MeasurementError: A time is impossible, or all candidates failed.
        """
        if len(task.seconds) < 2:
            raise ConfigError(f"{len(task.seconds)} measured candidates; an order needs 2 or more")
        features = checked(task.features)
        self._posterior = TaskGP(
            features, log_seconds(task.seconds), self._prior(features), self.config.trust
        )
        return self

    def predict(self, candidates: Sequence[Features]) -> NDArray[np.float32]:
        """Scores candidates, [B]; minus infinity for those that TVM could not lower.

        Raises:
            ConfigError: It has learned nothing yet, or features have another shape.
        """
        if not self.is_ready:
            raise ConfigError("the model has learned nothing yet: call pretrain() or fit()")
        features = checked(candidates)
        scores = np.full(len(features), -np.inf, np.float32)
        good = [row for row, one in enumerate(features) if lowered(one)]
        for begin in range(0, len(good), _CHUNK):
            rows = good[begin : begin + _CHUNK]
            scores[rows] = self._score([features[row] for row in rows])
        return scores

    def statement_log_seconds(
        self, candidate: Features, score: float | None = None
    ) -> NDArray[np.float32]:
        """Log of the seconds of each statement, [S]; together they make up the candidate's score.

        Args:
            candidate: Its features.
            score: Its score by `predict`; computed when not given.

        Raises:
            ConfigError: As `predict`.
        """
        if score is None:
            score = self.predict([candidate])[0]
        features = checked([candidate])
        parts: NDArray[np.float32] = log_roofline(features[0])
        if self._weights is not None:
            parts = forward(self._weights, self._batch(features), {})[1].mean(0)[0]
        attributed: NDArray[np.float32] = parts - np.logaddexp.reduce(parts) - score
        return attributed

    def _score(self, features: Sequence[Features]) -> NDArray[np.float32]:
        prior = self._prior(features)
        if self._posterior is None:
            assert prior is not None
            return -prior
        mean, spread = self._posterior.predict(features, prior)
        return (self.config.boldness * spread - mean).astype(np.float32)

    def _prior(self, features: Sequence[Features]) -> NDArray[np.float32] | None:
        """Log seconds by the Transformer, [B]; None where there were no earlier tasks."""
        if self._weights is None:
            return None
        members = forward(self._weights, self._batch(features), {})[0]
        log_seconds: NDArray[np.float32] = members.mean(0)
        return log_seconds

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the weights from `pretrain` as a safetensors file.

        Raises:
            CheckpointError: Nothing was learned from earlier tasks.
        """
        from safetensors.numpy import save_file

        if self._weights is None:
            raise CheckpointError("nothing to save: call pretrain() with logs of earlier tasks")
        tensors = {**self._weights, "mean": self._mean, "scale": self._scale}
        metadata = {"format": FORMAT, "config": json.dumps(asdict(self.config))}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(path), metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike[str], seed: int = 0) -> ScheduleRanker:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: The file is missing, damaged or another one.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "np") as stored:
                metadata = stored.metadata() or {}
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"no model of schedules at {path}: {error}") from error
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is {metadata.get('format')!r}; wanted {FORMAT!r}")
        try:
            described = json.loads(metadata["config"])
            require_sizes(described, Path(path), ("steps", "batch"))
            ranker = cls(RankerConfig(**described), seed)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path} has a damaged config ({error}): save it again") from None
        ranker._mean, ranker._scale = tensors.pop("mean"), tensors.pop("scale")
        expected = {name: one.shape for name, one in ranker._fresh().items()}
        if {name: one.shape for name, one in tensors.items()} != expected:
            raise CheckpointError(f"{path} does not hold the weights of its config")
        ranker._weights = tensors
        return ranker

    def adopt(self, other: ScheduleRanker) -> None:
        """Takes over the weights that a ranker of the same size learned from earlier tasks.

        Raises:
            ConfigError: The networks differ in size.
        """
        if (other.config.width, other.config.members) != (self.config.width, self.config.members):
            raise ConfigError(
                f"a model of width {other.config.width} with {other.config.members} members cannot "
                f"start one of width {self.config.width} with {self.config.members}"
            )
        self._weights, self._mean, self._scale = other._weights, other._mean, other._scale

    def _fresh(self) -> Weights:
        return initial_weights(FEATURES, self.config.width, self.config.members, self.seed)

    def _batch(self, features: Sequence[Features]) -> Batch:
        level = [np.clip((one - self._mean) * self._scale, -_CLIP, _CLIP) for one in features]
        return pad(level, [log_roofline(one) for one in features])

    def _train(self, tasks: Sequence[MeasuredTask]) -> Weights:
        """Adam (Kingma and Ba, arXiv:1412.6980), a step for one task at a time."""
        rng, config = np.random.default_rng(self.seed), self.config
        weights = self._fresh()
        first = {name: np.zeros_like(one) for name, one in weights.items()}
        second = {name: np.zeros_like(one) for name, one in weights.items()}
        prepared = []
        for task in tasks:
            drawn = 0.1 + rng.exponential(size=(config.members, len(task.seconds)))
            batch = self._batch(checked(task.features))
            prepared.append((batch, log_seconds(task.seconds), drawn.astype(np.float32)))
        for step in range(1, config.steps + 1):
            batch, target, importance = prepared[step % len(prepared)]
            rows = rng.permutation(len(batch))[: config.batch]
            gradients: Weights = {}
            predicted, _, back = forward(weights, batch.take(rows), gradients)
            weight = importance[:, rows]
            back(ranking_loss(predicted, target[rows], weight, config.regression)[1])
            rate = config.learning_rate * 0.5 * (1 + np.cos(np.pi * (step - 1) / config.steps))
            rate *= np.sqrt(1 - 0.99**step) / (1 - 0.9**step)
            for name, gradient in gradients.items():
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.99 * second[name] + 0.01 * gradient**2
                move = rate * first[name] / (np.sqrt(second[name]) + 1e-8)
                weights[name] = weights[name] - move.astype(np.float32)
        return weights
