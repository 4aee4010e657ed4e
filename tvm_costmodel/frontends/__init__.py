"""Front ends: a folder for each source of operator graphs, and `load_model` for files of any kind.

Names load when they are first used, so that importing this package needs neither TVM nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_costmodel.frontends.model_files import (
        LoadedModel,
        from_json,
        load_model,
        load_module,
    )
    from tvm_costmodel.frontends.onnx import from_onnx, load_onnx, onnx_to_relax
    from tvm_costmodel.frontends.relax import ExportGraph, from_relax
    from tvm_costmodel.frontends.relay import from_relay, load_relay_model, onnx_to_relay
    from tvm_costmodel.frontends.torch_export import from_torch, torch_to_relax

_MODULES = {
    "ExportGraph": "relax",
    "LoadedModel": "model_files",
    "from_json": "model_files",
    "from_onnx": "onnx",
    "from_relax": "relax",
    "from_relay": "relay",
    "from_torch": "torch_export",
    "load_model": "model_files",
    "load_module": "model_files",
    "load_onnx": "onnx",
    "load_relay_model": "relay",
    "onnx_to_relax": "onnx",
    "onnx_to_relay": "relay",
    "torch_to_relax": "torch_export",
}

__all__ = [
    "ExportGraph",
    "LoadedModel",
    "from_json",
    "from_onnx",
    "from_relax",
    "from_relay",
    "from_torch",
    "load_model",
    "load_module",
    "load_onnx",
    "load_relay_model",
    "onnx_to_relax",
    "onnx_to_relay",
    "torch_to_relax",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
