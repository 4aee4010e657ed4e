"""`KernelFormer` over the kernels of networks that Relay compiles, as a regressor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.models.roofline_former import RooflineFormer, RooflineFormerConfig
from tvm_costmodel.predictors.kernel_former import KernelFormerRegressor
from tvm_costmodel.tokenizer.relay_kernel_features import (
    RELAY_KERNEL_FEATURES,
    RelayKernelTokenizer,
)
from tvm_costmodel.training.ensemble_trainer import EnsembleConfig

if TYPE_CHECKING:
    from typing_extensions import Self


class RelayKernelFormerRegressor(KernelFormerRegressor):
    """The `KernelFormer` whose tokens also hold which of Relay's options concern a kernel.

    It reads graphs of `tvm_costmodel.tuning.annotate.relay`. Its weights can be initialised from a
    predictor that was trained on Relax, see `init_from`.
    """

    name = "relay_kernel_former"
    tokenizer_class = RelayKernelTokenizer
    recipe = EnsembleConfig(epochs=120, batch_size=32, within=1.0)
    config_class = staticmethod(partial(RooflineFormerConfig, features=len(RELAY_KERNEL_FEATURES)))
    _source: KernelFormerRegressor | None = None

    def init_from(self, source: KernelFormerRegressor) -> Self:
        """Lets training start from the weights of a fitted `KernelFormer` of Relax.

        The marks of Relay have no weight at first, and the labels to learn from set how much
        slower or faster the other compiler is as a whole.

        Args:
            source: The fitted predictor; its shape and its number of members are taken over.

        Raises:
            ConfigError: It is another predictor.
        """
        if getattr(source, "name", "") != KernelFormerRegressor.name:
            raise ConfigError(
                f"{self.name} is initialised from a kernel_former that torch runs, not from "
                f"{getattr(source, 'name', source)}: give one that `train` wrote"
            )
        self._source = source
        self.members = len(source.networks)
        self.model = replace(source.model, features=len(RELAY_KERNEL_FEATURES))
        return self

    def _new_networks(
        self, graphs: Sequence[OpGraph], latency_s: np.ndarray
    ) -> list[RooflineFormer]:
        if self._source is None:
            return super()._new_networks(graphs, latency_s)
        slowdown = float(np.median(np.log(latency_s / self._source.predict(graphs))))
        return [_widened(network, self.model, slowdown) for network in self._source.networks]


class _PretrainedFormer(RooflineFormer):
    """A network that keeps its initial level and scaling instead of taking the labels' own."""

    def set_level(self, level: Tensor) -> None:
        pass

    def set_scaling(self, numbers: Tensor) -> None:
        pass


def _widened(
    network: RooflineFormer, config: RooflineFormerConfig, slowdown: float
) -> RooflineFormer:
    """A copy that reads more numbers per token; logarithms of its answers rise by ``slowdown``."""
    widened = _PretrainedFormer(config)
    added = config.features - network.config.features
    weights = dict(network.state_dict())
    weights["embed.weight"] = F.pad(weights["embed.weight"], (0, added))
    weights["center"] = F.pad(weights["center"], (0, added))
    weights["spread"] = F.pad(weights["spread"], (0, added), value=1.0)
    weights["level"] = weights["level"] + slowdown
    widened.load_state_dict(weights)
    return widened
