"""Predictors of other packages: registered by entry point, used by every command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import json
from pathlib import Path

import numpy as np

from tvm_costmodel.predictors.base import Regressor


class MedianRegressor(Regressor):
    name = "median"

    def __init__(self):
        super().__init__()
        self.median = None

    def _fit(self, graphs, latency_s, held, held_latency_s):
        self.median = float(np.median(latency_s))

    def _predict(self, graphs):
        return np.full(len(graphs), self.median)

    def _is_fitted(self):
        return self.median is not None

    def _describe(self):
        return {}

    def _write(self, folder):
        (folder / "median.json").write_text(json.dumps(self.median))

    @classmethod
    def _read(cls, folder, card):
        regressor = cls()
        regressor.median = json.loads((Path(folder) / "median.json").read_text())
        return regressor
"""

RUN = """
import sys
import numpy as np
from tests.graphs import labelled_graphs
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.registry import REGISTRY, build_regressor
from tvm_costmodel.predictors.loading import load_predictor

graphs, latency_s = labelled_graphs(12)[:2]
regressor = build_regressor("median").fit(graphs, latency_s)
regressor.save(sys.argv[1])
loaded = load_predictor(sys.argv[1])
assert "median" in REGISTRY and list(REGISTRY)[-1] == "median"
assert loaded.name == "median"
assert abs(loaded.predict(graphs[0]).latency_s - float(np.median(latency_s))) < 1e-12
try:
    REGISTRY["not_one"]
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: a module and the metadata of its distribution."""
    site = tmp_path / "site"
    metadata = site / "median_model-1.0.dist-info"
    metadata.mkdir(parents=True)
    (site / "median_model.py").write_text(MODULE)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: median-model\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[tvm_costmodel.predictors]\n"
        "median = median_model:MedianRegressor\n"
        "not_one = median_model:Path\n"
        "xgboost = median_model:MedianRegressor\n"
    )
    return site


def test_an_installed_predictor_trains_saves_and_loads(site: Path, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(site), str(root), os.environ.get("PYTHONPATH", "")])
    script = RUN.replace('list(REGISTRY)[-1] == "median"', '{"median", "not_one"} <= set(REGISTRY)')
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "checkpoint")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    assert "ConfigError" in done.stdout and "no subclass of" in done.stdout


def test_a_name_of_this_package_is_not_replaced(site: Path, monkeypatch) -> None:
    from tvm_costmodel.predictors.registry import _CLASSES, ENTRY_POINTS, _Registry

    monkeypatch.syspath_prepend(str(site))
    registry = _Registry(_CLASSES, ENTRY_POINTS)
    assert registry["xgboost"].__module__ == "tvm_costmodel.predictors.xgboost"
    assert set(registry) == {*_CLASSES, "median", "not_one"}
