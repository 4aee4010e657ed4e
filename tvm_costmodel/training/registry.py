"""Every predictor by name; a class is imported when it is first asked for."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import ConfigError, require_known
from tvm_costmodel.training.regressor import Regressor

_CLASSES = {
    "nar_former_v2": "tvm_costmodel.training.network:NarFormerV2Regressor",
    "nar_former_v2_published": "tvm_costmodel.training.network:PublishedNarFormerV2Regressor",
    "xgboost": "tvm_costmodel.baselines.xgboost:XGBoostRegressor",
    "flops": "tvm_costmodel.baselines.flops:FlopsRegressor",
    "nnlp": "tvm_costmodel.training.nnlp:NnlpRegressor",
    "nn_former": "tvm_costmodel.training.padded_networks:NnFormerRegressor",
    "nar_former": "tvm_costmodel.training.padded_networks:NarFormerRegressor",
    "roofline_former": "tvm_costmodel.training.roofline:RooflineFormerRegressor",
    "roofline_process": "tvm_costmodel.training.process:RooflineProcessRegressor",
    "nar_former_v2_decided": "tvm_costmodel.training.network:DecidedNarFormerV2Regressor",
    "xgboost_decided": "tvm_costmodel.baselines.xgboost:DecidedXGBoostRegressor",
    "flops_decided": "tvm_costmodel.baselines.decided_flops:DecidedFlopsRegressor",
    "kernel_former": "tvm_costmodel.training.roofline:KernelFormerRegressor",
    "relay_kernel_former": "tvm_costmodel.training.relay_former:RelayKernelFormerRegressor",
    "relay_xgboost": "tvm_costmodel.baselines.relay_xgboost:RelayXGBoostRegressor",
}

NETWORKS = (
    "nar_former_v2",
    "nar_former_v2_published",
    "nnlp",
    "nn_former",
    "nar_former",
    "roofline_former",
    "nar_former_v2_decided",
    "kernel_former",
    "relay_kernel_former",
)
"""Predictors that are trained by epochs and can go on from where they stopped."""

DECIDED_OF: Mapping[str, tuple[str, ...]] = {
    "relax": ("kernel_former", "nar_former_v2_decided", "xgboost_decided", "flops_decided"),
    "relay": ("relay_kernel_former", "relay_xgboost", "flops_decided"),
}
"""By compiler, predictors that read what its decisions leave, the usual one first."""

DECIDED = tuple(dict.fromkeys(name for names in DECIDED_OF.values() for name in names))
"""Predictors that read annotated graphs and tell variants of a network apart."""

_EXPORTED = {
    "roofline_former": "tvm_costmodel.training.exported:ExportedRooflineFormer",
    "kernel_former": "tvm_costmodel.training.exported:ExportedKernelFormer",
    "relay_kernel_former": "tvm_costmodel.training.exported:ExportedRelayKernelFormer",
    "nar_former_v2": "tvm_costmodel.training.exported:ExportedNarFormerV2",
    "nar_former_v2_published": "tvm_costmodel.training.exported:ExportedPublishedNarFormerV2",
}


class _Registry(Mapping[str, type[Regressor]]):
    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = classes

    def __getitem__(self, name: str) -> type[Regressor]:
        module, _, attribute = self._classes[name].partition(":")
        found: type[Regressor] = getattr(importlib.import_module(module), attribute)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)


REGISTRY: Mapping[str, type[Regressor]] = _Registry(_CLASSES)
"""Name of a predictor to its class."""

EXPORTED: Mapping[str, type[Regressor]] = _Registry(_EXPORTED)
"""Name of a network that can be exported to ONNX to the class that runs it there."""


def regressor_class(name: str) -> type[Regressor]:
    """The class of a predictor.

    Raises:
        ConfigError: No predictor has this name.
    """
    if name not in REGISTRY:
        raise ConfigError(f"unknown predictor {name!r}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def build_regressor(
    name: str,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    state_dir: Path | None = None,
    resume: bool = False,
) -> Regressor:
    """A predictor that is ready to be trained.

    Args:
        name: From the registry.
        seed: Of its training; the FLOPs predictor has none.
        settings: Recipe to change: for networks, fields of its ``recipe`` and, where the class
            names them in ``shape_settings``, of its ``config_class``, and ``members`` where it
            has those; arguments of the constructor for others.
        state_dir: Where a network keeps its state after every epoch.
        resume: Whether a network goes on from that state.

    Raises:
        ConfigError: An unknown predictor or setting, or a value of the wrong type or range.
    """
    found: Any = regressor_class(name)
    changes = dict(settings or {})
    try:
        if name in NETWORKS:
            arguments = _network_arguments(found, seed, changes)
            regressor: Regressor = found(**arguments, state_dir=state_dir, resume=resume)
        else:
            require_known(changes, _arguments(found), f"{name} does not take these settings")
            seeded = {"seed": seed} if "seed" in _arguments(found) else {}
            regressor = found(**{**seeded, **changes})
    except TypeError as error:
        raise ConfigError(f"{name} does not take these settings: {error}") from error
    return regressor


def _network_arguments(found: Any, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a network's constructor: recipe, shape and members as the settings say."""
    defaults = inspect.signature(found).parameters
    whole = {k: defaults[k].default for k in ("members",) if k in defaults}
    shape = {k: getattr(found.config_class(), k) for k in found.shape_settings}
    recipe = {f.name: getattr(found.recipe, f.name) for f in fields(found.recipe)}
    known = {**recipe, **shape, **whole}
    require_known(changes, tuple(known), f"{found.name} does not take these settings")
    for name, value in changes.items():
        _check_type(name, value, known[name])
    arguments = {k: v for k, v in changes.items() if k in whole}
    if chosen := {k: v for k, v in changes.items() if k in shape}:
        arguments["model"] = found.config_class(**chosen)
    chosen = {k: v for k, v in changes.items() if k in recipe}
    return {**arguments, "training": replace(found.recipe, **{"seed": seed, **chosen})}


def _check_type(name: str, value: Any, default: Any) -> None:
    wanted = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, wanted) or isinstance(value, bool) != isinstance(default, bool):
        raise ConfigError(
            f"{name} is {value!r}: give one of type {type(default).__name__}, for instance "
            f"{default!r}"
        )


def _arguments(constructor: Any) -> list[str]:
    """Names of a constructor's arguments."""
    return list(inspect.signature(constructor).parameters)
