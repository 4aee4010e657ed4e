"""Training of predictors: data sets, splits, losses, metrics and trainers."""

from __future__ import annotations

from tvm_costmodel.training.dataset import LabelledGraphs
from tvm_costmodel.training.metrics import Metrics, evaluate

__all__ = ["LabelledGraphs", "Metrics", "evaluate"]
