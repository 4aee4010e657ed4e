"""Reads ONNX files, cleans them for TVM's importers, and imports them, weights as constants.

The cleaning library is onnxslim. On the nine networks that ship inside the ``onnx`` package it
leaves the fewest nodes (onnxsim 0.8.1 and onnxscript 0.7.2 leave every Dropout, onnxscript also
most constant nodes), and it is the only one of the three whose merging of equal subexpressions
can be switched off: the other two merge branches whose weights happen to be equal and turn
Inception v2's 69 convolutions into 60. Its constant folding needs onnxruntime, so constants are
folded here with ONNX's own reference evaluator instead (`simplify`).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import onnx
from google.protobuf.message import DecodeError
from onnx import external_data_helper

from tvm_costmodel.errors import CostModelError, ModelFileError, UnsupportedOperatorError
from tvm_costmodel.frontends.onnx.external_data import check_external_data
from tvm_costmodel.frontends.onnx.operators.editor import branches_of, node_name
from tvm_costmodel.frontends.onnx.simplify import clean
from tvm_costmodel.frontends.onnx.weights import (
    check_weights_defined,
    fill_missing_weights,
    randomise_weights,
)

if TYPE_CHECKING:
    from tvm import IRModule

    from tvm_costmodel.graph.op_graph import OpGraph

__all__ = ["from_onnx", "load_onnx", "onnx_to_relax", "randomise_weights", "read_onnx"]

logger = logging.getLogger(__name__)

OnnxSource = Union[str, "os.PathLike[str]", onnx.ModelProto]
Shapes = Mapping[str, Sequence[int]]
Weights = Literal["file", "random"]

# Operators of onnxruntime's own domain that TVM's importer knows. It looks at names alone, so
# anything else outside ONNX's domain would be taken for a namesake.
_MICROSOFT_OPS = frozenset(
    {
        "BiasGelu",
        "DepthToSpace",
        "EmbedLayerNormalization",
        "FastGelu",
        "Gelu",
        "SkipLayerNormalization",
    }
)


def load_onnx(
    model: OnnxSource,
    shapes: Shapes | None = None,
    *,
    weights: Weights = "file",
    supported: Callable[[], Collection[str]] | None = None,
) -> onnx.ModelProto:
    """Reads an ONNX model and returns it static and cleaned for TVM's importers.

    Args:
        model: Path of an ``.onnx`` file, or a model in memory (left unchanged).
        shapes: Input name -> shape, for inputs with dimensions that the file leaves open.
        weights: ``"file"`` keeps the file's weights and fills missing ones with random values,
            with a warning; ``"random"`` replaces all of them, so external data is not read.
            Latency does not depend on the values.
        supported: Names the operators that the importer takes; by default those of Relax's.

    Raises:
        ModelFileError: The file cannot be read, or leaves shapes open that ``shapes`` does not
            set, or needs weights whose shapes are unknown.
        UnsupportedOperatorError: An operator is one that the importer does not know.
    """
    label = model_label(model)
    supported = supported or _supported_by_relax
    if isinstance(model, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        proto = read_onnx(model, external_data=weights == "file")
    _check_has_graph(proto, label)
    try:
        return _cleaned(proto, shapes or {}, weights, label, supported)
    except (CostModelError, ImportError):
        raise
    except Exception as error:  # names that are no text, fields of wrong kinds: a damaged file
        raise ModelFileError(
            f"{label}: the model is malformed: {_first(error)}{_fault(proto)}; "
            "export or download it again"
        ) from error


def _cleaned(
    model: onnx.ModelProto,
    shapes: Shapes,
    weights: Weights,
    label: str,
    supported: Callable[[], Collection[str]],
) -> onnx.ModelProto:
    """Cleans a model, and refuses unknown operators last: TVM is imported during cleaning."""
    drop_initialiser_inputs(model)
    check_weights_defined(model, label)
    _set_input_shapes(model, shapes, label)
    fill_missing_weights(model, label)
    operators = _operators(model)
    if weights == "random":
        model = randomise_weights(model)
    try:
        return clean(model, label)
    finally:
        _check_operators(operators, label, supported())


def onnx_to_relax(
    model: OnnxSource, shapes: Shapes | None = None, *, weights: Weights = "file"
) -> IRModule:
    """Imports an ONNX model into Relax: one function ``main``, weights as constants.

    Args:
        model: Path of an ``.onnx`` file, or a model in memory.
        shapes: Input name -> shape, for inputs with dimensions that the file leaves open.
        weights: See `load_onnx`.

    Raises:
        ModelFileError: See `load_onnx`; or the importer fails on a node.
        UnsupportedOperatorError: See `load_onnx`.
    """
    return import_cleaned(load_onnx(model, shapes, weights=weights), model_label(model))


def from_onnx(
    model: OnnxSource, shapes: Shapes | None = None, *, weights: Weights = "file"
) -> OpGraph:
    """Reads an ONNX model as an `OpGraph`.

    Args:
        model: Path of an ``.onnx`` file, or a model in memory.
        shapes: Input name -> shape, for inputs with dimensions that the file leaves open.
        weights: See `load_onnx`.

    Raises:
        ModelFileError: See `onnx_to_relax`.
        UnsupportedOperatorError: See `load_onnx`.
    """
    from tvm_costmodel.frontends.relax.export import from_relax

    return from_relax(onnx_to_relax(model, shapes, weights=weights))


def import_cleaned(
    model: onnx.ModelProto,
    label: str,
    convert: Callable[[onnx.ModelProto], IRModule] | None = None,
) -> IRModule:
    """Imports a model that `load_onnx` returned.

    Args:
        model: Static, cleaned model.
        label: Its name in messages.
        convert: The importer; by default that into Relax.

    Raises:
        ModelFileError: The importer fails on a node.
        UnsupportedOperatorError: The importer does not take an operator in the form it has here.
    """
    if convert is None:
        from tvm_costmodel.frontends.onnx.relax_importer import Importer

        convert = Importer.convert

    # The importer prints to stdout, which belongs to the command line's answer.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()) as chatter:
        warnings.simplefilter("ignore")
        try:
            return convert(model)
        except CostModelError as error:
            raise type(error)(f"{label}: {error}") from error
        except Exception as error:
            logger.debug("%s", chatter.getvalue())
            raise ModelFileError(
                f"{label}: TVM cannot import this model: {_first(error)}{_fault(model)}; "
                "run with --debug for the trace"
            ) from error


def read_onnx(path: str | os.PathLike[str], *, external_data: bool = True) -> onnx.ModelProto:
    """Reads an ONNX file as it is.

    Args:
        path: The ``.onnx`` file.
        external_data: Whether to read the weights that it keeps in separate files.

    Raises:
        ModelFileError: The file is missing, empty, truncated or no ONNX model, or its external
            data is missing or too short.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file; check the path") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not content:
        raise ModelFileError(f"{path}: the file is empty; export or download the model again")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise ModelFileError(
            f"{path}: not an ONNX model, or truncated ({len(content)} bytes do not parse); "
            "export or download the model again"
        ) from None
    _check_has_graph(model, str(path))
    if external_data:
        folder = Path(path).parent
        check_external_data(model, folder, str(path))
        external_data_helper.load_external_data_for_model(model, str(folder))
    return model


