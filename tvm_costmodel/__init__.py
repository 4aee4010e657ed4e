"""A learned Transformer cost model for graph-level decisions in Apache TVM.

    import tvm_costmodel as tcm

    graph = tcm.from_onnx("resnet50.onnx")
    estimate = tcm.load_predictor().predict(graph)
    print(estimate.latency_s, estimate.low_s, estimate.high_s)

Names load when they are first used, so that importing the package needs neither TVM nor torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "CostModelError": "errors",
    "OpGraph": "graph",
    "Operator": "graph",
    "TensorType": "graph",
    "from_json": "frontends",
    "from_relax": "frontends.relax",
    "from_relay": "frontends.relay",
    "from_onnx": "frontends.onnx",
    "from_torch": "frontends.torch",
    "load_model": "frontends",
    "ExportGraph": "frontends.relax",
    "Estimate": "predictor",
    "Predictor": "predictor",
    "load_predictor": "predictor",
    "TuneResult": "tuning.result",
    "relax_pipeline": "tuning.compile_pass",
    "tune": "tuning.tune",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
