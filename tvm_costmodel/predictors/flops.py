"""The simplest baseline: a power law in arithmetic and bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.bounded_reading import parse_object, read_small
from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.tokenizer.kernel_totals import kernel_features
from tvm_costmodel.training.dataset import LabelledGraphs

WEIGHTS = "model.json"


class FlopsRegressor(Regressor):
    """``log latency = a + b log(GFLOPs) + c log(GB moved)``, by least squares.

    It is the rule of thumb of practitioners, which every learned predictor has to beat.
    """

    name = "flops"

    def __init__(self) -> None:
        super().__init__()
        self.coefficients: np.ndarray | None = None

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        self.coefficients = solve_power_law(self._columns(train.graphs), train.latency_s)

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        assert self.coefficients is not None
        seconds: np.ndarray = np.exp(self._columns(graphs) @ self.coefficients)
        return seconds

    def _columns(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        """Terms of the power law, float64 [G, 3]."""
        return power_law_columns(graphs)

    def _is_fitted(self) -> bool:
        return self.coefficients is not None

    def _describe(self) -> Mapping[str, Any]:
        return {"terms": ["1", "log(1e-6 + GFLOPs)", "log(1e-6 + GB)"]}

    def _write(self, folder: Path) -> None:
        assert self.coefficients is not None
        (folder / WEIGHTS).write_text(json.dumps({"coefficients": self.coefficients.tolist()}))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> FlopsRegressor:
        regressor = cls()
        if description != regressor._describe():
            raise CheckpointError(
                f"the FLOPs predictor in {folder} has other terms than this version: "
                "train it again with `tvm-costmodel train`"
            )
        record = parse_object(read_small(folder / WEIGHTS))
        regressor.coefficients = np.array(record["coefficients"], dtype=np.float64)
        if regressor.coefficients.shape != (3,) or not np.isfinite(regressor.coefficients).all():
            raise ValueError("coefficients are no three finite numbers")
        return regressor


def fit_power_law(graphs: Sequence[OpGraph], latency_s: np.ndarray) -> np.ndarray:
    """Coefficients (a, b, c) of the least-squares power law, float64 [3]."""
    return solve_power_law(power_law_columns(graphs), latency_s)


def solve_power_law(columns: np.ndarray, latency_s: np.ndarray) -> np.ndarray:
    """Coefficients (a, b, c) from `power_law_columns`, float64 [3]."""
    solution = np.linalg.lstsq(columns, np.log(latency_s), rcond=None)[0]
    return np.asarray(solution, dtype=np.float64)


def log_power_law(graphs: Sequence[OpGraph], coefficients: np.ndarray) -> np.ndarray:
    """Log seconds of each network under a power law, float64 [G]."""
    return np.asarray(power_law_columns(graphs) @ coefficients, dtype=np.float64)


def power_law_columns(graphs: Sequence[OpGraph]) -> np.ndarray:
    """float64 [G, 3]: 1, log GFLOPs, log GB; the small term keeps an empty sum finite."""
    return terms(
        np.array([graph.flops for graph in graphs]) / 1e9,
        np.array([graph.bytes for graph in graphs]) / 1e9,
    )


def terms(gflops: np.ndarray, gbytes: np.ndarray) -> np.ndarray:
    """Terms of the power law, float64 [G, 3], from billions of operations and bytes, [G]."""
    return np.stack([np.ones(len(gflops)), np.log(1e-6 + gflops), np.log(1e-6 + gbytes)], axis=1)


class KernelFlopsRegressor(FlopsRegressor):
    """`FlopsRegressor` on annotated graphs.

    It counts the multiplications of the algorithms that were chosen and the bytes that fused
    kernels move.
    """

    name = "flops_kernel"

    def _columns(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        work = kernel_features(graphs)
        return terms(2 * work[:, 0], work[:, 1])

    def _describe(self) -> Mapping[str, Any]:
        return {"terms": ["1", "log(1e-6 + decided GFLOPs)", "log(1e-6 + GB of kernels)"]}
