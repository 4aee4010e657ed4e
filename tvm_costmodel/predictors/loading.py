"""Loads a trained predictor and predicts latencies with it."""

from __future__ import annotations

import importlib.util
import logging
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from tvm_costmodel.errors import (
    CheckpointError,
    ConfigError,
    MissingDependencyError,
    UnsupportedOperatorError,
)
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.predictors.base import Regressor
from tvm_costmodel.predictors.checkpoint import CARD, current_name, read_card, refuse_renamed
from tvm_costmodel.predictors.conformal import OTHER_PROCESSOR, SCALED
from tvm_costmodel.predictors.registry import EXPORTED, NETWORKS, REGISTRY
from tvm_costmodel.profiling.devices import is_other_processor, this_machine
from tvm_costmodel.user_cache import cache_folder, stored_speed

logger = logging.getLogger(__name__)

DEFAULT = "roofline_former"
"""Predictor of a device when only the device is named."""

ENGINES = ("auto", "torch", "onnxruntime")
"""Engines that run a network: ``auto`` is the one that answers sooner, see `load_predictor`."""


class OperatorShare(NamedTuple):
    """The share of one operator in a network's predicted latency.

    Attributes:
        operator: Its id in the graph.
        op: Its canonical name.
        latency_s: Predicted seconds.
    """

    operator: int
    op: str
    latency_s: float


@dataclass(frozen=True, eq=False)
class Estimate:
    """Predicted latency of one network on one device.

    Attributes:
        latency_s: Predicted seconds.
        low_s: Lower end of the interval; NaN when the predictor gives none.
        high_s: Upper end.
        unknown_ops: Operators that the catalogue does not know; they enter the estimate by their
            shapes and bytes only.
        predictor: Name of the predictor.
        device: Device whose measurements it learned from.
        graph: The network.
        regressor: The regressor that predicted it, which also computes `per_op`.
        asked: The device that was asked for, where it is another processor than ``device``; the
            interval is widened for that.
        speed: What the regressor's latencies were multiplied by for that, see `Predictor`.
    """

    latency_s: float
    low_s: float
    high_s: float
    unknown_ops: tuple[str, ...]
    predictor: str
    device: str
    graph: OpGraph
    regressor: Regressor | None = field(default=None, repr=False)
    asked: str = ""
    speed: float = 1.0

    @property
    def graph_hash(self) -> str:
        """Content hash of the network."""
        return self.graph.hash

    @cached_property
    def per_op(self) -> tuple[OperatorShare, ...] | None:
        """Each operator's share, largest first; None where the predictor has no shares.

        The shares sum to `latency_s`. Operators without a share (inputs, views, operators that are
        folded into another one) are left out. Computed on first access.
        """
        seconds = self.regressor.per_operator(self.graph) if self.regressor else None
        if seconds is None:
            return None
        seconds = seconds * self.speed
        order = [int(i) for i in np.argsort(-seconds, kind="stable") if seconds[i] > 0]
        operators = self.graph.operators
        return tuple(OperatorShare(i, operators[i].op, float(seconds[i])) for i in order)


class Predictor:
    """A trained regressor for one device.

    Args:
        regressor: Fitted or loaded.
        device: Device whose measurements it learned from; the card's when not given.
        asked: The device to predict for; intervals are widened where it is another processor.

    Attributes:
        asked: That device, where it is another processor; empty otherwise.
        speed: How many times longer the reference kernel takes there than where the labels were
            measured, which answers are multiplied by; 1 where either is not known.
        widened: Factors on the ends of intervals for another processor.
    """

    def __init__(
        self, regressor: Regressor, device: str | None = None, asked: str | None = None
    ) -> None:
        self.regressor = regressor
        self.device = device or str(regressor.card.get("device", ""))
        self.asked = asked if asked and is_other_processor(asked, self.device) else ""
        speed = _relative_speed(regressor.card, self.asked)
        self.speed, self.widened = (speed, SCALED) if speed else (1.0, OTHER_PROCESSOR)

    @property
    def name(self) -> str:
        """Name of the predictor."""
        return self.regressor.name

    @overload
    def predict(self, graphs: OpGraph, strict: bool = ...) -> Estimate: ...

    @overload
    def predict(self, graphs: Sequence[OpGraph], strict: bool = ...) -> list[Estimate]: ...

    def predict(
        self, graphs: OpGraph | Sequence[OpGraph], strict: bool = False
    ) -> Estimate | list[Estimate]:
        """Predicts the latency of a network, or of many at once, which is faster.

        Args:
            graphs: One network or a list.
            strict: Refuse networks with operators that the catalogue does not know.

        Raises:
            UnsupportedOperatorError: ``strict``, and an operator is unknown.
            GraphError: A graph is empty or has dimensions unknown until run time.
        """
        networks = [graphs] if isinstance(graphs, OpGraph) else list(graphs)
        if strict:
            for graph in networks:
                _refuse_unknown(graph)
        latency = self.regressor.predict(networks) * self.speed
        low, high = self.regressor.bounds(latency)
        if self.asked:
            low, high = low * self.widened[0], high * self.widened[1]
        estimates = [
            Estimate(
                float(latency[i]),
                float(low[i]),
                float(high[i]),
                graph.unknown_ops,
                self.name,
                self.device,
                graph,
                self.regressor,
                self.asked,
                self.speed,
            )
            for i, graph in enumerate(networks)
        ]
        return estimates[0] if isinstance(graphs, OpGraph) else estimates


