"""Every predictor by name; a class is imported when it is first looked up."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from tvm_costmodel.errors import ConfigError, require_known
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.checkpoint import RENAMED, refuse_renamed

__all__ = [
    "DECISION_AWARE",
    "DECISION_AWARE_FOR",
    "ENTRY_POINTS",
    "EXPORTED",
    "NETWORKS",
    "REGISTRY",
    "RENAMED",
    "build_regressor",
    "regressor_class",
    "require_decision_aware",
]

_PACKAGE = "tvm_costmodel.predictors"

_CLASSES = {
    "nar_former_v2": "token_networks:NarFormerV2Regressor",
    "nar_former_v2_published": "token_networks:PublishedNarFormerV2Regressor",
    "xgboost": "xgboost:XGBoostRegressor",
    "flops": "flops:FlopsRegressor",
    "nnlp": "token_networks:NnlpRegressor",
    "nn_former": "token_networks:NnFormerRegressor",
    "nar_former": "token_networks:NarFormerRegressor",
    "roofline_former": "roofline_former:RooflineFormerRegressor",
    "roofline_gp": "roofline_gp:RooflineGPRegressor",
    "nar_former_v2_kernel": "token_networks:TunedNarFormerV2Regressor",
    "xgboost_kernel": "xgboost:KernelXGBoostRegressor",
    "flops_kernel": "flops:KernelFlopsRegressor",
    "kernel_former": "kernel_former:KernelFormerRegressor",
    "relay_kernel_former": "relay_kernel_former:RelayKernelFormerRegressor",
    "relay_xgboost": "xgboost:RelayXGBoostRegressor",
}

NETWORKS = (
    "nar_former_v2",
    "nar_former_v2_published",
    "nnlp",
    "nn_former",
    "nar_former",
    "roofline_former",
    "nar_former_v2_kernel",
    "kernel_former",
    "relay_kernel_former",
)
"""Predictors that are trained by epochs and can resume an interrupted training."""

DECISION_AWARE_FOR: Mapping[str, tuple[str, ...]] = {
    "relax": ("kernel_former", "nar_former_v2_kernel", "xgboost_kernel", "flops_kernel"),
    "relay": ("relay_kernel_former", "relay_xgboost", "flops_kernel"),
}
"""Compiler to the predictors that read its decisions from annotated graphs, the default first."""

DECISION_AWARE = tuple(dict.fromkeys(sum(DECISION_AWARE_FOR.values(), ())))
"""Predictors that read annotated graphs and distinguish variants of a network."""

_EXPORTED = {
    "roofline_former": "onnx_runtime:ExportedRooflineFormer",
    "kernel_former": "onnx_runtime:ExportedKernelFormer",
    "relay_kernel_former": "onnx_runtime:ExportedRelayKernelFormer",
    "nar_former_v2": "onnx_runtime:ExportedNarFormerV2",
    "nar_former_v2_published": "onnx_runtime:ExportedPublishedNarFormerV2",
}


class _Registry(Mapping[str, type[Regressor]]):
    """Name to class: ``module:class`` of this package, and entry points of others.

    Args:
        classes: Name to ``module:class`` with modules of this package.
        group: Group of entry points that adds to them; a name of this package's own wins.
    """

    def __init__(self, classes: Mapping[str, str], group: str = "") -> None:
        self._classes = classes
        self._group = group

    @cached_property
    def _installed(self) -> dict[str, metadata.EntryPoint]:
        if not self._group:
            return {}
        points = {point.name: point for point in metadata.entry_points(group=self._group)}
        return {name: point for name, point in points.items() if name not in self._classes}

    def __getitem__(self, name: str) -> type[Regressor]:
        if name in self._classes:
            module, _, attribute = self._classes[name].partition(":")
            own: type[Regressor] = getattr(
                importlib.import_module(f"{_PACKAGE}.{module}"), attribute
            )
            return own
        point = self._installed[name]
        try:
            regressor_type = point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"predictor {name!r} is registered as {point.value}, which does not import: "
                f"{error}; install its package again"
            ) from error
        if not (isinstance(regressor_type, type) and issubclass(regressor_type, Regressor)):
            raise ConfigError(
                f"predictor {name!r} is registered as {point.value}, which is no subclass of "
                f"{Regressor.__module__}.{Regressor.__name__}"
            )
        return regressor_type

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter([*self._classes, *self._installed])

    def __len__(self) -> int:
        return len(self._classes) + len(self._installed)


ENTRY_POINTS = "tvm_costmodel.predictors"
"""Group of entry points by which an installed package adds predictors."""

REGISTRY: Mapping[str, type[Regressor]] = _Registry(_CLASSES, ENTRY_POINTS)
"""Name of a predictor to its class: those of this package and those of installed ones."""

EXPORTED: Mapping[str, type[Regressor]] = _Registry(_EXPORTED)
"""Name of a network that can be exported to ONNX to the class that runs it there."""


def regressor_class(name: str) -> type[Regressor]:
    """The class of a predictor.

    Raises:
        ConfigError: No predictor has this name; a name in `RENAMED` is answered with the one in
            use.
    """
    refuse_renamed(name)
    if name not in REGISTRY:
        raise ConfigError(f"unknown predictor {name!r}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]


def require_decision_aware(name: str) -> None:
    """Refuses a predictor that cannot learn from variants.

    Raises:
        ConfigError: It is none of `DECISION_AWARE`.
    """
    refuse_renamed(name)
    if name not in DECISION_AWARE:
        raise ConfigError(
            f"{name} cannot distinguish variants of a network; use one of "
            f"{', '.join(DECISION_AWARE)}"
        )


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
        seed: Seed of its training; the FLOPs predictor needs none.
        settings: Changes of the recipe. For networks these are fields of the class's ``recipe``,
            fields of its ``config_class`` that ``shape_settings`` lists, and ``members`` where
            the constructor takes it; for other predictors, arguments of the constructor.
        state_dir: Directory in which a network keeps its state after every epoch.
        resume: Whether a network resumes from that state.

    Raises:
        ConfigError: An unknown predictor or setting, or a value of the wrong type or range.
    """
    regressor_type: Any = regressor_class(name)
    changes = dict(settings or {})
    try:
        if name in NETWORKS:
            arguments = _network_arguments(regressor_type, seed, changes)
            regressor: Regressor = regressor_type(**arguments, state_dir=state_dir, resume=resume)
        else:
            parameters = _arguments(regressor_type)
            require_known(changes, parameters, f"{name} does not take these settings")
            seeded = {"seed": seed} if "seed" in parameters else {}
            regressor = regressor_type(**{**seeded, **changes})
    except TypeError as error:
        raise ConfigError(f"{name} does not take these settings: {error}") from error
    return regressor


