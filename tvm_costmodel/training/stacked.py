"""Several networks of one configuration as one: their weights stacked along a leading axis.

Shape legend: ``M`` replicas.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class StackedNetworks:
    """Replicas of one network.

    Args:
        networks: The replicas, on their device.

    Attributes:
        networks: The replicas; their own weights stay as they are until `unstack`.
        skeleton: The network without weights; its mode (training or not) is that of `call`.
        parameters: Name -> weights to train, [M, ...].
        buffers: Name -> what is not trained, [M, ...].
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self.networks = list(networks)
        self.skeleton = copy.deepcopy(self.networks[0]).to("meta")
        self.parameters: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        self.parameters, self.buffers = stack_module_state(self.networks)

    def __len__(self) -> int:
        return len(self.networks)

    def call(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: tuple[Any, ...]
    ) -> Any:
        """The network's answer to ``inputs`` with the weights of one replica."""
        return functional_call(self.skeleton, (parameters, buffers), inputs)

    def replica(self, m: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers of one replica, as `call` takes them."""
        parameters = {name: value[m] for name, value in self.parameters.items()}
        return parameters, {name: value[m] for name, value in self.buffers.items()}

    def adamw(self, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
        """AdamW whose decay holds for matrices; vectors have none."""
        matrices = [p for p in self.parameters.values() if p.dim() > 2]
        vectors = [p for p in self.parameters.values() if p.dim() <= 2]
        return torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=learning_rate,
            fused=True,
        )

    @torch.no_grad()
    def clip_gradients(self, norm: float) -> None:
        """Scales each replica's gradient to this norm at most."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)  # [M]
        factor = (norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))

    @torch.no_grad()
    def restore(self, best: Mapping[str, Tensor]) -> None:
        """Puts the weights to keep in place, here and in every replica."""
        for name, parameter in self.parameters.items():
            parameter.copy_(best[name])
        self.unstack(best)

    @torch.no_grad()
    def unstack(self, weights: Mapping[str, Tensor]) -> None:
        """Gives every replica its slice of ``weights``, and sets it to predict."""
        for m, network in enumerate(self.networks):
            own = {name: value[m] for name, value in weights.items()}
            network.load_state_dict(own, strict=False)  # buffers have not changed
            network.eval()
