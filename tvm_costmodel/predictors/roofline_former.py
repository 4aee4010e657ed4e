"""`RooflineFormer` as a regressor: an ensemble of a few members that are trained together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.layers import with_weights
from tvm_costmodel.models.roofline_former import RooflineFormer, RooflineFormerConfig
from tvm_costmodel.predictors.ensemble import RooflineAnswers, member_state, stack_states
from tvm_costmodel.tokenizer.operator_features import PhysicalTokenizer, PhysicalTokens
from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.ensemble_trainer import EnsembleConfig, EnsembleTrainer
from tvm_costmodel.training.kernel_labels import kernel_targets
from tvm_costmodel.training.ragged_dataset import GraphSet

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "model.safetensors"


class RooflineFormerRegressor(RooflineAnswers):
    """Ensemble of networks with directed attention and a roofline for each operator.

    It answers with the geometric mean of its members.

    Args:
        training: The recipe; `recipe` by default.
        model: Shape of the network.
        members: Number of networks that are trained on the same labels from different weights.
        device: ``cpu`` or ``cuda``.
        state_dir: Directory for the training state after every epoch; not kept when not given.
        resume: Resume from the state in ``state_dir`` when there is one.

    Raises:
        ConfigError: Fewer than one member.
    """

    name = "roofline_former"
    tokenizer_class: ClassVar[type[PhysicalTokenizer]] = PhysicalTokenizer
    recipe: ClassVar[EnsembleConfig] = EnsembleConfig()
    config_class: ClassVar[Callable[..., RooflineFormerConfig]] = RooflineFormerConfig
    shape_settings: ClassVar[tuple[str, ...]] = tuple(
        field.name
        for field in fields(RooflineFormerConfig)
        if field.name not in ("features", "slots", "devices")  # follow from tokens and labels
    )

    def __init__(
        self,
        training: EnsembleConfig | None = None,
        model: RooflineFormerConfig | None = None,
        members: int = 3,
        device: str = "cpu",
        state_dir: str | Path | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__()
        if members < 1:
            raise ConfigError(f"members {members} must be at least 1")
        self.training = training or self.recipe
        self.model = model or self.config_class()
        self.members, self.device = members, device
        self.state_dir = Path(state_dir) if state_dir else None
        self.resume = resume
        self.tokenizer = self.tokenizer_class()
        self.networks: list[RooflineFormer] = []

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.training.seed

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        graphs = (*train.graphs, *held.graphs)
        tokens = [self.tokenizer.encode(graph) for graph in graphs]
        latency_ms = np.concatenate([train.latency_s, held.latency_s])[:, None] * 1e3
        learns = np.tile(np.arange(len(tokens)) < len(train), (self.members, 1))
        networks = self._new_networks(train.graphs, train.latency_s)
        targets = None
        if train.kernels and self.training.kernels:  # held-out networks get none
            kernels = (*train.kernels, *[()] * len(held))
            targets = [kernel_targets(*of) for of in zip(graphs, tokens, kernels, strict=True)]
        variants = (*train.networks, *held.networks)
        trainer = EnsembleTrainer(
            networks,
            self.training,
            GraphSet(tokens, self.device, targets),
            latency_ms,
            learns,
            ~learns,
            self.state_dir,
            self.resume,
            np.unique(variants, return_inverse=True)[1] if variants else None,
        )
        progress = trainer.run()
        self.networks = [network.cpu() for network in networks]
        self.card["training"] = {
            **asdict(self.training),
            "members": self.members,
            "epochs_run": len(progress.history),
            "best_epoch": progress.best_epoch.tolist(),
        }

    def _new_networks(
        self, graphs: Sequence[OpGraph], latency_s: np.ndarray
    ) -> list[RooflineFormer]:
        """The untrained members; ``latency_s`` are the training labels."""
        return new_networks(self.model, self.members, self.training.seed)

    def _members(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        batch = self._set(graphs).batch(np.arange(len(graphs)))
        with torch.inference_mode():
            answers = [network(batch)[0][:, 0].double().numpy() for network in self.networks]
        return np.array(answers)

    def _set(self, graphs: Sequence[OpGraph]) -> GraphSet:
        return GraphSet([self.tokenizer.encode(graph) for graph in graphs])

    def _parts(self, tokens: PhysicalTokens) -> np.ndarray:
        batch = GraphSet([tokens]).batch(np.zeros(1, int))
        with torch.inference_mode():
            parts = [network.operators(batch)[0][:, 0].numpy() for network in self.networks]
        return np.array(parts)

    def _is_fitted(self) -> bool:
        return bool(self.networks)

    def _describe(self) -> Mapping[str, Any]:
        return {
            "tokenizer": self.tokenizer.describe(),
            "network": asdict(self.model),
            "members": len(self.networks),
        }

    def _write(self, folder: Path) -> None:
        weights = stack_states(network.state_dict() for network in self.networks)
        contiguous = {name: value.contiguous() for name, value in weights.items()}
        write_atomically(folder / WEIGHTS, save_tensors(contiguous))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        cls.tokenizer_class.from_description(description["tokenizer"])
        model = RooflineFormerConfig(**description["network"])
        regressor = cls(model=model, members=int(description["members"]))
        weights = load_file(folder / WEIGHTS)
        regressor.networks = [
            with_weights(partial(RooflineFormer, model), member_state(weights, m))
            for m in range(regressor.members)
        ]
        return regressor


def new_networks(config: RooflineFormerConfig, count: int, seed: int) -> list[RooflineFormer]:
    """Untrained networks whose weights follow from the seed and their position."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return [RooflineFormer(config) for _ in range(count)]
