"""Reads model files of any accepted kind, recognised by content, as graphs and Relax modules."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tvm_costmodel.bounded_reading import parse_json
from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.graph import serialization
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tvm_version import has_relax, has_relay, require_relax

if TYPE_CHECKING:
    from tvm import IRModule

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
        source: The module to compile, or a function that reads it; None for a file that holds only
            a graph.
        path: Where it came from.
    """

    graph: OpGraph
    source: IRModule | Callable[[], IRModule] | None
    path: str

    @cached_property
    def module(self) -> IRModule | None:
        """The module to compile; None for a file that holds only a graph.

        Raises:
            ModelFileError: The module cannot be read.
        """
        return self.source() if callable(self.source) else self.source


def load_model(
    path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
) -> LoadedModel:
    """Reads a model file of any accepted kind, recognised by its content and not by its name.

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
    graph, module = _import_model(kind, path, text, shapes)
    return LoadedModel(graph, module, label)


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
        text: The output of `OpGraph.to_json`.

    Raises:
        GraphError: The text is no OpGraph's JSON, or a malformed one.
    """
    return OpGraph.from_json(text)


def is_json(head: bytes) -> bool:
    """Whether a file may be JSON, judged by its first bytes."""
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def read_start(
    path: Path, accepted: str, reads_all: Callable[[bytes], bool]
) -> tuple[bytes, bytes]:
    """The first bytes of a model file, and its whole content where a predicate accepts them.

    Args:
        path: The file.
        accepted: The accepted kinds of files, for messages.
        reads_all: Whether to read a file with these first bytes; otherwise the content is empty.

    Raises:
        ModelFileError: The file cannot be read or is empty.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(256)
            content = head + stream.read() if reads_all(head) else b""
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
        parsed = parse_json(text)
    except ValueError as error:
        raise ModelFileError(f"{path}: damaged or truncated JSON ({error}); {_ACCEPTED}") from None
    if isinstance(parsed, dict) and parsed.get("format") == serialization.FORMAT:
        return "opgraph", text
    if isinstance(parsed, dict) and {"root_index", "nodes"} <= set(parsed):
        return "relax", text
    keys = ", ".join(list(parsed)[:5]) if isinstance(parsed, dict) else type(parsed).__name__
    raise ModelFileError(f"{path}: JSON of something else (it holds: {keys}); {_ACCEPTED}")


def _import_model(
    kind: str,
    path: str | os.PathLike[str],
    text: str,
    shapes: Mapping[str, Sequence[int]] | None,
) -> tuple[OpGraph, IRModule | Callable[[], IRModule]]:
    if has_relay() or has_relax():
        require_relax()
    if kind == "relax":
        from tvm_costmodel.frontends.relax.module_files import read_relax_json

        return read_relax_json(text, os.fspath(path), shapes)
    if kind == "torch":
        from tvm_costmodel.frontends.torch_export import read_pt2

        return read_pt2(path, shapes)
    from tvm_costmodel.frontends.onnx.reader import onnx_to_relax, read_onnx
    from tvm_costmodel.frontends.relax.export import from_relax

    if Path(path).suffix != ".onnx":
        try:
            read_onnx(path, external_data=False)
        except ModelFileError as error:
            raise ModelFileError(f"{error}; {_ACCEPTED}") from None
    module = onnx_to_relax(path, shapes)
    return from_relax(module), module
