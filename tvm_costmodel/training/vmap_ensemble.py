"""Evaluates several networks of one configuration at once, with `torch.func` and `vmap`.

Their weights are stacked along a leading axis. Shape legend: ``M`` members.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class VmapEnsemble:
    """An ensemble of networks of one configuration with stacked weights.

    Args:
        networks: The members, on their device.

    Attributes:
        networks: The members; their own weights are unchanged until `unstack`.
        skeleton: The network without weights; its mode (training or not) is that of `call`.
        parameters: Name to trainable weights, [M, ...].
        buffers: Name to buffers, which are not trained, [M, ...].
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
        """The network's answer to ``inputs`` with the weights of one member."""
        return functional_call(self.skeleton, (parameters, buffers), inputs)

    def member(self, m: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Parameters and buffers of one member, as `call` takes them."""
        parameters = {name: value[m] for name, value in self.parameters.items()}
        return parameters, {name: value[m] for name, value in self.buffers.items()}

    def adamw(self, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
        """AdamW with weight decay of matrices only."""
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
        """Scales each member's gradient down to at most this norm."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)  # [M]
        factor = (norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))

    @torch.no_grad()
    def restore(self, best: Mapping[str, Tensor]) -> None:
        """Restores these weights, here and in every member."""
        for name, parameter in self.parameters.items():
            parameter.copy_(best[name])
        self.unstack(best)

    @torch.no_grad()
    def unstack(self, weights: Mapping[str, Tensor]) -> None:
        """Gives every member its slice of ``weights``, and sets it to evaluation mode."""
        for m, network in enumerate(self.networks):
            own = {name: value[m] for name, value in weights.items()}
            network.load_state_dict(own, strict=False)  # buffers have not changed
            network.eval()
