"""Evaluates several networks of one configuration at once, with `torch.func` and `vmap`.

Their weights are stacked along a leading axis. Shape legend: ``M`` members.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap


class _Called(nn.Module):
    """A network that is called through a function instead of its ``forward``."""

    def __init__(self, network: nn.Module, function: Callable[..., Any] | None) -> None:
        super().__init__()
        self.network, self._function = network, function or type(network).__call__

    def forward(self, *inputs: Any) -> Any:
        return self._function(self.network, *inputs)


class VmapEnsemble:
    """An ensemble of networks of one configuration with stacked weights.

    Args:
        networks: The members, on their device.
        function: Calls a network with its inputs; the network's own ``forward`` when not given.

    Attributes:
        networks: The members; their own weights are unchanged until `unstack`.
        skeleton: The network without weights; its mode (training or not) is that of `forward`.
        parameters: Name to trainable weights, [M, ...].
        buffers: Name to buffers, which are not trained, [M, ...].
    """

    def __init__(
        self, networks: Sequence[nn.Module], function: Callable[..., Any] | None = None
    ) -> None:
        self.networks = list(networks)
        self.skeleton = copy.deepcopy(self.networks[0]).to("meta")
        self._called = _Called(self.skeleton, function)
        self.parameters: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        self.parameters, self.buffers = stack_module_state(self.networks)

    def __len__(self) -> int:
        return len(self.networks)

    def forward(self, inputs: tuple[Any, ...], shared: bool = True, together: bool = True) -> Any:
        """Answers of every member, a tensor or a tuple of tensors, [M, ...].

        Args:
            inputs: What a network is called with; tensors [M, ...] where they are not shared.
            shared: Whether all members get the same inputs.
            together: Run the members as one. One after the other keeps a CPU as busy, and needs
                less memory.
        """
        stacked = {f"network.{name}": v for name, v in {**self.parameters, **self.buffers}.items()}
        if together and len(self) > 1:
            run = vmap(self._call, (0, None if shared else 0), randomness="different")
            return run(stacked, inputs)
        answers = []
        for m, member in enumerate(zip(*(v.unbind() for v in stacked.values()), strict=True)):
            own = inputs if shared else tuple(part[m] for part in inputs)
            answers.append(self._call(dict(zip(stacked, member, strict=True)), own))
        if isinstance(answers[0], tuple):
            return tuple(torch.stack(part) for part in zip(*answers, strict=True))
        return torch.stack(answers)

    def _call(self, weights: dict[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        """One member's answer to ``inputs``."""
        return functional_call(self._called, weights, inputs)

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
