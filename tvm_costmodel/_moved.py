"""Imports of modules under the names that they had in version 0.1, with a `DeprecationWarning`."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "tvm_costmodel"

MOVED: Mapping[str, str] = {
    "baselines.cell_features": "nas.cell_features",
    "baselines.xgboost": "predictors.xgboost",
    "frontends.nnmeter": "datasets.nn_meter",
    "frontends.onnx_importer": "frontends.onnx.relax_importer",
    "frontends.torch": "frontends.torch_export",
    "predictor": "predictors.loading",
    "profiling.dataset": "profiling.label_files.networks",
    "profiling.relay_server": "profiling.runners.relay_rpc_server",
    "tokenizer.cells": "nas.cell_tokens",
    "training.accuracy": "nas.accuracy",
    "training.adaptation": "transfer.device_prior",
    "training.calibration": "transfer.calibration",
    "training.registry": "predictors.registry",
    "training.regressor": "predictors.base",
    "training.roofline": "predictors.roofline_former",
    "tuning.annotation": "tuning.annotate.relax",
    "tuning.compile_pass": "tuning.relax_pipeline",
}
"""Old name -> present name of each module that documentation of version 0.1 told to import."""


class _Alias(Loader):
    """Loads a module that is imported under its old name as the present one itself."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import system has put the old name's there


class _MovedFinder(MetaPathFinder):
    """Finds the modules of `MOVED`, and the packages that only they were in."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        name = fullname.removeprefix(f"{PACKAGE}.")
        if name == "baselines":
            return ModuleSpec(fullname, None, is_package=True)
        if name not in MOVED:
            return None
        present = f"{PACKAGE}.{MOVED[name]}"
        warnings.warn(f"{fullname} is {present} now", DeprecationWarning, stacklevel=2)
        return ModuleSpec(fullname, _Alias(present))


def install() -> None:
    """Makes the old names importable; a second call does nothing."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