@dataclass(frozen=True)
class ZooEntry:
    """A checkpoint that ships with the package, or that `calibrate` made for this machine.

    Attributes:
        device: Device whose measurements it learned from.
        predictor: Name of the predictor.
        path: Its directory.
    """

    device: str
    predictor: str
    path: Path

    @property
    def card(self) -> dict[str, Any]:
        """The card of its checkpoint."""
        return read_card(self.path, self.predictor)


def zoo(folder: Path | None = None) -> tuple[ZooEntry, ...]:
    """Every checkpoint of a folder, by device and predictor.

    Args:
        folder: Devices, and their predictors in them. By default those of this user's cache, which
            `tvm-costmodel calibrate` makes, and then those that ship.
    """
    from tvm_costmodel.models import ZOO

    return tuple(
        ZooEntry(path.parent.parent.name, current_name(path.parent.name), path.parent)
        for root in ((cache_folder(), ZOO) if folder is None else (folder,))
        for path in sorted(root.glob(f"*/*/{CARD}"))
    )


def shipped_default() -> Path:
    """The checkpoint of the default predictor that ships, which other devices are calibrated from.

    Raises:
        CheckpointError: None ships.
    """
    from tvm_costmodel.models import ZOO

    for entry in zoo(ZOO):
        if entry.predictor == DEFAULT:
            return entry.path
    raise CheckpointError(f"no {DEFAULT} ships; give a checkpoint with --from")


def load_predictor(
    name_or_dir: str | Path | None = None,
    predictor: str = DEFAULT,
    *,
    device: str | None = None,
    zoo_folder: Path | None = None,
    engine: str = "auto",
) -> Predictor:
    """Loads a predictor.

    Args:
        name_or_dir: A device of the zoo (``cpu-amd-zen5``), a device and predictor
            (``cpu-amd-zen5/xgboost``), or a checkpoint directory; when not given, the zoo's for
            this machine. Where the zoo has none of a processor, that of another one is taken.
        predictor: Which of a device's predictors, when ``name_or_dir`` names only the device.
        device: Device to predict for; any when not given. A predictor of another processor
            answers with a warning, and its intervals are widened.
        zoo_folder: Another zoo than the one that ships with the package.
        engine: One of `ENGINES`. ONNX Runtime runs checkpoints that hold their network in ONNX
            (``tvm-costmodel models export``); XGBoost and FLOPs need neither. ``auto`` is ONNX
            Runtime where it can be and torch, which takes seconds to import, is not loaded yet;
            torch otherwise.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged or of another version, it was
            trained for another kind of device than ``device``, or it holds no export for ONNX
            Runtime.
        ConfigError: An unknown engine, or a predictor's name that only older cards hold.
        MissingDependencyError: The engine is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"unknown engine {engine!r}; known: {', '.join(ENGINES)}")
    path = checkpoint_path(name_or_dir, predictor, zoo_folder)
    card = read_card(path)
    name = card.get("predictor")
    if name not in REGISTRY:
        raise CheckpointError(
            f"{path} is for a predictor {name!r} that this version does not know; "
            f"known: {', '.join(REGISTRY)}"
        )
    learned = str(card.get("device", ""))
    asked = device or _named_processor(name_or_dir)
    if device not in (None, learned) and learned and not is_other_processor(str(device), learned):
        raise CheckpointError(
            f"{path} was trained for {learned}, and {device} was asked for; give --device "
            f"{learned}, train one on labels of {device}, or calibrate this one with a few "
            "measurements (`tvm-costmodel calibrate`)"
        )
    loaded = Predictor(_engine_class(str(name), path, card, engine).load(path), learned, asked)
    if loaded.asked:
        _warn_of_another_processor(loaded)
    return loaded


def _warn_of_another_processor(loaded: Predictor) -> None:
    is_scaled = loaded.widened is SCALED
    factor = f"multiplied by {loaded.speed:.3g}, the speed of a reference kernel"
    logger.warning(
        "%s learned on %s, and %s is another processor: %slatencies were %g to %g times such "
        "answers, and intervals are widened by that; `tvm-costmodel calibrate` corrects it for "
        "this machine in three minutes",
        *(loaded.name, loaded.device, loaded.asked),
        f"answers are {factor}; " if is_scaled else "",
        *loaded.widened,
    )


def _relative_speed(card: Mapping[str, Any], asked: str) -> float | None:
    """The reference kernel's time on a processor over that where the labels were measured."""
    machine = card.get("machine")
    home = machine.get("reference_s") if isinstance(machine, dict) else None
    here = stored_speed(asked) if asked else None
    is_time = isinstance(home, int | float) and 0 < home < math.inf
    return here.reference_s / home if here and home and is_time else None