def drop_initialiser_inputs(model: onnx.ModelProto) -> None:
    """Takes weights out of the graph's inputs, where IR versions before 4 list them too.

    Args:
        model: Changed in place.
    """
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)


def _fault(model: onnx.ModelProto) -> str:
    """The fault that ONNX's own checker reports, as a clause of a message."""
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        return f" (onnx.checker: {_first(error)})"
    return ""


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def model_label(model: OnnxSource) -> str:
    """The label of a model in messages: its path, or its graph's name."""
    if isinstance(model, onnx.ModelProto):
        return model.graph.name or "ONNX model"
    return os.fspath(model)


def _check_has_graph(model: onnx.ModelProto, label: str) -> None:
    if not model.graph.node or not model.graph.output:
        raise ModelFileError(
            f"{label}: not an ONNX model (it holds no graph with nodes and outputs); "
            "accepted: a model saved by onnx.save or torch.onnx.export"
        )
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    newest = onnx.defs.onnx_opset_version()
    if not versions:
        raise ModelFileError(
            f"{label}: declares no version of ONNX's operator set, so it is truncated or damaged; "
            "export or download the model again"
        )
    if versions[0] > newest:
        raise ModelFileError(
            f"{label}: operator set {versions[0]} is newer than {newest}, the newest that onnx "
            f"{onnx.__version__} knows; export with opset_version={min(newest, 20)}, "
            "or pip install -U onnx"
        )


