"""Which rewrites an ONNX model went through on its way to a module.

A rewrite has a version of its own under its name in `tvm_costmodel.compilers.components`
(``importer/...``). Cleaning notes those that changed the model in its metadata, and the importer
hands them on as an attribute of the module, which neither its graph nor its kernels depend on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    from tvm import IRModule

IMPORTER = "importer/onnx"
"""What every imported model went through."""

_KEY = "tvm_costmodel.rewrites"


def component_of(operator: str) -> str:
    """The component of the rewrites of an ONNX operator."""
    return f"importer/{operator.lower()}"


def note_rewrite(model: onnx.ModelProto, name: str) -> None:
    """Notes in a model that a rewrite, ``importer/...``, has changed it.

    Args:
        model: Changed in place.
        name: The rewrite's component.
    """
    names = {*noted_rewrites(model), name}
    kept = [entry for entry in model.metadata_props if entry.key != _KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=_KEY, value=",".join(sorted(names)))


def noted_rewrites(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the rewrites that were noted in a model."""
    values = [entry.value for entry in model.metadata_props if entry.key == _KEY]
    return tuple(name for value in values for name in value.split(",") if name)


def mark_imported(module: IRModule, model: onnx.ModelProto) -> IRModule:
    """The module that was imported from a model, with the names of its rewrites."""
    return module.with_attr(_KEY, sorted({IMPORTER, *noted_rewrites(model)}))


def rewrites_of(module: IRModule) -> tuple[str, ...]:
    """Names of the rewrites that a module's model went through; empty for other modules."""
    return tuple(str(name) for name in (module.attrs or {}).get(_KEY, ()))


def without_rewrites(module: IRModule) -> IRModule:
    """A module that is a source by itself: importing its model anew would not change it."""
    return module.without_attr(_KEY) if rewrites_of(module) else module
