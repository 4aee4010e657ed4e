"""The roofline process as a regressor: a few members that answer as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as save_arrays

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.files import write_atomically
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.models.roofline_process import RooflineProcess, RooflineProcessConfig
from tvm_costmodel.tokenizer.kernel_table import describe_table, kernel_table
from tvm_costmodel.tokenizer.physical import PhysicalTokenizer, PhysicalTokens, require_same
from tvm_costmodel.training.roofline_answers import (
    RooflineAnswers,
    damaged,
    join_members,
    member_state,
)

WEIGHTS = "model.safetensors"


class RooflineProcessRegressor(RooflineAnswers):
    """Physical prices of kernels, corrected by Gaussian processes; needs no torch.

    Args:
        seed: Of the first member's features and sample; the others have the next ones.
        members: Processes whose logarithms are averaged.
        noise: Relative error of a sum of kernels' prices, between 0 and 1.
        features: Random features of each function, at least 2.
        networks: Training networks that each member takes at most.

    Raises:
        ConfigError: A value is out of range.
    """

    name = "roofline_process"

    def __init__(
        self,
        seed: int = 0,
        members: int = 3,
        noise: float = RooflineProcessConfig.noise,
        features: int = RooflineProcessConfig.features,
        networks: int = RooflineProcessConfig.networks,
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
        config = RooflineProcessConfig(noise=noise, features=features, networks=networks)
        self.processes = _members_of(config, seed, members)

    def _fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        held: Sequence[OpGraph],
        held_latency_s: np.ndarray,
    ) -> None:
        tokens = [self.tokenizer.encode(graph) for graph in graphs]
        for process in self.processes:
            process.fit(tokens, latency_s * 1e3)

    def _members(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        kernels = kernel_table([self.tokenizer.encode(graph) for graph in graphs])
        return np.array([kernels.sums(process.parts(kernels)) for process in self.processes])

    def _parts(self, tokens: PhysicalTokens) -> np.ndarray:
        kernels = kernel_table([tokens])
        return np.array([process.parts(kernels) for process in self.processes])

    def _is_fitted(self) -> bool:
        return bool(self.processes[0].weights.size)

    def _describe(self) -> Mapping[str, Any]:
        return {
            "tokenizer": self.tokenizer.describe(),
            "table": describe_table(),
            "process": asdict(self.processes[0].config),
            "members": len(self.processes),
        }

    def _write(self, folder: Path) -> None:
        arrays = join_members(process.state() for process in self.processes)
        contiguous = {name: np.ascontiguousarray(value) for name, value in arrays.items()}
        write_atomically(folder / WEIGHTS, save_arrays(contiguous))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> RooflineProcessRegressor:
        PhysicalTokenizer.from_description(description["tokenizer"])
        require_same(describe_table(), description.get("table"), "version", "kernels")
        config = RooflineProcessConfig(**description["process"])
        regressor = cls(config.seed, int(description["members"]))
        regressor.processes = _members_of(config, config.seed, len(regressor.processes))
        try:
            arrays = load_file(folder / WEIGHTS)
            for m, process in enumerate(regressor.processes):
                process.load_state(member_state(arrays, m))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise damaged(folder / WEIGHTS, error) from error
        return regressor


def _members_of(config: RooflineProcessConfig, seed: int, members: int) -> list[RooflineProcess]:
    """Processes that differ in their seed."""
    return [RooflineProcess(replace(config, seed=seed + member)) for member in range(members)]