def _set_input_shapes(model: onnx.ModelProto, shapes: Shapes, label: str) -> None:
    """Writes ``shapes`` into the inputs; raises ModelFileError for a dimension left open."""
    inputs = {value.name: value for value in model.graph.input}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        raise ModelFileError(
            f"{label}: no input is called {', '.join(unknown)}; its inputs are "
            f"{', '.join(inputs) or '(none)'}"
        )
    for name, shape in shapes.items():
        _set_shape(inputs[name], tuple(shape), label)
    for value in model.graph.input:
        if not value.type.HasField("tensor_type"):
            kind = value.type.WhichOneof("value") or "untyped value"
            raise ModelFileError(
                f"{label}: input {value.name} is a {kind.removesuffix('_type')}; only tensors "
                "are accepted, export the model with tensor inputs"
            )
        if any(d.HasField("dim_value") and d.dim_value == 0 for d in _dims(value)):
            extents = ", ".join(str(dim.dim_value) for dim in _dims(value))
            raise ModelFileError(
                f"{label}: input {value.name} [{extents}] has no elements, so nothing is computed "
                f"from it; give it its real shape: --shape {value.name}={_suggestion(value)}"
            )
    open_inputs = [value for value in inputs.values() if not _is_static(value)]
    if open_inputs:
        listed = "; ".join(f"{v.name} [{', '.join(_dimensions(v))}]" for v in open_inputs)
        remedy = " ".join(f"--shape {v.name}={_suggestion(v)}" for v in open_inputs)
        raise ModelFileError(f"{label}: input has dynamic dimensions: {listed}; fix it: {remedy}")


def _set_shape(value: onnx.ValueInfoProto, shape: tuple[int, ...], label: str) -> None:
    tensor = value.type.tensor_type
    if any(not isinstance(extent, int) or extent < 1 for extent in shape):
        raise ModelFileError(
            f"{label}: --shape {value.name}={','.join(map(str, shape))} must hold positive integers"
        )
    if tensor.HasField("shape"):
        dims = tensor.shape.dim
        clash = len(dims) != len(shape) or any(
            dim.dim_value > 0 and dim.dim_value != extent
            for dim, extent in zip(dims, shape, strict=False)
        )
        if clash:
            raise ModelFileError(
                f"{label}: --shape {value.name}={','.join(map(str, shape))} does not fit the "
                f"file's [{', '.join(_dimensions(value))}]; only dynamic dimensions can be set"
            )
    del tensor.shape.dim[:]
    for extent in shape:
        tensor.shape.dim.add().dim_value = extent


def _dims(value: onnx.ValueInfoProto) -> Sequence[Any]:
    return value.type.tensor_type.shape.dim  # type: ignore[no-any-return]


def _is_static(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    return tensor.HasField("shape") and all(dim.dim_value > 0 for dim in tensor.shape.dim)


def _dimensions(value: onnx.ValueInfoProto) -> list[str]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return ["unknown rank"]
    return [str(d.dim_value) if d.dim_value > 0 else d.dim_param or "?" for d in tensor.shape.dim]


def _suggestion(value: onnx.ValueInfoProto) -> str:
    """An example shape: the file's own extents, 1 for the batch and 224 or 128 for the others."""
    dims = list(value.type.tensor_type.shape.dim)
    if not dims:
        return "1,3,224,224"
    other = 224 if len(dims) == 4 else 128
    filled = [d.dim_value or (1 if i == 0 else other) for i, d in enumerate(dims)]
    return ",".join(str(extent) for extent in filled)


def _supported_by_relax() -> Collection[str]:
    from tvm_costmodel.frontends.onnx.relax_importer import supported_operators

    return supported_operators()


def _operators(model: onnx.ModelProto) -> dict[tuple[str, str], str]:
    """A node of each operator, by domain and name, that is no function of the model's own."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = [(node.domain, node.op_type, node_name(node)) for node in _all_nodes(model.graph)]
    return {(domain, op): name for domain, op, name in nodes if (domain, op) not in own}


def _check_operators(
    operators: Mapping[tuple[str, str], str], label: str, supported: Collection[str]
) -> None:
    """Raises UnsupportedOperatorError that lists every operator that the importer lacks."""
    unsupported: dict[str, str] = {}
    for (domain, name), node in operators.items():
        standard = domain in ("", "ai.onnx")
        microsoft = domain == "com.microsoft" and name in _MICROSOFT_OPS
        if not (name in supported and (standard or microsoft)):
            unsupported[name if standard else f"{domain}::{name}"] = f'"{node}"'
    if names := sorted(unsupported):
        raise UnsupportedOperatorError(
            f"{label}: TVM's ONNX importer has no {', '.join(names)} (node "
            f"{', '.join(map(unsupported.__getitem__, names))}); export the model without them "
            "(an LSTM or GRU unrolled, custom operators as standard ones)"
        )


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for branch in branches_of(node):
            yield from _all_nodes(branch)
