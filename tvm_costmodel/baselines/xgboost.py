"""Gradient-boosted trees on physical features: the baseline that counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_costmodel.baselines.features import FEATURE_NAMES, FEATURES_VERSION, features
from tvm_costmodel.baselines.flops import fit_power_law, log_power_law
from tvm_costmodel.errors import CheckpointError, MissingDependencyError
from tvm_costmodel.graph import OpGraph
from tvm_costmodel.training.regressor import Regressor

WEIGHTS = "model.json"


class XGBoostRegressor(Regressor):
    """Boosted trees on `features` that correct a power law in FLOPs and bytes.

    The trees fit log(measured / power law): trees alone cannot extrapolate, and leaving the size
    of a network to the power law made them a quarter better here.

    Args:
        rounds: Trees at most; early stopping on the validation networks usually ends before.
        learning_rate: Shrinkage of each tree.
        depth: Levels of a tree.
        patience: Rounds without a better validation error after which boosting stops.
        seed: Of row and column sampling.
    """

    name = "xgboost"

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

    def _fit(
        self,
        graphs: Sequence[OpGraph],
        latency_s: np.ndarray,
        held: Sequence[OpGraph],
        held_latency_s: np.ndarray,
    ) -> None:
        xgb = _xgboost()
        self.power_law = fit_power_law(graphs, latency_s)
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
            self._matrix(graphs, latency_s),
            self.rounds,
            evals=[(self._matrix(held, held_latency_s), "validation")],
            early_stopping_rounds=self.patience,
            verbose_eval=False,
        )
        self.booster = booster[: booster.best_iteration + 1]
        self.card["training"] = {"rounds_run": booster.num_boosted_rounds(), "seed": self.seed}

    def _matrix(self, graphs: Sequence[OpGraph], latency_s: np.ndarray | None = None) -> Any:
        label = None if latency_s is None else np.log(latency_s)
        margin = log_power_law(graphs, self.power_law)
        return _xgboost().DMatrix(features(graphs), label=label, base_margin=margin)

    def _predict(self, graphs: Sequence[OpGraph]) -> np.ndarray:
        return np.exp(self.booster.predict(self._matrix(graphs)).astype(np.float64))

    def _is_fitted(self) -> bool:
        return self.booster is not None

    def _describe(self) -> Mapping[str, Any]:
        return {"features_version": FEATURES_VERSION, "features": list(FEATURE_NAMES)}

    def _write(self, folder: Path) -> None:
        # trees as XGBoost's own JSON, never pickle, with the power law as an attribute
        self.booster.set_attr(power_law=json.dumps(self.power_law.tolist()))
        (folder / WEIGHTS).write_bytes(self.booster.save_raw("json"))

    @classmethod
    def _read(cls, folder: Path, description: Mapping[str, Any]) -> XGBoostRegressor:
        regressor = cls()
        if json.loads(json.dumps(regressor._describe())) != description:
            raise CheckpointError(
                f"the XGBoost predictor in {folder} was trained on other features (version "
                f"{description.get('features_version')}, this package has {FEATURES_VERSION}): "
                "train it again with `tvm-costmodel train`"
            )
        xgb = _xgboost()
        booster = xgb.Booster()
        try:
            booster.load_model(bytearray((folder / WEIGHTS).read_bytes()))
        except xgb.core.XGBoostError as error:
            raise CheckpointError(
                f"{folder / WEIGHTS} holds no trees ({str(error).splitlines()[0]}): "
                "train it again with `tvm-costmodel train`"
            ) from error
        regressor.power_law = np.array(json.loads(booster.attr("power_law") or ""))
        regressor.booster = booster
        return regressor


def _xgboost() -> Any:
    try:
        import xgboost
    except ImportError as error:
        raise MissingDependencyError(
            "the xgboost predictor needs XGBoost: pip install xgboost"
        ) from error
    return xgboost
