"""Checkpoint directories: ``checkpoint.json`` (the card) and one file of weights.

A network's checkpoint may also hold the network in ONNX, exported from exactly those weights. A
directory appears whole or not at all: it is written under another name and moved into place.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tvm_costmodel.atomic_files import write_atomically
from tvm_costmodel.bounded_reading import parse_json, read_small, require_types
from tvm_costmodel.errors import CheckpointError, ConfigError, CostModelError
from tvm_costmodel.predictors.conformal import Interval

if TYPE_CHECKING:
    from typing_extensions import Self

FORMAT = "tvm-costmodel-checkpoint"
FORMAT_VERSION = 1
CARD = "checkpoint.json"
EXPORT = "model.onnx"
_WRITTEN_HERE = ("format", "format_version", "weights", "onnx")

Card = dict[str, Any]

RENAMED: Mapping[str, str] = {
    "roofline_process": "roofline_gp",
    "nar_former_v2_decided": "nar_former_v2_kernel",
    "xgboost_decided": "xgboost_kernel",
    "flops_decided": "flops_kernel",
}
"""Name on an older card to the predictor's name in the registry."""


_CURRENT = {**RENAMED, "accuracy/cell_process": "accuracy/cell_gp"}


def current_name(name: str) -> str:
    """The name in use of the predictor that a card names."""
    return _CURRENT.get(name, name)


def refuse_renamed(name: str) -> None:
    """Refuses a name that only older cards hold.

    Raises:
        ConfigError: The message gives the name in use.
    """
    if name in RENAMED:
        raise ConfigError(f"predictor {name!r} is now called {RENAMED[name]!r}")


@dataclass(frozen=True)
class Export:
    """A checkpoint's network in ONNX.

    Attributes:
        content: The serialised model.
        origin: How it was exported: opset, versions, and its largest difference from the network.
    """

    content: bytes
    origin: Mapping[str, Any]


class Checkpointed(ABC):
    """What is saved to and loaded from checkpoint directories.

    Attributes:
        name: Name in the registry.
        prefix: What stands before the name in checkpoints.
        label_unit: Unit of the labels.
        card: The checkpoint's record of the training (device, training set, metrics).
    """

    name: ClassVar[str]
    prefix: ClassVar[str] = ""
    label_unit: ClassVar[str]
    card: Card

    def save(self, directory: str | Path) -> Path:
        """Writes a checkpoint directory, whole or not at all.

        Raises:
            CheckpointError: Not fitted, or the directory holds something else.
        """
        self.require_fitted("fit first")
        named = {"predictor": self.prefix + self.name, "label_unit": self.label_unit}
        card = {**named, **self._entries(), **self.card, "model": self._describe()}
        return write_checkpoint(directory, card, self._write, self._export())

    @classmethod
    def load(cls, directory: str | Path, **options: Any) -> Self:
        """Reads what `save` wrote.

        Raises:
            CheckpointError: Missing, damaged, foreign, or of another version or vocabulary.
        """
        card = read_card(directory, cls.prefix + cls.name)
        try:
            loaded = cls._of_card(Path(directory), card, **options)
        except CostModelError:
            raise
        except Exception as error:  # weights of other shapes and types raise many kinds
            said = (str(error).splitlines() or [""])[0]
            raise CheckpointError(
                f"{directory} does not hold a {cls.name} predictor of this version "
                f"({type(error).__name__}: {said}): train it again with `tvm-costmodel train`"
            ) from error
        written = {*_WRITTEN_HERE, "predictor", "label_unit", "model", *loaded._entries()}
        loaded.card = {key: value for key, value in card.items() if key not in written}
        return loaded

    def require_fitted(self, remedy: str) -> None:
        """Refuses to go on untrained.

        Raises:
            CheckpointError: There is nothing to predict with; ``remedy`` is what to call.
        """
        if not self._is_fitted():
            raise CheckpointError(f"this {self.name} predictor is not trained: call {remedy}")

    @abstractmethod
    def _is_fitted(self) -> bool:
        """Whether there is something to predict with."""

    @abstractmethod
    def _entries(self) -> Mapping[str, Any]:
        """Entries of the card, other than `card` and the model, that `_of_card` reads."""

    @abstractmethod
    def _describe(self) -> Mapping[str, Any]:
        """JSON values from which `_read` makes an equal regressor, without its weights."""

    @abstractmethod
    def _write(self, folder: Path) -> None:
        """Writes the one file of weights."""

    def _export(self) -> Export | None:
        """The network in ONNX to store in the checkpoint together with the weights, if any."""
        return None

    @classmethod
    @abstractmethod
    def _of_card(cls, folder: Path, card: Card) -> Self:
        """What a checked card and the weights next to it record."""


