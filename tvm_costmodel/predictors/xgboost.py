"""Gradient-boosted trees on physical features: the strongest simple baseline."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tvm_costmodel.errors import CheckpointError
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.flops import power_law_columns, solve_power_law, terms
from tvm_costmodel.predictors.tree_files import finite_numbers, import_xgboost, read_booster
from tvm_costmodel.tokenizer.kernel_totals import (
    KERNEL_FEATURE_NAMES,
    RELAY_FEATURE_NAMES,
    kernel_features,
    relay_features,
)
from tvm_costmodel.tokenizer.network_features import FEATURE_NAMES, FEATURES_VERSION, features
from tvm_costmodel.training.dataset import LabelledGraphs

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "model.json"


@dataclass(frozen=True, eq=False)
class Table:
    """Input of the trees for some networks.

    Attributes:
        features: float64 [G, len(FEATURE_NAMES)].
        columns: float64 [G, 3], terms of the power law.
    """

    features: np.ndarray
    columns: np.ndarray

    def rows(self, at: np.ndarray) -> Table:
        """The networks at these indices."""
        return Table(self.features[at], self.columns[at])


def table_of(graphs: Sequence[OpGraph]) -> Table:
    """Features of networks."""
    return Table(features(graphs), power_law_columns(graphs))


def kernel_table_of(graphs: Sequence[OpGraph]) -> Table:
    """Features of annotated networks, including features of their kernels."""
    kernels = kernel_features(graphs)
    work = kernels[:, :2]  # under the decisions
    return Table(
        np.concatenate([features(graphs), kernels], axis=1), terms(2 * work[:, 0], work[:, 1])
    )


class XGBoostRegressor(Regressor):
    """Boosted trees on `features` that correct a power law in FLOPs and bytes.

    The trees fit log(measured / power law): trees alone cannot extrapolate, and explaining a
    network's size by the power law reduced the error by a quarter.

    Args:
        rounds: Largest number of trees; early stopping on validation networks usually needs fewer.
        learning_rate: Shrinkage of each tree.
        depth: Largest depth of a tree.
        patience: Rounds without a better validation error after which boosting stops.
        seed: Seed of row and column sampling.
    """

    name = "xgboost"
    feature_names: ClassVar[tuple[str, ...]] = FEATURE_NAMES

    def __init__(
        self,
        rounds: int = 3000,
        learning_rate: float = 0.05,
        depth: int = 5,
        patience: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.rounds, self.learning_rate, self.depth = rounds, learning_rate, depth
        self.patience, self.seed = patience, seed
        self.booster: Any = None
        self.power_law = np.zeros(3)

    def _fit_labels(self, train: LabelledGraphs, held: LabelledGraphs) -> None:
        inside, outside = self.table(train.graphs), self.table(held.graphs)
        self.fit_table(inside, train.latency_s, outside, held.latency_s)

    def fit_table(
        self, table: Table, latency_s: np.ndarray, held: Table, held_latency_s: np.ndarray
    ) -> None:
        """Learns from networks whose features are already computed; sets no interval."""
        xgb = import_xgboost()
        self.power_law = solve_power_law(table.columns, latency_s)
        settings = {
            "objective": "reg:squarederror",
            "eval_metric": "mae",  # of the log, close to the relative error that is reported
            "eta": self.learning_rate,
            "max_depth": self.depth,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
            "tree_method": "hist",
            "seed": self.seed,
        }
        booster = xgb.train(
            settings,
            self._matrix(table, latency_s),
            self.rounds,
            evals=[(self._matrix(held, held_latency_s), "validation")],
            early_stopping_rounds=self.patience,
            verbose_eval=False,
        )
        self.booster = booster[: booster.best_iteration + 1]
        self.card["training"] = {"rounds_run": booster.num_boosted_rounds(), "seed": self.seed}

    def _matrix(self, table: Table, latency_s: np.ndarray | None = None) -> Any:
        label = None if latency_s is None else np.log(latency_s)
        margin = table.columns @ self.power_law
        return import_xgboost().DMatrix(table.features, label=label, base_margin=margin)

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        return self.predict_table(self.table(graphs))

    def predict_table(self, table: Table) -> np.ndarray:
        """Seconds of networks whose features are already computed, float64 [G]."""
        seconds: np.ndarray = np.exp(self.booster.predict(self._matrix(table)).astype(np.float64))
        return seconds

    @staticmethod
    def table(graphs: Sequence[OpGraph]) -> Table:
        """Input of the trees for networks."""
        return table_of(graphs)

    def _is_fitted(self) -> bool:
        return self.booster is not None

    def _describe(self) -> Mapping[str, Any]:
        return {"features_version": FEATURES_VERSION, "features": list(self.feature_names)}

    def _write(self, folder: Path) -> None:
        # trees as XGBoost's own JSON, never pickle, with the power law as an attribute
        self.booster.set_attr(power_law=json.dumps(self.power_law.tolist()))
        (folder / WEIGHTS).write_bytes(self.booster.save_raw("json"))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> Self:
        regressor = cls()
        if json.loads(json.dumps(regressor._describe())) != description:
            raise CheckpointError(
                f"the XGBoost predictor in {folder} was trained on other features (version "
                f"{description.get('features_version')}, this package has {FEATURES_VERSION}): "
                "train it again with `tvm-costmodel train`"
            )
        booster = read_booster(folder / WEIGHTS, len(cls.feature_names))
        regressor.power_law = np.array(finite_numbers(booster.attr("power_law"), 3))
        regressor.booster = booster
        return regressor


class KernelXGBoostRegressor(XGBoostRegressor):
    """Boosted trees on annotated graphs: features of the graphs and of their kernels.

    The trees correct a power law in the arithmetic and the bytes under the decisions.
    """

    name = "xgboost_kernel"
    feature_names = (*FEATURE_NAMES, *KERNEL_FEATURE_NAMES)

    @staticmethod
    def table(graphs: Sequence[OpGraph]) -> Table:
        """Input of the trees for annotated networks."""
        return kernel_table_of(graphs)


class RelayXGBoostRegressor(KernelXGBoostRegressor):
    """Boosted trees on annotated graphs of Relay, including its options' effect on kernels."""

    name = "relay_xgboost"
    feature_names = (*KernelXGBoostRegressor.feature_names, *RELAY_FEATURE_NAMES)

    @staticmethod
    def table(graphs: Sequence[OpGraph]) -> Table:
        """Input of the trees for annotated networks."""
        table = kernel_table_of(graphs)
        return Table(
            np.concatenate([table.features, relay_features(graphs)], axis=1), table.columns
        )
