"""ONNX models as OpGraphs and as Relax modules."""

from __future__ import annotations

from tvm_costmodel.frontends.onnx.reader import from_onnx, load_onnx, onnx_to_relax, read_onnx

__all__ = ["from_onnx", "load_onnx", "onnx_to_relax", "read_onnx"]