def write_checkpoint(
    directory: str | Path,
    card: Mapping[str, Any],
    write_weights: Callable[[Path], None],
    export: Export | None = None,
) -> Path:
    """Writes a checkpoint directory in one step, replacing an older checkpoint there.

    Args:
        directory: Directory to write.
        card: What `read_card` gives back; its entries on format, weights and export are replaced.
        write_weights: Writes the file of weights into the folder that it is passed.
        export: The network in ONNX, exported from these weights.

    Raises:
        CheckpointError: The directory holds something that is not a checkpoint.
        OSError: The disk is full or the folder cannot be written; the old checkpoint is as it was.
    """
    target = Path(directory)
    if target.exists() and not (target / CARD).exists() and any(target.iterdir()):
        raise CheckpointError(
            f"{target} exists and is not a checkpoint: choose another directory or empty it"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        os.chmod(temporary, 0o755)
        write_weights(temporary)
        (weights,) = temporary.iterdir()
        entries = {key: value for key, value in card.items() if key not in _WRITTEN_HERE}
        full = {"format": FORMAT, "format_version": FORMAT_VERSION, **entries}
        full["weights"] = {"file": weights.name, "sha256": _sha256(weights)}
        if export is not None:
            (temporary / EXPORT).write_bytes(export.content)
            full["onnx"] = {
                "file": EXPORT,
                "sha256": _sha256(temporary / EXPORT),
                "of_weights": full["weights"]["sha256"],
                **export.origin,
            }
        text = json.dumps(full, indent=2, allow_nan=False) + "\n"
        write_atomically(temporary / CARD, text)
        _replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def read_card(directory: str | Path, predictor: str | None = None) -> Card:
    """Reads and checks a checkpoint's card and that its weights are whole.

    Args:
        directory: The checkpoint.
        predictor: Predictor that it must be for; any when not given.

    Returns:
        The card; an older card gets the name of the predictor that is in use.

    Raises:
        CheckpointError: It is missing, foreign, damaged, of another version or predictor.
    """
    folder = Path(directory)
    try:
        card = parse_json(read_small(folder / CARD))
    except FileNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {folder} ({CARD} is missing): train one with "
            "`tvm-costmodel train`, or name one of those that `tvm-costmodel models` lists"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / CARD} cannot be read ({error}): train again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CARD} is not a checkpoint of this package: train one with "
            "`tvm-costmodel train`"
        )
    if card.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {card.get('format_version')}, this package reads "
            f"{FORMAT_VERSION}: train it again with `tvm-costmodel train`"
        )
    try:
        _check_card(card)
    except ValueError as error:
        raise CheckpointError(
            f"{folder / CARD} is damaged: {error}; train it again with `tvm-costmodel train`"
        ) from None
    if isinstance(card.get("predictor"), str):
        card["predictor"] = current_name(card["predictor"])
    if predictor is not None and card.get("predictor") != predictor:
        raise CheckpointError(
            f"{folder} holds a {card.get('predictor')!r} predictor, not {predictor!r}: "
            "name the directory of the right one"
        )
    weights = card.get("weights") or {}
    path = folder / str(weights.get("file"))
    if not path.is_file() or _sha256(path) != weights.get("sha256"):
        raise CheckpointError(
            f"{path} is missing or damaged (its checksum is not the one in {CARD}): "
            "copy the whole directory again, or train again"
        )
    return card


_CARD_TYPES: dict[str, type | tuple[type, ...]] = {
    "predictor": str,
    "device": str,
    "machine": dict,
    "pipeline_key": str,
    "training_set": str,
    "label_unit": str,
    "trained_on": int,
    "families": list,
    "interval": (dict, type(None)),
    "calibration": (dict, type(None)),
    "model": dict,
    "weights": dict,
    "onnx": dict,
    "test": dict,
    "validation": dict,
}
_FILE_TYPES: dict[str, type | tuple[type, ...]] = {"file": str, "sha256": str, "of_weights": str}


def _check_card(card: Card) -> None:
    """Raises ValueError where a field is of another type than `write_checkpoint` writes."""
    require_types(card, _CARD_TYPES)
    for name in ("weights", "onnx"):
        record = card.get(name, {})
        require_types(record, _FILE_TYPES)
        file = record.get("file", "")
        if file != Path(file).name:
            raise ValueError(f"{name} are in {file[:60]!r}, outside of the checkpoint")
    if "device" in card and not card["device"].strip():
        raise ValueError("its device is empty, so it is not known what it predicts for")
    if card.get("interval"):
        Interval.from_card(card["interval"])


def read_export(directory: str | Path) -> Export:
    """Reads and checks the network in ONNX of a checkpoint.

    Raises:
        CheckpointError: `read_card` raises it, or the checkpoint holds no export, a damaged one,
            or one that was made from other weights.
    """
    folder = Path(directory)
    card = read_card(folder)
    remedy = (
        f"write one with `tvm-costmodel models export {folder} -o DIR`, where torch is installed"
    )
    if "onnx" not in card:
        raise CheckpointError(f"{folder} holds no network in ONNX: {remedy}")
    origin = dict(card["onnx"])
    path = folder / str(origin.pop("file", None))
    if not path.is_file() or _sha256(path) != origin.pop("sha256", None):
        raise CheckpointError(
            f"{path} is missing or damaged (its checksum is not the one in {CARD}): "
            f"copy the whole directory again, or {remedy}"
        )
    if origin.pop("of_weights", None) != card["weights"]["sha256"]:
        raise CheckpointError(
            f"{path} was made from other weights than those of the checkpoint: {remedy}"
        )
    return Export(path.read_bytes(), origin)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(source: Path, target: Path) -> None:
    """Moves a directory over another one; the old one comes back when the move fails."""
    if not target.exists():
        os.replace(source, target)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.replace(target, old / "checkpoint")
    try:
        os.replace(source, target)
    except OSError:
        os.replace(old / "checkpoint", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
