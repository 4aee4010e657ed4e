"""A family: networks of one published design, drawn over its widths, depths and input sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tvm_costmodel.profiling.workloads.conv_layers import Layers
from tvm_costmodel.profiling.workloads.network import NetworkCost, Tensor

Params = dict[str, Any]

#: Size classes: share of the default suite and multiply-accumulates allowed.
SIZES: Mapping[str, tuple[float, float, float]] = {
    "tiny": (0.0, 0.2e6, 12e6),
    "small": (0.32, 6e6, 250e6),
    "medium": (0.53, 200e6, 2.5e9),
    "large": (0.15, 1.4e9, 20e9),
}
#: Parameters of networks that were published on ImageNet.
IMAGENET: Mapping[str, Any] = {"image": 224, "classes": 1000}
#: Parameters that every family may have: how the network was written, see ``Network``.
FORM = ("importer", "norm", "head", "softmax")
_DRAWS = 40
#: Share of networks, except the large ones, that may have twice the kernels of the others.
_MANY_KERNELS = 0.2


def image_input(params: Mapping[str, Any]) -> tuple[int, ...]:
    """``(1, 3, image, image)``."""
    return 1, 3, int(params["image"]), int(params["image"])


@dataclass(frozen=True)
class Family:
    """Networks of one published design.

    Attributes:
        name: Name in ``FAMILIES``.
        reference: The paper.
        sampler: Draws parameters for a size class.
        writer: Writes the network of some parameters onto an input.
        reference_params: The published configuration.
        reference_macs: Its published multiply-accumulates.
        reference_parameters: Its published number of weights, None where unpublished.
        input_shape: Shape of the only input.
        max_kernels: Networks with more distinct kernels than this are drawn again, since building
            costs mostly kernels; large ones may have any number.
        arithmetic: Factor on the multiply-accumulates of ``SIZES``, below 1 for designs that do
            with little arithmetic (depthwise convolutions) and take long for it.
    """

    name: str
    reference: str
    sampler: Callable[[np.random.Generator, str], Params]
    writer: Callable[[Layers, Tensor, Mapping[str, Any]], Tensor]
    reference_params: Mapping[str, Any]
    reference_macs: float
    reference_parameters: float | None = None
    input_shape: Callable[[Mapping[str, Any]], tuple[int, ...]] = field(default=image_input)
    max_kernels: int = 40
    arithmetic: float = 1.0

    def sample(self, rng: np.random.Generator, size: str | None = None) -> Params:
        """Draws parameters of one network.

        Args:
            rng: Source of randomness; equal states give equal parameters.
            size: A size class of ``SIZES``; drawn by its share by default.

        Returns:
            A JSON-able dict for ``build``.
        """
        if size is None:
            shares = [share for share, _, _ in SIZES.values()]
            size = str(rng.choice(list(SIZES), p=shares))
        _, low, high = SIZES[size]
        low, high = low * self.arithmetic, high * self.arithmetic
        allowed = self.max_kernels * (2 if rng.random() < _MANY_KERNELS else 1)
        if size == "large":
            allowed = sys.maxsize
        closest, least = Params(), float("inf")
        for _ in range(_DRAWS):
            params = self.sampler(rng, size)
            cost = self.cost(params)
            miss = max(low / cost.macs, cost.macs / high, 1.0) - 1.0
            miss += max(len(cost.kernels) / allowed, 1.0) - 1.0
            if miss < least:
                closest, least = params, miss
            if miss == 0.0:
                break
        return closest

    def cost(self, params: Mapping[str, Any]) -> NetworkCost:
        """Multiply-accumulates, parameters and kernels, without building anything."""
        layers = self._layers(params)
        layers.trace(self.input_shape(params), lambda x: self.writer(layers, x, params))
        return layers.cost

    def build(self, params: Mapping[str, Any], compiler: str = "relax") -> Any:
        """The network as a ``tvm.IRModule``: one input, weights bound as constants.

        Args:
            params: What ``sample`` drew.
            compiler: ``relax``, or ``relay`` where TVM has it.
        """
        layers = self._layers(params)
        shape = self.input_shape(params)
        return layers.module(shape, lambda x: self.writer(layers, x, params), compiler)

    @staticmethod
    def _layers(params: Mapping[str, Any]) -> Layers:
        return Layers(**{name: params[name] for name in FORM if name in params})
