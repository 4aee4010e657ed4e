"""Training sets, splits, losses, the loop, metrics and comparisons."""

from __future__ import annotations

from tvm_costmodel.training.labels import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate
from tvm_costmodel.training.regressor import Interval, Regressor

__all__ = ["Interval", "LabelledGraphs", "Metrics", "Regressor", "evaluate"]
