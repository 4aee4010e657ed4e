"""Published networks on nn-Meter's bench: NNLP, NAR-Former V2, NN-Former and NAR-Former.

One network answers for all devices, with an output for each (NNLP's platforms; the same for the
others). Answers are multiples of a power law in FLOPs and bytes, fitted to each device's training
networks, which favours them: in milliseconds, as NNLP and NAR-Former V2 are published, labels span
three decades. They share NAR-Former V2's recipe (Adam, warm-up and linear decay, relative squared
error) but for NAR-Former's learning rate, and train for as many epochs as ``--set epochs=N`` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.nn_meter.padded_ensemble import PaddedEnsemble, TokenSet, is_directed
from tvm_costmodel.errors import require_known
from tvm_costmodel.models.nar_former_networks import NarFormerNetworks, NarFormerNetworksConfig
from tvm_costmodel.models.nar_former_v2 import NarFormerV2, NarFormerV2Config
from tvm_costmodel.models.nn_former_networks import NnFormerNetworks, NnFormerNetworksConfig
from tvm_costmodel.models.nnlp import Nnlp, NnlpConfig
from tvm_costmodel.predictors.flops import solve_power_law
from tvm_costmodel.tokenizer import TokenArrays, TokenizerConfig
from tvm_costmodel.tokenizer.nar_former import encode_numbers
from tvm_costmodel.tokenizer.nnlp import normalised
from tvm_costmodel.training.splits import Split
from tvm_costmodel.training.trainer import TrainingConfig

PLAIN = TokenizerConfig(frequencies=0)
"""Tokens as numbers, from which each network's own are made."""

_TOGETHER = {"cuda": 32, "cpu": 4}
"""Networks of similar length that are padded together: many fill a GPU, few fit a CPU's cache
(NAR-Former V2 on one core of an AMD EPYC: 4 are 1.5 times as fast as 32)."""


@dataclass(frozen=True)
class PublishedNetwork:
    """One network of the table.

    Attributes:
        build: Makes it for a number of devices.
        tokens: Sizes of its tokens.
        learning_rate: Peak rate.
    """

    build: Callable[[int], nn.Module]
    tokens: TokenizerConfig
    learning_rate: float = 1e-3


class NnlpPlatforms(Nnlp):
    """NNLP answering for all of its platforms."""

    def forward(self, tokens: Tensor, adjacency: Tensor, mask: Tensor, static: Tensor) -> Tensor:
        """Latency of a padded batch on every platform, [B, P]."""
        return self.platforms(tokens, adjacency, mask, static)


NETWORKS: Mapping[str, PublishedNetwork] = {
    "nnlp": PublishedNetwork(lambda p: NnlpPlatforms(NnlpConfig(platforms=p)), PLAIN),
    "nar_former_v2": PublishedNetwork(
        lambda p: NarFormerV2(NarFormerV2Config(platforms=p)), TokenizerConfig()
    ),
    "nn_former": PublishedNetwork(
        lambda p: NnFormerNetworks(NnFormerNetworksConfig(platforms=p)), TokenizerConfig()
    ),
    # two encoder blocks of 960 channels in place of six
    "nar_former": PublishedNetwork(
        lambda p: NarFormerNetworks(NarFormerNetworksConfig(blocks=2, platforms=p)),
        TokenizerConfig(frequencies=32),
        learning_rate=3e-4,
    ),
}
"""Networks by name."""


def token_arrays(arrays: Mapping[str, np.ndarray], name: str) -> list[TokenArrays]:
    """Every network's tokens as ``name`` reads them, from `PLAIN` ones one after the other."""
    config = NETWORKS[name].tokens
    nodes, edges = arrays["token_node_ptr"], arrays["token_edge_ptr"]
    values, op_id = arrays["token_values"], arrays["token_op"].astype(np.int64)
    values = normalised(op_id, values) if name == "nnlp" else values
    static = encode_numbers(arrays["token_static"], config).reshape(len(nodes) - 1, -1)
    return [
        TokenArrays(
            op_id[nodes[i] : nodes[i + 1]],
            values[nodes[i] : nodes[i + 1]],
            arrays["token_edges"][edges[i] : edges[i + 1]],
            static[i],
            config,
        )
        for i in range(len(nodes) - 1)
    ]


def run_networks(
    arrays: Mapping[str, np.ndarray],
    name: str,
    splits: Sequence[tuple[int, Split]],
    settings: Mapping[str, Any],
    device: str,
) -> list[np.ndarray]:
    """One network of the table on every split at once.

    Args:
        arrays: The encoded bench, see `nnmeter_encoding.Encoded`.
        name: A name in `NETWORKS`.
        splits: Each with the seed of its weights.
        settings: Fields of `TrainingConfig` to change.
        device: ``cpu`` or ``cuda``.

    Returns:
        For each split, the ms of its test networks, [test, devices].
    """
    torch.set_float32_matmul_precision("high")
    kind, latency = NETWORKS[name], arrays["latency_ms"]
    names = [field.name for field in fields(TrainingConfig)]
    require_known(settings, names, f"{name} does not take these settings")
    usual = {"learning_rate": kind.learning_rate, "bfloat16": device != "cpu", "patience": None}
    recipe = TrainingConfig(**{**usual, **settings})
    networks = [_network(kind, seed, latency.shape[1]) for seed, _ in splits]
    unit = np.array([_unit_ms(arrays, split) for _, split in splits])  # [M, G, P]
    tokens = TokenSet(token_arrays(arrays, name), device, is_directed(networks[0]))
    every = np.arange(len(latency))
    trainer = PaddedEnsemble(
        networks,
        recipe,
        tokens,
        latency / unit,
        np.array([np.isin(every, split.train) for _, split in splits]),
        np.array([np.isin(every, split.validation) for _, split in splits]),
        -(-recipe.batch_size // _TOGETHER[torch.device(device).type]),
    )
    progress = trainer.run()
    print(f"{name}: best epochs {progress.best_epoch.tolist()}, validation MAPE ", end="")
    print(np.round(progress.best_error, 2).tolist(), flush=True)
    tested = np.unique(np.concatenate([split.test for _, split in splits]))
    answers = trainer.predict(tested) * unit[:, tested]
    indices = [np.searchsorted(tested, split.test) for _, split in splits]
    return [answers[m][at] for m, at in enumerate(indices)]


def _network(kind: PublishedNetwork, seed: int, devices: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.build(devices)


def _unit_ms(arrays: Mapping[str, np.ndarray], split: Split) -> np.ndarray:
    """Unit of every network's answer, ms, [G, P]: power laws of the training networks."""
    columns, units = arrays["columns"], []
    for latency in arrays["latency_ms"].T:
        train = split.train[np.isfinite(latency[split.train])]
        units.append(np.exp(columns @ solve_power_law(columns[train], latency[train])))
    return np.stack(units, axis=-1)
