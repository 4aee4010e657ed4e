"""Published networks on operator tokens as regressors: tokenizer, network and training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.layers import with_weights
from tvm_costmodel.models.nar_former_networks import NarFormerNetworks, NarFormerNetworksConfig
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.models.nn_former_networks import NnFormerNetworks, NnFormerNetworksConfig
from tvm_costmodel.models.nnlp import Nnlp, NnlpConfig
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.flops import fit_power_law, log_power_law
from tvm_costmodel.tokenizer import TokenArrays, Tokenizer, TokenizerConfig
from tvm_costmodel.tokenizer.nar_former import TunedTokenizer
from tvm_costmodel.tokenizer.nnlp import NnlpTokenizer
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.early_stopping import Progress
from tvm_costmodel.training.trainer import EncodedSet, Trainer, TrainingConfig, answers

if TYPE_CHECKING:
    from typing_extensions import Self

_CHUNK = 32  # graphs that are encoded while the network computes the previous chunk
WEIGHTS = "model.safetensors"


class NetworkRegressor(Regressor):
    """A network of tokens and edges on whole networks, with its tokenizer and training loop.

    With the unit ``power_law`` the network's answer is a factor on the power law of
    `FlopsRegressor`; with ``ms`` it is in milliseconds. Before training, the last bias is set so
    that the network initially answers `best_constant`.

    Args:
        training: The recipe; the class's `recipe` by default.
        model: Shape of the network; published values by default.
        device: ``cpu`` or ``cuda``.
        state_dir: Directory for the training state after every epoch; not kept when not given.
        resume: Resume from the state in ``state_dir`` when there is one.

    Attributes:
        recipe: Default training recipe.
        tokenizer_class: Class of its tokenizer.
        network_class: ``network_class(config)`` is the network (see `NarFormerV2`).
        config_class: Shape of the network, a dataclass of JSON values.
        shape_settings: Its fields that `build_regressor` takes as settings.
    """

    recipe: ClassVar[TrainingConfig]
    tokenizer_class: ClassVar[type[Tokenizer]]
    network_class: ClassVar[Any]
    config_class: ClassVar[Any]
    shape_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        training: TrainingConfig | None = None,
        model: Any = None,
        device: str = "cpu",
        state_dir: str | Path | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__()
        self.training = training or self.recipe
        self.model = model or self.config_class()
        self.device = device
        self.state_dir = Path(state_dir) if state_dir else None
        self.resume = resume
        self.tokenizer = self.tokenizer_class()
        self.network: Any = None
        self.progress: Progress | None = None
        self.unit = self.training.unit
        self.power_law = np.zeros(3)

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.training.seed

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            network = self.network_class(self.model)
        self.unit, self.power_law = self.training.unit, fit_power_law(train.graphs, train.latency_s)
        encoded = self._encode(train.graphs, train.latency_s)
        validation = self._encode(held.graphs, held.latency_s)
        network.set_output_level(best_constant(encoded.labels))
        network.to(self.device)
        state = (self.state_dir, self.resume)
        trainer = Trainer(network, self.training, encoded, validation, *state)
        self.progress = trainer.run()
        self.network = network
        self.card["training"] = {
            **asdict(self.training),
            "epochs_run": len(self.progress.history),
            "best_epoch": int(self.progress.best_epoch[0]),
        }

    def _encode(self, graphs: Sequence[OpGraph], latency_s: np.ndarray) -> EncodedSet:
        tokens = [self.tokenizer.encode(graph) for graph in graphs]
        return EncodedSet(tokens, latency_s / self._unit_s(graphs))

    def _unit_s(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Seconds that an answer of 1 stands for, by network, float64 [G]."""
        if self.unit == "ms":
            return np.full(len(graphs), 1e-3)
        unit: np.ndarray = np.exp(log_power_law(graphs, self.power_law))
        return unit

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        parts = [answers(self.network, tokens) for tokens in self._encode_ahead(graphs)]
        seconds: np.ndarray = np.concatenate(parts) * self._unit_s(graphs)
        return seconds

    def _encode_ahead(self, graphs: Sequence[OpGraph]) -> Iterator[list[TokenArrays]]:
        """Chunks of tokens; the next one is encoded while the caller works on the current one."""

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
            "output": {"unit": self.unit, "power_law": self.power_law.tolist()},
        }

    def _write(self, folder: Path) -> None:
        weights = {
            name: value.cpu().contiguous() for name, value in self.network.state_dict().items()
        }
        write_atomically(folder / WEIGHTS, save_tensors(weights))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        regressor = cls(model=cls.config_class(**description["network"]))
        regressor.tokenizer = cls.tokenizer_class.from_description(description["tokenizer"])
        regressor.unit = description["output"]["unit"]
        regressor.power_law = np.array(description["output"]["power_law"], dtype=np.float64)
        make = partial(cls.network_class, regressor.model)
        regressor.network = with_weights(make, load_file(folder / WEIGHTS))
        return regressor


