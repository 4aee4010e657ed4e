"""The strategies that `graph_tuning` compares: the tuner with different scorers.

Not a benchmark itself; `graph_tuning` uses it.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from tvm_costmodel.predictors.checkpoint import read_card
from tvm_costmodel.tuning.config import TuneSettings
from tvm_costmodel.tuning.scoring.loading import RANDOM

_GRAPHS = 512  # candidates that a search of whole graphs scores


def _reads_graphs(predictor: str) -> bool:
    """Whether a checkpoint's predictor has no faster way than reading annotated graphs."""
    folder = Path(predictor)
    return folder.is_dir() and read_card(folder).get("predictor") != "kernel_former"


@functools.cache
def fingerprint(predictor: str, device: str) -> str:
    """12 hexadecimal digits over a checkpoint's files; empty for what is none."""
    from tvm_costmodel.models import ZOO

    places = (Path(predictor), ZOO / predictor, ZOO / device / predictor)
    folder = next((p for p in places if p.is_dir()), None)
    if folder is None:
        return ""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Strategy:
    """A way of choosing what to measure.

    Attributes:
        name: Its name in tables.
        predictors: Names or directories, see `load_scorer`, one for each seed or one for all.
    """

    name: str
    predictors: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Strategy:
        """Reads ``NAME`` or ``NAME=PREDICTOR[,PREDICTOR...]``."""
        name, _, listed = text.partition("=")
        return cls(name, tuple(listed.split(",")) if listed else (name,))

    def predictor(self, seed: int) -> str:
        """The predictor of a seed."""
        return self.predictors[seed % len(self.predictors)]

    def settings(self, measure: int, seed: int) -> TuneSettings:
        """The tuner's own settings, except for the number of candidates that a search scores.

        The random strategy draws its candidates instead of breeding them. Predictors that read the
        whole graph of each candidate score some 50 to 150 a second, and get about the time that
        `KernelFormer` needs for its thousands.
        """
        if self.predictors == (RANDOM,):
            return TuneSettings(measure, strategy="random", candidates=_GRAPHS, seed=seed)
        if _reads_graphs(self.predictor(seed)):
            return TuneSettings(measure, candidates=_GRAPHS, seed=seed)
        return TuneSettings(measure, seed=seed)