def _named_processor(name_or_dir: str | Path | None) -> str | None:
    """The device that a user named instead of a directory; this machine's where nothing was."""
    if name_or_dir is None:
        return this_machine().name
    return None if Path(name_or_dir).is_dir() else str(name_or_dir).partition("/")[0]


def _engine_class(name: str, path: Path, card: Mapping[str, Any], engine: str) -> type[Regressor]:
    """The class that runs a checkpoint's predictor on the given engine."""
    if name not in NETWORKS:
        return REGISTRY[name]
    has_torch = importlib.util.find_spec("torch") is not None
    is_exported = name in EXPORTED and "onnx" in card
    if engine == "auto" and "torch" not in sys.modules and is_exported:
        has_onnx_runtime = importlib.util.find_spec("onnxruntime") is not None
        engine = "onnxruntime" if has_onnx_runtime or not has_torch else engine
    if engine == "torch" or (engine == "auto" and has_torch):
        if has_torch:
            return REGISTRY[name]
        raise MissingDependencyError("the torch engine needs PyTorch: pip install torch")
    if is_exported:
        logger.info("%s runs on ONNX Runtime", path)
        return EXPORTED[name]
    export = "it holds no network in ONNX"
    if name in EXPORTED:
        export += f", which `tvm-costmodel models export {path} -o DIR` adds where torch is"
    if engine == "auto":
        raise MissingDependencyError(f"{path} needs PyTorch (pip install torch): {export}")
    raise CheckpointError(f"{path} cannot run on ONNX Runtime: {export}; or take the torch engine")


def checkpoint_path(
    name_or_dir: str | Path | None,
    predictor: str = DEFAULT,
    zoo_folder: Path | None = None,
) -> Path:
    """The directory of a checkpoint, named as for `load_predictor`.

    Raises:
        CheckpointError: There is no such checkpoint.
        ConfigError: The name of a predictor is one that only older cards hold.
    """
    entries = zoo(zoo_folder)
    if name_or_dir is None:
        name_or_dir = this_machine().name
    elif Path(name_or_dir).is_dir():
        return Path(name_or_dir)
    device, _, own = str(name_or_dir).partition("/")
    predictor = own or predictor
    refuse_renamed(predictor)
    refuse_renamed(device)
    fitting = [entry for entry in entries if entry.predictor == predictor]
    for is_wanted in (str.__eq__, is_other_processor):
        for entry in fitting:
            if is_wanted(device, entry.device):
                return entry.path
    shipped = ", ".join(f"{entry.device}/{entry.predictor}" for entry in entries) or "nothing yet"
    raise CheckpointError(
        f"no checkpoint {str(name_or_dir)!r} for {predictor}: it is neither a directory "
        f"nor in the zoo, which holds {shipped}: name one of these and its device, or make one "
        "with `tvm-costmodel profile` and `tvm-costmodel train`"
    )


def _refuse_unknown(graph: OpGraph) -> None:
    if graph.unknown_ops:
        raise UnsupportedOperatorError(
            f"graph {graph.name or graph.hash} has operators that the catalogue does not know: "
            f"{', '.join(graph.unknown_ops)}; leave out --strict (strict=True) to take them by "
            "shape and bytes"
        )
