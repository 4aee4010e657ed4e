"""`roofline_gp` as a regressor: an ensemble of a few Gaussian process models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.roofline_gp import RooflineGP, RooflineGPConfig
from tvm_costmodel.predictors.ensemble import RooflineAnswers, member_state, stack_states
from tvm_costmodel.tokenizer.operator_features import (
    PhysicalTokenizer,
    PhysicalTokens,
    require_same,
)
from tvm_costmodel.tokenizer.roofline_terms import describe_table, kernel_table
from tvm_costmodel.training.dataset import LabelledGraphs

WEIGHTS = "model.safetensors"


class RooflineGPRegressor(RooflineAnswers):
    """Physical costs of kernels, corrected by Gaussian processes; needs no torch.

    Args:
        seed: Seed of the first member's features and sample; the others take the following ones.
        members: Number of models; predictions are their geometric mean.
        noise: Relative error of a sum of kernel costs, between 0 and 1.
        features: Random features of each function, at least 2.
        networks: Largest number of training networks for each member.

    Raises:
        ConfigError: A value is out of range.
    """

    name = "roofline_gp"

    def __init__(
        self,
        seed: int = 0,
        members: int = 3,
        noise: float = RooflineGPConfig.noise,
        features: int = RooflineGPConfig.features,
        networks: int = RooflineGPConfig.networks,
    ) -> None:
        super().__init__()
        counts = ((members, 1), (networks, 1), (features, 2))
        if any(not isinstance(n, int) or n < least for n, least in counts) or not 0 < noise < 1:
            raise ConfigError(
                f"members {members} and networks {networks} must be whole numbers of at least 1, "
                f"features {features} one of at least 2, and noise {noise} between 0 and 1"
            )
        self.seed = seed
        self.tokenizer = PhysicalTokenizer()
        config = RooflineGPConfig(noise=noise, features=features, networks=networks)
        self.models = _new_models(config, seed, members)

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        tokens = [self.tokenizer.encode(graph) for graph in train.graphs]
        for model in self.models:
            model.fit(tokens, train.latency_s * 1e3)

    def _members(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        kernels = kernel_table([self.tokenizer.encode(graph) for graph in graphs])
        return np.array([kernels.sums(model.parts(kernels)) for model in self.models])

    def _parts(self, tokens: PhysicalTokens) -> np.ndarray:
        kernels = kernel_table([tokens])
        return np.array([model.parts(kernels) for model in self.models])

    def _is_fitted(self) -> bool:
        return bool(self.models[0].weights.size)

    def _describe(self) -> Mapping[str, Any]:
        return {
            "tokenizer": self.tokenizer.describe(),
            "table": describe_table(),
            "process": asdict(self.models[0].config),
            "members": len(self.models),
        }

    def _write(self, folder: Path) -> None:
        arrays = stack_states(model.state() for model in self.models)
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        write_atomically(folder / WEIGHTS, save_arrays(contiguous))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> RooflineGPRegressor:
        PhysicalTokenizer.from_description(description["tokenizer"])
        require_same(describe_table(), description.get("table"), "version", "kernels")
        config = RooflineGPConfig(**description["process"])
        regressor = cls(config.seed, int(description["members"]))
        regressor.models = _new_models(config, config.seed, len(regressor.models))
        arrays = load_file(folder / WEIGHTS)
        for m, model in enumerate(regressor.models):
            model.load_state(member_state(arrays, m))
        return regressor


def _new_models(config: RooflineGPConfig, seed: int, members: int) -> list[RooflineGP]:
    """Models that differ in their seed."""
    return [RooflineGP(replace(config, seed=seed + member)) for member in range(members)]
