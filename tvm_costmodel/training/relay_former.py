"""The kernel former over the kernels of networks that Relay compiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.models.roofline_former import RooflineFormer, RooflineFormerConfig
from tvm_costmodel.tokenizer.relay_kernels import RELAY_KERNEL_FEATURES, RelayKernelTokenizer
from tvm_costmodel.training.replicas import ReplicaConfig
from tvm_costmodel.training.roofline import KernelFormerRegressor

if TYPE_CHECKING:
    from typing_extensions import Self


class RelayKernelFormerRegressor(KernelFormerRegressor):
    """The kernel former with what Relay's options say of each kernel.

    It reads graphs of `tvm_costmodel.tuning.relay_annotation`. It may begin at what a kernel former
    of Relax learned, see `begin_at`.
    """

    name = "relay_kernel_former"
    tokenizer_class = RelayKernelTokenizer
    recipe = ReplicaConfig(epochs=120, batch_size=32, within=1.0)
    config_class = staticmethod(partial(RooflineFormerConfig, features=len(RELAY_KERNEL_FEATURES)))
    _start: KernelFormerRegressor | None = None

    def begin_at(self, start: KernelFormerRegressor) -> Self:
        """Lets training begin at a fitted kernel former of Relax instead of at random weights.

        Relay's marks count for nothing at first, and the labels to learn from set how much slower
        or faster the other compiler is on the whole.

        Args:
            start: Its shape and its number of members are taken over.

        Raises:
            ConfigError: It is another predictor.
        """
        if getattr(start, "name", "") != KernelFormerRegressor.name:
            raise ConfigError(
                f"{self.name} begins at a kernel_former that torch runs, not at "
                f"{getattr(start, 'name', start)}: give one that `train` wrote"
            )
        self._start = start
        self.members = len(start.networks)
        self.model = replace(start.model, features=len(RELAY_KERNEL_FEATURES))
        return self

    def _new_networks(
        self, graphs: Sequence[OpGraph], latency_s: np.ndarray
    ) -> list[RooflineFormer]:
        if self._start is None:
            return super()._new_networks(graphs, latency_s)
        slower = float(np.median(np.log(latency_s / self._start.predict(graphs))))
        return [_continued(network, self.model, slower) for network in self._start.networks]


class _ContinuedFormer(RooflineFormer):
    """A network that goes on from another's level and scaling instead of its labels' own."""

    def set_level(self, level: Tensor) -> None:
        pass

    def set_scaling(self, numbers: Tensor) -> None:
        pass


def _continued(
    network: RooflineFormer, config: RooflineFormerConfig, slower: float
) -> RooflineFormer:
    """The network with further numbers to a token, all answers ``slower`` in logarithm."""
    made = _ContinuedFormer(config)
    more = config.features - network.config.features
    weights = dict(network.state_dict())
    weights["embed.weight"] = F.pad(weights["embed.weight"], (0, more))
    weights["center"] = F.pad(weights["center"], (0, more))
    weights["spread"] = F.pad(weights["spread"], (0, more), value=1.0)
    weights["level"] = weights["level"] + slower
    made.load_state_dict(weights)
    return made