def _network_arguments(
    regressor_type: Any, seed: int, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments of a network's constructor: recipe, shape and members with the changes applied."""
    parameters = inspect.signature(regressor_type).parameters
    default_recipe = regressor_type.recipe
    whole = {k: parameters[k].default for k in ("members",) if k in parameters}
    shape = {k: getattr(regressor_type.config_class(), k) for k in regressor_type.shape_settings}
    recipe = {f.name: getattr(default_recipe, f.name) for f in fields(default_recipe)}
    defaults = {**recipe, **shape, **whole}
    require_known(changes, tuple(defaults), f"{regressor_type.name} does not take these settings")
    for name, value in changes.items():
        _check_type(name, value, defaults[name])
    arguments = {k: v for k, v in changes.items() if k in whole}
    if shape_changes := {k: v for k, v in changes.items() if k in shape}:
        arguments["model"] = regressor_type.config_class(**shape_changes)
    recipe_changes = {k: v for k, v in changes.items() if k in recipe}
    return {**arguments, "training": replace(default_recipe, **{"seed": seed, **recipe_changes})}


def _check_type(name: str, value: Any, default: Any) -> None:
    allowed = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, allowed) or isinstance(value, bool) != isinstance(default, bool):
        raise ConfigError(
            f"{name} is {value!r}: give one of type {type(default).__name__}, for instance "
            f"{default!r}"
        )


def _arguments(constructor: Any) -> list[str]:
    """Names of a constructor's arguments."""
    return list(inspect.signature(constructor).parameters)
