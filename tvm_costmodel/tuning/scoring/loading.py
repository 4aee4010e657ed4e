"""Loads what scores candidates: a checkpoint by name or path, a predictor, or random scores."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tvm_costmodel.tuning.space.candidate import Candidate

if TYPE_CHECKING:
    from tvm_costmodel.predictors.loading import Predictor
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.tuning.scoring.scorer import Scorer, Scores
    from tvm_costmodel.tuning.space.decision_space import DecisionSpace

logger = logging.getLogger(__name__)

RANDOM = "random"
"""In place of a predictor's name: candidates get random scores, as a baseline."""


class RandomScorer:
    """Ranks candidates in a random order, the same one each time.

    Args:
        seed: Seed of the order.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Latencies between half a second and a second and a half; one of the default."""
        from tvm_costmodel.tuning.scoring.scorer import Scores

        drawn = [self._draw(candidate) for candidate in candidates]
        return Scores(np.array(drawn), np.zeros(len(drawn)))

    def _draw(self, candidate: Candidate) -> float:
        if not candidate.entries:
            return 1.0
        digest = hashlib.blake2b(f"{self._seed}{candidate.key}".encode(), digest_size=8).digest()
        return 0.5 + int.from_bytes(digest, "big") / 2**64

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Learns nothing."""

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """None: random scores have no known optima."""
        return None


def load_predictor_of(
    predictor: Predictor | Scorer | str | os.PathLike[str] | None, compiler: str, device: Device
) -> Predictor | Scorer | str:
    """What a user means, with a checkpoint loaded; ``random`` stays as it is.

    Args:
        predictor: As for `load_scorer`.
        compiler: What compiles the network, whose decisions the predictor has to read.
        device: The device that is tuned for.

    Raises:
        CheckpointError: There is no such checkpoint, or it is for another device.
        ConfigError: The predictor does not read decisions.
    """
    from tvm_costmodel.predictors.registry import DECISION_AWARE_FOR
    from tvm_costmodel.tuning.scoring.scorer import require_decision_aware

    if isinstance(predictor, str) and predictor == RANDOM:
        return RANDOM
    if predictor is None or isinstance(predictor, str | os.PathLike):
        loaded = _load(predictor, device, DECISION_AWARE_FOR[compiler])
        require_decision_aware(loaded.name, compiler)
        return loaded
    return predictor


def load_scorer(
    predictor: Predictor | Scorer | str | os.PathLike[str] | None,
    space: DecisionSpace,
    device: Device,
    seed: int = 0,
) -> tuple[Scorer, str]:
    """The scorer that a user means, and its name.

    Args:
        predictor: A predictor or scorer; the name of a predictor that ships for the device, a
            name from the zoo or a checkpoint's directory; ``random``; None for the device's
            default predictor.
        space: The space whose candidates will be scored.
        device: The device that is tuned for.
        seed: Seed of ``random``.

    Raises:
        CheckpointError: There is no such checkpoint, or it is for another device.
        ConfigError: The predictor does not read decisions.
    """
    from tvm_costmodel.tuning.scoring.scorer import scorer_for

    meant = load_predictor_of(predictor, space.compiler, device)
    if isinstance(meant, str):
        return RandomScorer(seed), RANDOM
    name = str(getattr(meant, "name", type(meant).__name__))
    if not hasattr(meant, "predict"):
        return cast("Scorer", meant), name
    loaded = cast("Predictor", meant)
    learned, asked = (str(getattr(loaded, part, "")) for part in ("device", "asked"))
    if learned not in ("", device.name) and not asked:  # of which the loader has warned
        logger.warning("%s learned from %s, not %s", name, learned, device.name)
    return scorer_for(loaded, space), name


def _load(name: str | os.PathLike[str] | None, device: Device, aware: Sequence[str]) -> Predictor:
    """A checkpoint by a user's name; ``aware`` names predictors of the compiler's decisions."""
    from tvm_costmodel.predictors.loading import load_predictor
    from tvm_costmodel.predictors.registry import REGISTRY

    if name is None:
        return load_predictor(device.name, aware[0], device=device.name)
    chosen = os.fspath(name)
    variants = (chosen, f"{chosen}_kernel", f"relay_{chosen}")  # that read decisions
    chosen = next((known for known in variants if known in aware), chosen)
    if chosen in REGISTRY and not Path(chosen).is_dir():
        return load_predictor(device.name, chosen, device=device.name)
    return load_predictor(chosen, device=device.name)
