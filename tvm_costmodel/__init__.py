"""A learned Transformer cost model for graph-level decisions in Apache TVM.

    import tvm_costmodel as tcm

    graph = tcm.from_onnx("resnet50.onnx")
    estimate = tcm.load_predictor().predict(graph)
    print(estimate.latency_s, estimate.low_s, estimate.high_s)

Names load when they are first used, so that importing the package needs neither TVM nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tvm_costmodel.errors import CostModelError
    from tvm_costmodel.frontends.model_files import from_json, load_model
    from tvm_costmodel.frontends.onnx import from_onnx
    from tvm_costmodel.frontends.relax import ExportGraph, from_relax
    from tvm_costmodel.frontends.relay import from_relay
    from tvm_costmodel.frontends.torch_export import from_torch
    from tvm_costmodel.graph import Operator, OpGraph, TensorType
    from tvm_costmodel.predictors.loading import Estimate, Predictor, load_predictor
    from tvm_costmodel.tuning.relax_pipeline import relax_pipeline
    from tvm_costmodel.tuning.result import TuneResult
    from tvm_costmodel.tuning.tune import tune

from tvm_costmodel import _moved

__version__ = "0.1.0"

_moved.install()

_MODULES = {
    "CostModelError": "errors",
    "OpGraph": "graph",
    "Operator": "graph",
    "TensorType": "graph",
    "from_json": "frontends.model_files",
    "from_relax": "frontends.relax",
    "from_relay": "frontends.relay",
    "from_onnx": "frontends.onnx",
    "from_torch": "frontends.torch_export",
    "load_model": "frontends.model_files",
    "ExportGraph": "frontends.relax",
    "Estimate": "predictors.loading",
    "Predictor": "predictors.loading",
    "load_predictor": "predictors.loading",
    "TuneResult": "tuning.result",
    "relax_pipeline": "tuning.relax_pipeline",
    "tune": "tuning.tune",
}

__all__ = [
    "CostModelError",
    "Estimate",
    "ExportGraph",
    "OpGraph",
    "Operator",
    "Predictor",
    "TensorType",
    "TuneResult",
    "__version__",
    "from_json",
    "from_onnx",
    "from_relax",
    "from_relay",
    "from_torch",
    "load_model",
    "load_predictor",
    "relax_pipeline",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
