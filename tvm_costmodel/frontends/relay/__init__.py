"""Relay functions as OpGraphs, and model files as Relay modules."""

from __future__ import annotations

from tvm_costmodel.frontends.relay.export import ExportGraph, from_relay
from tvm_costmodel.frontends.relay.model_files import load_relay_model, onnx_to_relay

__all__ = ["ExportGraph", "from_relay", "load_relay_model", "onnx_to_relay"]
