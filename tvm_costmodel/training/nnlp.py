"""NNLP as a regressor: its tokens and network in the training loop of NAR-Former V2."""

from __future__ import annotations

from tvm_costmodel.models.nnlp import Nnlp, NnlpConfig
from tvm_costmodel.tokenizer.nnlp import NnlpTokenizer
from tvm_costmodel.training.loop import TrainingConfig
from tvm_costmodel.training.network import NetworkRegressor


class NnlpRegressor(NetworkRegressor):
    """NNLP, the GraphSAGE predictor of NNLQP (ICPP 2022), answering in milliseconds."""

    name = "nnlp"
    recipe = TrainingConfig(unit="ms")
    tokenizer_class = NnlpTokenizer
    network_class = Nnlp
    config_class = NnlpConfig
