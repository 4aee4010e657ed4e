"""Every predictor by name; a class is imported when it is first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from tvm_costmodel.errors import ConfigError
from tvm_costmodel.training.regressor import Regressor

_CLASSES = {
    "nar_former_v2": "tvm_costmodel.training.network:NarFormerV2Regressor",
    "xgboost": "tvm_costmodel.baselines.xgboost:XGBoostRegressor",
    "flops": "tvm_costmodel.baselines.flops:FlopsRegressor",
}


class _Registry(Mapping[str, type[Regressor]]):
    def __getitem__(self, name: str) -> type[Regressor]:
        if name not in _CLASSES:
            raise KeyError(name)
        module, _, attribute = _CLASSES[name].partition(":")
        found: type[Regressor] = getattr(importlib.import_module(module), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        return name in _CLASSES

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


REGISTRY: Mapping[str, type[Regressor]] = _Registry()
"""Name of a predictor to its class."""


def regressor_class(name: str) -> type[Regressor]:
    """The class of a predictor.

    Raises:
        ConfigError: No predictor has this name.
    """
    if name not in REGISTRY:
        raise ConfigError(f"unknown predictor {name!r}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]
