"""Fixing symbolic dimensions of a Relax module's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tvm_costmodel.errors import ModelFileError

if TYPE_CHECKING:
    from tvm import IRModule


def bind_shapes(
    mod: IRModule, shapes: Mapping[str, Sequence[int]] | None, label: str, func: str = "main"
) -> IRModule:
    """Returns the module with the symbolic dimensions of its inputs set.

    Args:
        mod: The module, left unchanged.
        shapes: Input name -> shape.
        label: The model's name in messages.
        func: Name of the function.

    Raises:
        ModelFileError: A name is no input, a shape does not fit, two shapes give one symbol
            different values, or an input stays dynamic.
    """
    from tvm import relax

    shapes = shapes or {}
    params = {str(param.name): param for param in mod[func].params}
    unknown = sorted(set(shapes) - set(params))
    if unknown:
        raise ModelFileError(
            f"{label}: no input is called {', '.join(unknown)}; its inputs are "
            f"{', '.join(params) or '(none)'}"
        )
    values: dict[Any, int] = {}
    for name, shape in shapes.items():
        _match(params[name], tuple(shape), values, label)
    if values:
        mod = relax.transform.BindSymbolicVars(values, func)(mod)
    _check_static(mod[func], label)
    return mod


def _extents(param: Any) -> list[Any] | None:
    """Extents of a tensor parameter, or None where even their number is open."""
    shape = getattr(param.ty, "shape", None)
    values = getattr(shape, "values", shape)
    return None if values is None else list(values)


def _is_tensor(param: Any) -> bool:
    from tvm import relax

    return isinstance(param.ty, relax.TensorType)


def _match(param: Any, shape: tuple[int, ...], values: dict[Any, int], label: str) -> None:
    from tvm import tirx

    argument = f"--shape {param.name}={','.join(map(str, shape))}"
    if any(not isinstance(extent, int) or extent < 1 for extent in shape):
        raise ModelFileError(f"{label}: {argument} must hold positive integers")
    extents = _extents(param)
    fits = extents is not None and len(extents) == len(shape)
    for extent, value in zip(extents or [], shape, strict=False):
        if isinstance(extent, tirx.IntImm):
            fits = fits and int(extent) == value
        elif values.setdefault(extent, value) != value:
            fits = False
    if not fits:
        raise ModelFileError(
            f"{label}: {argument} does not fit the model's {_written(param)}; only its dynamic "
            "dimensions can be set, one value for each name"
        )


def _written(param: Any) -> str:
    extents = _extents(param)
    if extents is None:
        return f"{param.name} [unknown rank]"
    from tvm import tirx

    names = [str(int(e)) if isinstance(e, tirx.IntImm) else str(e) for e in extents]
    return f"{param.name} [{', '.join(names)}]"


def _check_static(function: Any, label: str) -> None:
    from tvm import tirx

    dynamic = []
    for param in function.params:
        extents = _extents(param) if _is_tensor(param) else []
        if extents is None or not all(isinstance(extent, tirx.IntImm) for extent in extents):
            dynamic.append(param)
    if dynamic:
        remedy = " ".join(f"--shape {param.name}={_suggestion(param)}" for param in dynamic)
        raise ModelFileError(
            f"{label}: input has dynamic dimensions: {'; '.join(map(_written, dynamic))}; "
            f"fix it: {remedy}"
        )


def _suggestion(param: Any) -> str:
    from tvm import tirx

    extents = _extents(param)
    if extents is None:
        return "1,3,224,224"
    other = 224 if len(extents) == 4 else 128
    filled = [
        int(extent) if isinstance(extent, tirx.IntImm) else (1 if i == 0 else other)
        for i, extent in enumerate(extents)
    ]
    return ",".join(map(str, filled))
