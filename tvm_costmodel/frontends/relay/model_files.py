"""Model files as Relay modules: ONNX, Relay's text and JSON; and graphs alone."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import GraphError, ModelFileError
from tvm_costmodel.frontends.model_files import LoadedModel, is_json, read_start
from tvm_costmodel.frontends.relay.export import from_relay, with_types
from tvm_costmodel.graph import serialization
from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.tvm_version import require_relay

if TYPE_CHECKING:
    import onnx
    from tvm import IRModule

    from tvm_costmodel.frontends.onnx.reader import OnnxSource, Shapes, Weights

_ACCEPTED = (
    "accepted with --compiler relay: an .onnx file, a Relay module's text (mod.astext()) or JSON "
    "(tvm.ir.save_json), or an OpGraph's JSON"
)


def load_relay_model(
    path: str | os.PathLike[str], shapes: Mapping[str, Sequence[int]] | None = None
) -> LoadedModel:
    """Reads a model file as a Relay module and its graph.

    Args:
        path: ONNX model, a Relay module as text or as JSON, or an OpGraph's JSON.
        shapes: Input name -> shape, for ONNX inputs with dynamic dimensions.

    Raises:
        ModelFileError: The file cannot be read, is of no accepted kind, or leaves inputs dynamic.
        UnsupportedOperatorError: It has operators that Relay's importer does not know.
        GraphError: The file is an OpGraph's JSON, but a malformed one.
        MissingDependencyError: The installed TVM has no Relay.
    """
    label = os.fspath(path)
    text = _text(Path(path))
    if text and f'"{serialization.FORMAT}"' in text[:4096]:
        try:
            return LoadedModel(OpGraph.from_json(text), None, label)
        except GraphError as error:
            raise GraphError(f"{label}: {error}") from error
    require_relay()
    if not text:
        module = onnx_to_relay(path, shapes)
    elif shapes:
        raise ModelFileError(f"{label}: a Relay module's shapes are fixed; leave --shape out")
    else:
        module = _read_module(text, label)
    return LoadedModel(from_relay(module), module, label)


def onnx_to_relay(
    model: OnnxSource, shapes: Shapes | None = None, *, weights: Weights = "file"
) -> IRModule:
    """Imports an ONNX model into Relay, cleaned as for Relax: typed, weights as constants.

    Args:
        model: Path of an ``.onnx`` file, or a model in memory.
        shapes: Input name -> shape, for inputs with dimensions that the file leaves open.
        weights: See `tvm_costmodel.frontends.onnx.reader.load_onnx`.

    Raises:
        ModelFileError: The model cannot be read or imported.
        UnsupportedOperatorError: An operator is one that Relay's importer does not know.
        MissingDependencyError: The installed TVM has no Relay.
    """
    from tvm_costmodel.frontends.onnx.reader import import_cleaned, load_onnx, model_label

    require_relay()
    cleaned = load_onnx(model, shapes, weights=weights, supported=_supported_operators)
    return import_cleaned(cleaned, model_label(model), _convert)


def _supported_operators() -> Collection[str]:
    importer: Any = importlib.import_module("tvm.relay.frontend.onnx")
    newest = importlib.import_module("onnx").defs.onnx_opset_version()
    return frozenset(importer._get_convert_map(newest)) | {"Constant", "If", "Loop", "Scan"}


def _convert(model: onnx.ModelProto) -> IRModule:
    """Runs Relay's importer and folds the shape arithmetic that it leaves."""
    relay: Any = importlib.import_module("tvm.relay")
    module, _ = relay.frontend.from_onnx(model, freeze_params=True)
    return with_types(relay.transform.DynamicToStatic()(with_types(module)))


def _is_text(head: bytes) -> bool:
    return is_json(head) or re.match(rb"\s*(#\[version|def @|fn )", head) is not None


def _text(path: Path) -> str:
    """The file's content where it is text, else empty."""
    head, content = read_start(path, _ACCEPTED, _is_text)
    if head.startswith(b"PK\x03\x04"):
        raise ModelFileError(f"{path}: torch.export archives are read into Relax; {_ACCEPTED}")
    return content.decode("utf-8-sig", errors="replace")


def _read_module(text: str, label: str) -> IRModule:
    tvm: Any = importlib.import_module("tvm")
    relay: Any = importlib.import_module("tvm.relay")
    is_json = text.lstrip()[:1] in ("{", "[")
    try:
        module = tvm.ir.load_json(text) if is_json else relay.fromtext(text)
    except Exception as error:  # TVM raises many kinds, with no common root
        first = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise ModelFileError(
            f"{label}: TVM {tvm.__version__} cannot read this as Relay ({first[:200]}); save it "
            f"with this version; {_ACCEPTED}"
        ) from error
    if isinstance(module, relay.Function):
        module = tvm.IRModule.from_expr(module)
    names = {}
    if isinstance(module, tvm.IRModule):
        names = {str(v.name_hint): f for v, f in module.functions.items()}
    if not isinstance(names.get("main"), relay.Function):
        raise ModelFileError(
            f"{label}: no module with a Relay function main (it holds "
            f"{', '.join(names) or type(module).__name__}); {_ACCEPTED}"
        )
    return with_types(module)
