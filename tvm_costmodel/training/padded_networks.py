"""NN-Former and NAR-Former on whole networks, in the training loop of NAR-Former V2."""

from __future__ import annotations

from typing import Any

from tvm_costmodel.models.nar_former_networks import NarFormerNetworks, NarFormerNetworksConfig
from tvm_costmodel.models.nn_former_networks import NnFormerNetworks, NnFormerNetworksConfig
from tvm_costmodel.tokenizer import Tokenizer, TokenizerConfig
from tvm_costmodel.training.loop import TrainingConfig
from tvm_costmodel.training.network import NetworkRegressor


class NnFormerRegressor(NetworkRegressor):
    """NN-Former (CVPR 2025), answering in multiples of a power law."""

    name = "nn_former"
    recipe = TrainingConfig()
    tokenizer_class = Tokenizer
    network_class = NnFormerNetworks
    config_class = NnFormerNetworksConfig
    shape_settings = ("channels", "blocks")


class NarFormerRegressor(NetworkRegressor):
    """NAR-Former (CVPR 2023), answering in multiples of a power law.

    Tokens have as many frequencies as the network's shape says.
    """

    name = "nar_former"
    recipe = TrainingConfig(learning_rate=3e-4)
    tokenizer_class = Tokenizer
    network_class = NarFormerNetworks
    config_class = NarFormerNetworksConfig
    shape_settings = ("hidden", "blocks", "frequencies")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = Tokenizer(TokenizerConfig(frequencies=self.model.frequencies))
