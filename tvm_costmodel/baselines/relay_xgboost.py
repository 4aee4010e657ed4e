"""Gradient-boosted trees on networks that Relay compiles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tvm_costmodel.baselines.relay_features import RELAY_FEATURE_NAMES, relay_features
from tvm_costmodel.baselines.xgboost import DecidedXGBoostRegressor, Table, decided_table_of
from tvm_costmodel.graph import OpGraph


class RelayXGBoostRegressor(DecidedXGBoostRegressor):
    """Boosted trees on annotated graphs: kernels, and what Relay's options concern of them."""

    name = "relay_xgboost"
    feature_names = (*DecidedXGBoostRegressor.feature_names, *RELAY_FEATURE_NAMES)

    @staticmethod
    def table(graphs: Sequence[OpGraph]) -> Table:
        """What the trees read of annotated networks."""
        table = decided_table_of(graphs)
        return Table(
            np.concatenate([table.features, relay_features(graphs)], axis=1), table.columns
        )
