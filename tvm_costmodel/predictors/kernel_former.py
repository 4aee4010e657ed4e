"""`KernelFormer` as a regressor: the `RooflineFormer` over the kernels of a tuned graph."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tvm_costmodel.models.roofline_former import RooflineFormerConfig
from tvm_costmodel.predictors.kernel_costs import Place
from tvm_costmodel.predictors.roofline_former import RooflineFormerRegressor
from tvm_costmodel.tokenizer.kernel_features import KERNEL_FEATURES
from tvm_costmodel.tokenizer.kernel_tokens import KernelTokenizer
from tvm_costmodel.tokenizer.operator_features import PhysicalTokens
from tvm_costmodel.training.ensemble_trainer import EnsembleConfig
from tvm_costmodel.training.ragged_dataset import GraphSet


class KernelFormerRegressor(RooflineFormerRegressor):
    """The `RooflineFormer` with one token for each kernel of a tuned network.

    It reads graphs that are annotated with fusion and decisions, see
    `tvm_costmodel.tuning.annotate.relax`, and learns how variants of a network differ (``within``
    of the recipe).
    """

    name = "kernel_former"
    tokenizer_class = KernelTokenizer
    recipe = EnsembleConfig(epochs=40, batch_size=64, within=1.0)
    config_class = staticmethod(partial(RooflineFormerConfig, features=len(KERNEL_FEATURES)))

    @property
    def sees_decisions(self) -> bool:
        """Whether the decisions for a kernel change the cost of its neighbours."""
        return self.model.context == "full"

    def contexts_of(self, tokens: Sequence[PhysicalTokens]) -> list[tuple[Tensor, ...]]:
        """Context of the networks' kernels from each member's attention, each [N, D_c]."""
        batch = GraphSet(tokens).batch(np.arange(len(tokens)))
        counts = [len(network) for network in tokens]
        with torch.inference_mode():
            parts = [network.context(batch).split(counts) for network in self.networks]
        return list(zip(*parts, strict=True))

    def cache_key(self, context: tuple[Tensor, ...]) -> list[bytes]:
        """See `KernelCostModel.cache_key`."""
        return [row.tobytes() for row in torch.cat(context, dim=1).numpy()]

    def costs(self, places: Sequence[Place], numbers: np.ndarray, work: np.ndarray) -> np.ndarray:
        """See `KernelCostModel.costs`; contexts are those of `contexts_of`."""
        tokens, amounts = torch.from_numpy(numbers), torch.from_numpy(work)
        rows = [torch.from_numpy(at) for _, at in places]
        costs = []
        with torch.inference_mode():
            for m, network in enumerate(self.networks):
                parts = [context[m][at] for (context, _), at in zip(places, rows, strict=True)]
                cost = network.cost(tokens, amounts, torch.cat(parts))[0]
                costs.append(cost[:, 0].double().numpy())
        return np.stack(costs, axis=1)
