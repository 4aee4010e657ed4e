"""The power law on what decisions leave to compute and to move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tvm_costmodel.baselines.flops import FlopsRegressor, terms
from tvm_costmodel.baselines.kernel_features import kernel_features
from tvm_costmodel.graph import OpGraph


class DecidedFlopsRegressor(FlopsRegressor):
    """`FlopsRegressor` on annotated graphs: products of the decided algorithm, bytes of kernels."""

    name = "flops_decided"

    def _columns(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        work = kernel_features(graphs)
        return terms(2 * work[:, 0], work[:, 1])

    def _describe(self) -> Mapping[str, Any]:
        return {"terms": ["1", "log(1e-6 + decided GFLOPs)", "log(1e-6 + GB of kernels)"]}
