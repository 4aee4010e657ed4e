"""PyTorch programs (torch.export) imported into Relax with their weights as constants.

The only front end that imports torch, and only when it is called.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from tvm_costmodel.errors import (
    MissingDependencyError,
    ModelFileError,
    UnsupportedOperatorError,
)
from tvm_costmodel.frontends.exported_program import check_ranges, without_empty_outputs
from tvm_costmodel.frontends.pt2_archive import clean_archive
from tvm_costmodel.isolation import ChildFailure, Limits, in_program

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
    if isinstance(model, (str, os.PathLike)):
        return read_pt2(model, shapes)[0]
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
    if isinstance(model, (str, os.PathLike)):
        return read_pt2(model, shapes)[1]()
    program, label = _exported(model, example_inputs)
    return _to_relax(program, label, shapes)


def _to_relax(program: ExportedProgram, label: str, shapes: Shapes | None) -> IRModule:
    from tvm_costmodel.frontends.relax.bind_shapes import bind_shapes

    _check_inference(program, label)
    _check_has_weights(program, label)
    check_ranges(program, shapes, label)
    return bind_shapes(_imported(program, label), shapes, label)


def read_pt2(
    path: str | os.PathLike[str], shapes: Shapes | None = None
) -> tuple[OpGraph, Callable[[], IRModule]]:
    """Reads a ``.pt2`` file in a process of its own.

    Args:
        path: File that ``torch.export.save`` wrote.
        shapes: Input name -> shape, for inputs that were exported with dynamic dimensions.

    Returns:
        The graph, and a function that reads the module.

    Raises:
        ModelFileError: See `torch_to_relax`; or torch crashes on the file.
        UnsupportedOperatorError: See `torch_to_relax`.
        MissingDependencyError: PyTorch is not installed.
    """
    from tvm_costmodel.frontends.relax.module_files import read_relax_json
    from tvm_costmodel.graph.op_graph import OpGraph

    label = os.fspath(path)
    require_torch()
    clean_archive(_existing(path))  # refuses here, in no time
    request: dict[str, Any] = {
        "path": os.path.abspath(path),
        "label": label,
        "shapes": {name: list(shape) for name, shape in (shapes or {}).items()} or None,
    }

    def ask(module: bool) -> tuple[str, str]:
        size = os.path.getsize(path)
        limits = Limits(8 * 2**30 + 40 * size, 300.0 + size / 1e6)
        try:
            content = in_program(
                "tvm_costmodel.frontends.pt2_program", request | {"module": module}, limits
            )
        except ChildFailure as error:
            raise ModelFileError(
                f"{label}: torch cannot read this program: {error}; save it again with "
                "torch.export.save of the installed version"
            ) from None
        graph, _, text = content.decode().partition("\n")
        return graph, text

    def load() -> IRModule:
        return read_relax_json(ask(True)[1], label, None)[1]()

    return OpGraph.from_json(ask(False)[0]), load


def relax_of_file(path: str, label: str, shapes: Shapes | None) -> IRModule:
    """Reads a ``.pt2`` file in this process; errors as `torch_to_relax`.

    Args:
        path: The file.
        label: Its name in messages.
        shapes: As for `read_pt2`.
    """
    return _to_relax(load_exported(path), label, shapes)


def load_exported(path: str | os.PathLike[str]) -> ExportedProgram:
    """Reads a ``.pt2`` file, cleaned of everything that runs code when it is read.

    Args:
        path: File that ``torch.export.save`` wrote.

    Raises:
        ModelFileError: The file is missing, truncated, no exported program, or holds what a
            program of tensors does not need (see `tvm_costmodel.frontends.pt2_archive`).
        MissingDependencyError: PyTorch is not installed.
    """
    torch = _import_torch()
    content = clean_archive(_existing(path))
    with _quiet():
        try:
            program: ExportedProgram = torch.export.load(io.BytesIO(content))
        except Exception as error:
            raise ModelFileError(
                f"{path}: torch {torch.__version__} cannot read this program: {_first(error)}; "
                "save it again with torch.export.save of this version"
            ) from error
    return program


def require_torch() -> None:
    """Refuses to go on where PyTorch is missing, without importing it.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("reading PyTorch programs needs torch: pip install torch")


def _existing(path: str | os.PathLike[str]) -> Path:
    if not Path(path).is_file():
        raise ModelFileError(f"{path}: there is no such file; check the path")
    return Path(path)


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
    from tvm_costmodel.frontends.relax.negative_indices import wrap_negative_indices
    from tvm_costmodel.frontends.torch_importer import Importer

    with _quiet():
        try:
            mod = Importer.convert(without_empty_outputs(program))
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(f"{label}: {error}") from error
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
