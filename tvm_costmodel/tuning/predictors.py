"""What may score candidates: a checkpoint by name or path, a predictor, or chance."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tvm_costmodel.tuning.candidate import Candidate

if TYPE_CHECKING:
    from tvm_costmodel.predictor import Predictor
    from tvm_costmodel.profiling.devices import Device
    from tvm_costmodel.tuning.scoring import Scorer, Scores
    from tvm_costmodel.tuning.space import DecisionSpace

logger = logging.getLogger(__name__)

RANDOM = "random"
"""In place of a predictor's name: candidates are ranked by chance, to compare with."""


class ChanceScorer:
    """Ranks candidates by chance, the same way each time.

    Args:
        seed: Of the order.
    """

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def score(self, candidates: Sequence[Candidate]) -> Scores:
        """Latencies between half a second and a second and a half; one of the default."""
        from tvm_costmodel.tuning.scoring import Scores

        drawn = [self._draw(candidate) for candidate in candidates]
        return Scores(np.array(drawn), np.zeros(len(drawn)))

    def _draw(self, candidate: Candidate) -> float:
        if not candidate.decided:
            return 1.0
        digest = hashlib.blake2b(f"{self._seed}{candidate.key}".encode(), digest_size=8).digest()
        return 0.5 + int.from_bytes(digest, "big") / 2**64

    def learn(self, candidates: Sequence[Candidate], ratios: Sequence[float]) -> None:
        """Chance learns nothing."""

    def best_values(
        self, candidates: Sequence[Candidate], decisions: Sequence[str] | None = None
    ) -> list[Candidate] | None:
        """Chance knows no optima."""
        return None


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
        space: What will be scored.
        device: What is tuned for.
        seed: Of ``random``.

    Raises:
        CheckpointError: There is no such checkpoint, or it is for another device.
    """
    from tvm_costmodel.training.registry import DECIDED_OF
    from tvm_costmodel.tuning.scoring import scorer_for

    if isinstance(predictor, str) and predictor == RANDOM:
        return ChanceScorer(seed), RANDOM
    if predictor is None or isinstance(predictor, str | os.PathLike):
        loaded = _load(predictor, device, DECIDED_OF[space.compiler])
        return scorer_for(loaded, space), loaded.name
    name = str(getattr(predictor, "name", type(predictor).__name__))
    if not hasattr(predictor, "predict"):
        return cast("Scorer", predictor), name
    asked = cast("Predictor", predictor)
    if getattr(asked, "device", "") not in ("", device.name):
        logger.warning("%s learned from %s, not %s", name, asked.device, device.name)
    return scorer_for(asked, space), name


def _load(name: str | os.PathLike[str] | None, device: Device, decided: Sequence[str]) -> Predictor:
    """A checkpoint by a user's name of it; ``decided`` reads what the compiler decides."""
    from tvm_costmodel.predictor import load_predictor
    from tvm_costmodel.training.registry import REGISTRY

    if name is None:
        return load_predictor(device.name, decided[0], device=device.name)
    chosen = os.fspath(name)
    meant = (chosen, f"{chosen}_decided", f"relay_{chosen}")  # where variants are told apart
    chosen = next((known for known in meant if known in decided), chosen)
    if chosen in REGISTRY and not Path(chosen).is_dir():
        return load_predictor(device.name, chosen, device=device.name)
    return load_predictor(chosen, device=device.name)
