"""Front ends: one file per source of operator graphs, and `load_model` for files of any of them."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel import graph_json
from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.frontends.tvm_generation import has_relay, require_relax
from tvm_costmodel.graph import OpGraph

if TYPE_CHECKING:
    from tvm import IRModule

_HOMES = {
    "ExportGraph": "relax",
    "from_onnx": "onnx",
    "from_relax": "relax",
    "from_relay": "relay",
    "from_torch": "torch",
    "load_onnx": "onnx",
    "load_relay_model": "relay_files",
    "onnx_to_relax": "onnx",
    "onnx_to_relay": "relay_files",
    "torch_to_relax": "torch",
}

__all__ = ["LoadedModel", "from_json", "load_model", "load_module", *sorted(_HOMES)]

_ACCEPTED = (
    "accepted: an .onnx file, a .pt2 saved by torch.export.save, the JSON of a Relax module "
    "(tvm.ir.save_json), or an OpGraph's JSON (tvm-costmodel export)"
)
_ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True)
class LoadedModel:
    """A model file as read.

    Attributes:
        graph: Its operators.
        module: The Relax module to compile; None for a file that holds only a graph.
        path: Where it came from.
    """

    graph: OpGraph
    module: IRModule | None
    path: str


def load_model(
    path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
) -> LoadedModel:
    """Reads a model file of any accepted kind, which its content tells and not its name.

    Args:
        path: ONNX model, ``.pt2`` archive, Relax module as JSON, or OpGraph as JSON.
        shapes: Input name -> shape, for inputs with dynamic dimensions.

    Raises:
        ModelFileError: The file cannot be read, is of no accepted kind, or leaves inputs dynamic
            that ``shapes`` does not set.
        UnsupportedOperatorError: The file has operators that TVM's importer does not know.
        GraphError: The file is an OpGraph's JSON, but a malformed one.
    """
    label = os.fspath(path)
    kind, text = _recognise(Path(path))
    if kind == "opgraph":
        if shapes:
            raise ModelFileError(
                f"{label}: an OpGraph's shapes are fixed; leave --shape out, or export the model "
                "again with it"
            )
        try:
            return LoadedModel(OpGraph.from_json(text), None, label)
        except GraphError as error:
            raise GraphError(f"{label}: {error}") from error
    module = _import_module(kind, path, text, shapes)
    from tvm_costmodel.frontends.relax import from_relax

    return LoadedModel(from_relax(module), module, label)


def load_module(
    path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
) -> IRModule:
    """Reads a model file as a Relax module; arguments and errors as `load_model`.

    Args:
        path: ONNX model, ``.pt2`` archive or Relax module as JSON.
        shapes: Input name -> shape, for inputs with dynamic dimensions.

    Raises:
        ModelFileError: See `load_model`; or the file holds a graph without a program.
    """
    module = load_model(path, shapes).module
    if module is None:
        raise ModelFileError(
            f"{os.fspath(path)}: an OpGraph's JSON has no weights and cannot be compiled; give the "
            "model that it was exported from"
        )
    return module


def from_json(text: str) -> OpGraph:
    """Reads an OpGraph's canonical JSON.

    Args:
        text: What `OpGraph.to_json` wrote.

    Raises:
        GraphError: The text is no OpGraph's JSON, or a malformed one.
    """
    return OpGraph.from_json(text)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def is_json(head: bytes) -> bool:
    """Whether a file that begins so may be JSON."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def read_start(path: Path, accepted: str, wanted: Callable[[bytes], bool]) -> tuple[bytes, bytes]:
    """The first bytes of a model file, and all of it where they are wanted ones.

    Args:
        path: The file.
        accepted: What files are accepted, for messages.
        wanted: Whether a file that begins so shall be read; empty content otherwise.

    Raises:
        ModelFileError: The file cannot be read or is empty.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
            content = head + stream.read() if wanted(head) else b""
    except IsADirectoryError:
        raise ModelFileError(f"{path}: a folder; {accepted}") from None
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not head:
        raise ModelFileError(f"{path}: the file is empty; export or download the model again")
    return head, content


def _recognise(path: Path) -> tuple[str, str]:
    """The kind of a file, by its content, and its text where it is JSON."""
    head, content = read_start(path, _ACCEPTED, is_json)
    looks_json = is_json(head)
    if head.startswith(_ZIP_MAGIC):
        return "torch", ""
    if not looks_json:
        return "onnx", ""
    try:
        text = content.decode("utf-8-sig")
        parsed = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFileError(f"{path}: damaged or truncated JSON ({error}); {_ACCEPTED}") from None
    if isinstance(parsed, dict) and parsed.get("format") == graph_json.FORMAT:
        return "opgraph", text
    if isinstance(parsed, dict) and {"root_index", "nodes"} <= set(parsed):
        return "relax", text
    keys = ", ".join(list(parsed)[:5]) if isinstance(parsed, dict) else type(parsed).__name__
    raise ModelFileError(f"{path}: JSON of something else (it holds: {keys}); {_ACCEPTED}")


def _import_module(
    kind: str,
    path: str | os.PathLike[str],
    text: str,
    shapes: Mapping[str, Sequence[int]] | None,
) -> IRModule:
    if has_relay():
        require_relax()
    if kind == "relax":
        return _relax_module(text, os.fspath(path), shapes)
    if kind == "torch":
        from tvm_costmodel.frontends.torch import torch_to_relax

        return torch_to_relax(path, shapes=shapes)
    from tvm_costmodel.frontends.onnx import onnx_to_relax, read_onnx

    if Path(path).suffix != ".onnx":
        try:
            read_onnx(path, external_data=False)
        except ModelFileError as error:
            raise ModelFileError(f"{error}; {_ACCEPTED}") from None
    return onnx_to_relax(path, shapes)


def _relax_module(text: str, label: str, shapes: Mapping[str, Sequence[int]] | None) -> IRModule:
    import tvm
    from tvm import relax

    from tvm_costmodel.frontends.relax_shapes import bind_shapes

    try:
        module = tvm.ir.load_json(text)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelFileError(
            f"{label}: TVM {tvm.__version__} cannot read this JSON ({first}); save it again with "
            "tvm.ir.save_json of this version"
        ) from error
    functions = dict(module.functions) if isinstance(module, tvm.IRModule) else {}
    names = {str(variable.name_hint): function for variable, function in functions.items()}
    if not isinstance(names.get("main"), relax.Function):
        raise ModelFileError(
            f"{label}: TVM's JSON, but no module with a Relax function main (it holds "
            f"{', '.join(names) or type(module).__name__}); save a Relax module"
        )
    return bind_shapes(module, shapes, label)
