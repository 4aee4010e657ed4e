"""NAR-Former V2 as a regressor: tokenizer, network and training loop behind fit and predict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.tokenizer import TokenArrays, Tokenizer
from tvm_costmodel.training.loop import EncodedSet, Progress, Trainer, TrainingConfig, predict_ms
from tvm_costmodel.training.regressor import Regressor

_CHUNK = 32  # graphs that are encoded while the network computes the chunk before
WEIGHTS = "model.safetensors"


class NarFormerV2Regressor(Regressor):
    """NAR-Former V2 (arXiv 2306.10792) on whole networks.

    The network answers in milliseconds, as published; before training, its last bias is set so
    that it starts at `best_constant`.

    Args:
        training: The recipe; published values by default.
        model: Shape of the network; published values by default.
        device: ``cpu`` or ``cuda``.
        state_dir: Where training keeps its state after every epoch; nowhere when not given.
        resume: Go on from the state in ``state_dir`` when there is one.
    """

    name = "nar_former_v2"

    def __init__(
        self,
        training: TrainingConfig | None = None,
        model: NarFormerV2Config | None = None,
        device: str = "cpu",
        state_dir: str | Path | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__()
        self.training = training or TrainingConfig()
        self.model = model or NarFormerV2Config()
        self.device = device
        self.state_dir = Path(state_dir) if state_dir else None
        self.resume = resume
        self.tokenizer = Tokenizer()
        self.network: NarFormerV2 | None = None
        self.progress = Progress()

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.training.seed

    def _fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        held: Sequence[OpGraph],
        held_latency_s: np.ndarray,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            network = NarFormerV2(self.model)
        network.set_output_level(best_constant(latency_s) * 1e3)
        train = EncodedSet([self.tokenizer.encode(graph) for graph in graphs], latency_s * 1e3)
        validation = EncodedSet([self.tokenizer.encode(g) for g in held], held_latency_s * 1e3)
        trainer = Trainer(
            network.to(self.device), self.training, train, validation, self.state_dir, self.resume
        )
        self.progress = trainer.run()
        self.network = network
        self.card["training"] = {
            **asdict(self.training),
            "epochs_run": self.progress.epoch,
            "best_epoch": self.progress.best_epoch,
        }

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        assert self.network is not None
        parts = [predict_ms(self.network, tokens) for tokens in self._encode_ahead(graphs)]
        return np.concatenate(parts) / 1e3

    def _encode_ahead(self, graphs: Sequence[OpGraph]) -> Iterator[list[TokenArrays]]:
        """Chunks of tokens; the next one is encoded while the caller works on the last."""

        def encode(start: int) -> list[TokenArrays]:
            return [self.tokenizer.encode(graph) for graph in graphs[start : start + _CHUNK]]

        if len(graphs) <= _CHUNK:
            yield encode(0)
            return
        with ThreadPoolExecutor(max_workers=1) as pool:
            ahead = pool.submit(encode, 0)
            for start in range(_CHUNK, len(graphs) + _CHUNK, _CHUNK):
                tokens = ahead.result()
                if start < len(graphs):
                    ahead = pool.submit(encode, start)
                yield tokens

    def _is_fitted(self) -> bool:
        return self.network is not None

    def _describe(self) -> Mapping[str, Any]:
        return {
            "tokenizer": self.tokenizer.describe(),
            "network": asdict(self.model),
            "output_unit": "ms",
        }

    def _write(self, folder: Path) -> None:
        assert self.network is not None
        weights = {
            name: value.cpu().contiguous() for name, value in self.network.state_dict().items()
        }
        save_file(weights, folder / WEIGHTS)

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> NarFormerV2Regressor:
        tokenizer = Tokenizer.from_description(description["tokenizer"])
        regressor = cls(model=NarFormerV2Config(**description["network"]))
        regressor.tokenizer = tokenizer
        network = NarFormerV2(regressor.model)
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (RuntimeError, SafetensorError, OSError) as error:
            raise CheckpointError(
                f"the weights in {folder} do not fit the network that its card describes "
                f"({str(error).splitlines()[0]}): train it again with `tvm-costmodel train`"
            ) from error
        network.eval()
        regressor.network = network
        return regressor


def best_constant(latency: np.ndarray) -> float:
    """The constant that minimises ``mean((p / y - 1)^2)``: mean of 1/y over mean of 1/y^2.

    Starting higher, at the median say, makes the smallest networks' errors so large that the
    first steps do nothing but lower every prediction.
    """
    inverse = 1.0 / np.asarray(latency, dtype=np.float64)
    return float(inverse.mean() / (inverse**2).mean())
