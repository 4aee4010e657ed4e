"""PyTorch programs (torch.export) imported into Relax with their weights as constants.

The only front end that imports torch, and only when it is called.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from tvm_costmodel.errors import (
    CostModelError,
    MissingDependencyError,
    ModelFileError,
    UnsupportedOperatorError,
)

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram
    from tvm import IRModule

    from tvm_costmodel.graph.op_graph import OpGraph

TorchSource = Union[str, "os.PathLike[str]", "ExportedProgram", "torch.nn.Module"]
Shapes = Mapping[str, Sequence[int]]

# Where the flag `training` stands among the arguments of the operators that have one.
_TRAINING_ARGUMENT = {
    "aten.batch_norm.default": 5,
    "aten.instance_norm.default": 5,
    "aten.native_batch_norm.default": 5,
    "aten._native_batch_norm_legit.default": 5,
    "aten._native_batch_norm_legit_functional.default": 5,
}


def from_torch(
    model: TorchSource,
    example_inputs: tuple[Any, ...] | None = None,
    shapes: Shapes | None = None,
) -> OpGraph:
    """Reads a PyTorch program as an `OpGraph`.

    Args:
        model: See `torch_to_relax`.
        example_inputs: See `torch_to_relax`.
        shapes: See `torch_to_relax`.

    Raises:
        ModelFileError: See `torch_to_relax`.
        UnsupportedOperatorError: See `torch_to_relax`.
    """
    from tvm_costmodel.frontends.relax.export import from_relax

    return from_relax(torch_to_relax(model, example_inputs, shapes))


def torch_to_relax(
    model: TorchSource,
    example_inputs: tuple[Any, ...] | None = None,
    shapes: Shapes | None = None,
) -> IRModule:
    """Imports a PyTorch program into Relax: one function ``main``, weights as constants.

    Args:
        model: The result of ``torch.export.export``, the path of a ``.pt2`` file that
            ``torch.export.save`` wrote, or a module, which is exported in evaluation mode.
        example_inputs: Arguments of a module's ``forward``; not used otherwise.
        shapes: Input name -> shape, for inputs that were exported with dynamic dimensions.

    Raises:
        ModelFileError: The file cannot be read or holds pickled objects, the program was exported
            in training mode or has no weights, an input stays dynamic, or a module cannot be
            exported.
        UnsupportedOperatorError: The program has operators that TVM's importer does not know; the
            message names all of them.
        MissingDependencyError: PyTorch is not installed.
    """
    from tvm_costmodel.frontends.relax.bind_shapes import bind_shapes

    program, label = _exported(model, example_inputs)
    _check_inference(program, label)
    _check_has_weights(program, label)
    return bind_shapes(_imported(program, label), shapes, label)


def load_exported(path: str | os.PathLike[str]) -> ExportedProgram:
    """Reads a ``.pt2`` file; pickled objects in it are refused, since loading them runs code.

    Args:
        path: File that ``torch.export.save`` wrote.

    Raises:
        ModelFileError: The file is missing, truncated, no exported program, or holds pickled
            objects other than tensors.
        MissingDependencyError: PyTorch is not installed.
    """
    torch = _import_torch()
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, str(path))
    except CostModelError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise ModelFileError(
            f"{path}: not a .pt2 archive, or truncated or damaged ({_first(error)}); save it again "
            "with torch.export.save"
        ) from error
    with _quiet():
        try:
            return torch.export.load(path)
        except Exception as error:
            raise ModelFileError(
                f"{path}: torch {torch.__version__} cannot read this program: {_first(error)}; "
                "save it again with torch.export.save of this version"
            ) from error


def _import_torch() -> Any:
    try:
        import torch
        import torch.export
    except ImportError as error:
        raise MissingDependencyError(
            f"reading PyTorch programs needs torch ({error}): pip install torch"
        ) from error
    return torch


def _exported(
    model: TorchSource, example_inputs: tuple[Any, ...] | None
) -> tuple[ExportedProgram, str]:
    """The program and its label in messages."""
    if isinstance(model, (str, os.PathLike)):
        return load_exported(model), os.fspath(model)
    torch = _import_torch()
    if isinstance(model, torch.export.ExportedProgram):
        return model, "exported program"
    if not isinstance(model, torch.nn.Module):
        raise ModelFileError(
            f"{type(model).__name__} is no PyTorch model; accepted: an ExportedProgram, the path "
            "of a .pt2 file, or an nn.Module with example_inputs"
        )
    label = type(model).__name__
    if example_inputs is None:
        raise ModelFileError(
            f"{label}: a module needs the arguments of its forward: pass example_inputs=(x,)"
        )
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with _quiet():
            return torch.export.export(model, tuple(example_inputs)), label
    except Exception as error:
        raise ModelFileError(
            f"{label}: torch.export cannot trace it: {_first(error)}; see what "
            "torch.export.draft_export(model, example_inputs) reports"
        ) from error
    finally:
        for module in training:
            module.training = True


def _check_archive(archive: zipfile.ZipFile, label: str) -> None:
    """Raises ModelFileError unless this is an exported program made of tensors and JSON alone."""
    names = archive.namelist()
    current = any(name.endswith("models/model.json") for name in names)
    if not current and "serialized_exported_program.json" not in names:
        raise ModelFileError(
            f"{label}: a zip archive, but no exported program (a state dict or TorchScript file is "
            "none); save the model with torch.export.save(torch.export.export(model, args), path)"
        )
    pickled = [name for name in names if name.endswith(".pt")]
    for name in names:
        if re.search(r"data/(weights|constants)/[^/]*_config\.json$", name):
            folder = name.rpartition("/")[0]
            entries = json.loads(archive.read(name)).get("config", {})
            pickled += [
                f"{folder}/{entry['path_name']}"
                for entry in entries.values()
                if entry.get("use_pickle") or "tensor_meta" not in entry
            ]
    torch = _import_torch()
    for name in pickled:
        try:
            content = archive.read(name)
            if content:
                torch.load(io.BytesIO(content), weights_only=True)
        except Exception as error:
            raise ModelFileError(
                f"{label}: {name} holds pickled Python objects, which run code when they are read; "
                "export the model again with tensors alone as weights and example inputs"
            ) from error


def _check_inference(program: ExportedProgram, label: str) -> None:
    for node in program.graph.nodes:
        position = _TRAINING_ARGUMENT.get(str(node.target))
        if position is not None and len(node.args) > position and node.args[position] is True:
            raise ModelFileError(
                f"{label}: exported in training mode ({node.name} computes batch statistics); "
                "call model.eval() before torch.export.export"
            )


def _check_has_weights(program: ExportedProgram, label: str) -> None:
    tensors = {**program.state_dict, **program.constants}
    empty = [name for name, value in tensors.items() if getattr(value, "is_meta", False)]
    if empty:
        raise ModelFileError(
            f"{label}: {len(empty)} weights are on the meta device and have no values "
            f"({empty[0]}, ...); call model.to_empty(device='cpu') before torch.export.export"
        )


def _imported(program: ExportedProgram, label: str) -> IRModule:
    from tvm.relax.frontend.torch import from_exported_program

    from tvm_costmodel.frontends.relax.negative_indices import wrap_negative_indices

    with _quiet():
        try:
            mod = from_exported_program(program, unwrap_unit_return_tuple=True)
        except Exception as error:
            unsupported = re.search(r"Unsupported function types \[(.*)\]", str(error))
            if unsupported:
                names = sorted(set(re.findall(r"'([^']+)'", unsupported[1])))
                raise UnsupportedOperatorError(
                    f"{label}: TVM's torch importer has no {', '.join(names)}; rewrite the model "
                    "without them, or register a decomposition before torch.export.export"
                ) from error
            raise ModelFileError(
                f"{label}: TVM cannot import this program: {_first(error)}; "
                "run with --debug for the trace"
            ) from error
    return wrap_negative_indices(mod)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps torch's and TVM's deprecation warnings and prints away from the user's streams."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