class NarFormerV2Regressor(NetworkRegressor):
    """NAR-Former V2 (NeurIPS 2023, arXiv 2306.10792), answering in multiples of a power law.

    The network is the published one; its output unit is not, because latencies here span four
    decades, from tens of microseconds to hundreds of milliseconds.
    """

    name = "nar_former_v2"
    recipe = TrainingConfig()
    tokenizer_class = Tokenizer
    network_class = NarFormerV2
    config_class: ClassVar[Callable[..., NarFormerV2Config]] = NarFormerV2Config


class PublishedNarFormerV2Regressor(NarFormerV2Regressor):
    """NAR-Former V2 as published, answering in milliseconds."""

    name = "nar_former_v2_published"
    recipe = TrainingConfig(unit="ms")


class TunedNarFormerV2Regressor(NarFormerV2Regressor):
    """NAR-Former V2 on annotated graphs: its tokens also hold the tuning decisions."""

    name = "nar_former_v2_kernel"
    tokenizer_class = TunedTokenizer
    config_class = staticmethod(
        partial(NarFormerV2Config, token_channels=TokenizerConfig(attributes=14).channels)
    )


def best_constant(latency: np.ndarray) -> float:
    """The constant that minimises ``mean((p / y - 1)^2)``: mean of 1/y over mean of 1/y^2.

    Starting higher, at the median say, makes the smallest networks' errors so large that the
    first steps do nothing but lower every prediction.
    """
    inverse = 1.0 / np.asarray(latency, dtype=np.float64)
    return float(inverse.mean() / (inverse**2).mean())


class NnFormerRegressor(NetworkRegressor):
    """NN-Former (CVPR 2025), answering in multiples of a power law."""

    name = "nn_former"
    recipe = TrainingConfig()
    tokenizer_class = Tokenizer
    network_class = NnFormerNetworks
    config_class = NnFormerNetworksConfig
    shape_settings = ("channels", "blocks")


class NarFormerRegressor(NetworkRegressor):
    """NAR-Former (CVPR 2023), answering in multiples of a power law.

    Tokens have as many frequencies as the network's shape says.
    """

    name = "nar_former"
    recipe = TrainingConfig(learning_rate=3e-4)
    tokenizer_class = Tokenizer
    network_class = NarFormerNetworks
    config_class = NarFormerNetworksConfig
    shape_settings = ("hidden", "blocks", "frequencies")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = Tokenizer(TokenizerConfig(frequencies=self.model.frequencies))


class NnlpRegressor(NetworkRegressor):
    """NNLP, the GraphSAGE predictor of NNLQP (ICPP 2022), answering in milliseconds."""

    name = "nnlp"
    recipe = TrainingConfig(unit="ms")
    tokenizer_class = NnlpTokenizer
    network_class = Nnlp
    config_class = NnlpConfig
