"""OpGraph: one network as operators, types and directed edges."""

from __future__ import annotations

from tvm_costmodel.graph.op_graph import OpGraph
from tvm_costmodel.graph.types import AttrValue, Edge, Operator, TensorType

__all__ = ["AttrValue", "Edge", "OpGraph", "Operator", "TensorType"]
